"""The demo: what it leaves and says, that it goes on where it was killed, and that a finished one repeats nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import telme.demo
import telme.stages
from telme.cli import main
from telme.corpora.synthetic import write_synthetic
from telme.demo import demo
from telme.files import write_json
from telme.recipes import Fitting, tiny
from telme.training import fit
from telme.transcripts import read

PLANTED = [
    {"check": "wrong-count", "utterance": None},  # found: a made-up corpus is smaller than MELD
    {"check": "missing-clip", "utterance": "train/dia0_utt0"},  # not found: it was not planted here
]


class Killed(BaseException):
    pass


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of corpora that are made up; each is of a dialogue a split and without defects."""
    folders = []

    def write(root: Path, **_: Any) -> None:
        folders.append(root)
        write_synthetic(root, dialogues=3, workers=1)
        write_json(root / "planted.json", PLANTED)

    monkeypatch.setattr(telme.demo, "write_synthetic", write)
    return folders


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of what is fitted; the fourth is killed the first time."""
    titles: list[str] = []

    def counted(*rows: Any, **settings: Any) -> Any:
        titles.append(settings["title"])
        if len(titles) == 4:
            raise Killed
        return fit(*rows, **settings)

    monkeypatch.setattr(telme.stages, "fit", counted)
    return titles


def show(out: Path) -> str:
    """What the terminal shows."""
    epoch = Fitting(epochs=1, batch_size=64, learning_rate=1e-3)
    shown = io.StringIO()
    console = Console(width=160, file=shown)
    for told in demo(out, recipe=replace(tiny(), teach=epoch, distil=epoch, fuse=epoch)):
        console.print(told, markup=False, highlight=False)
    return shown.getvalue()


def content(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_a_demo_goes_on_where_it_was_killed_and_then_repeats_nothing(
    tmp_path: Path, made_up: list[Path], fitted: list[str]
) -> None:
    with pytest.raises(Killed):
        show(tmp_path)
    first = show(tmp_path)
    assert (made_up, len(fitted)) == ([tmp_path / "corpus"], 1 + 6 + 4 + 1)  # teacher, students, fusions, the killed
    before = content(tmp_path)
    assert show(tmp_path) == first
    assert len(fitted) == 12
    assert content(tmp_path) == before

    # What it leaves.
    assert {path.name for path in tmp_path.iterdir()} == {
        "corpus",
        "findings.json",
        "store",
        "ablation",
        "model",
        "results.json",
        "conversation.json",
        "predictions.json",
        "report.html",
    }
    results = json.loads(before["results.json"])
    assert [(row["variant"], row["split"], row["selected_on"]) for row in results["ablation"]] == [
        (variant, split, "dev")
        for split in ("dev", "test")
        for variant in ("concatenation", "ASF", "ASF + response", "ASF + response + feature")
    ]

    # The conversation: of the test split, with clips that lie where its file says.
    raw = json.loads(before["conversation.json"])
    assert raw["id"] == "test/dia0"
    assert all(turn["media"].startswith("corpus/") and "start" not in turn for turn in raw["utterances"])
    (conversation,) = read(tmp_path / "conversation.json")
    assert all(Path(str(turn.media)).is_file() for turn in conversation)
    predictions = json.loads(before["predictions.json"])["utterances"]
    assert [turn["text"] for turn in predictions] == [turn.text for turn in conversation]
    assert {tuple(turn["modalities"]) for turn in predictions} == {("text", "audio", "visual")}
    assert all(0 < turn["shift"] <= tiny().fusion.theta + 1e-6 for turn in predictions)

    # What it says, on the terminal and on the page.
    page = before["report.html"].decode()
    for text in (first, page):
        assert "of 2 planted defects, 1 was missed" in " ".join(text.split())
        for told in ("wrong-count", "with a face", "ASF + response + feature", "text + audio + visual"):
            assert told in text


def test_the_command_prints_what_the_demo_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def told(out: Path) -> Iterator[str]:
        yield f"in {out.name}"
        yield "as it is: [bold]"

    monkeypatch.setattr(telme.demo, "demo", told)
    with pytest.raises(SystemExit) as end:
        main(["demo", "--out", str(tmp_path / "here")])
    assert end.value.code == 0
    assert capsys.readouterr().out == "in here\nas it is: [bold]\n"
