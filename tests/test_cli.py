"""The command line: its options are pinned, and every user's error is one line on stderr and exit status 2."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import RESULT_KEYS
from recordings import record
from transformers.utils import logging

from telme.cli import main
from telme.corpora import Corpus
from telme.prepare import prepare
from telme.recipes import Recipe
from telme.recognizer import Recognizer
from telme.run import Run
from telme.store import MANIFEST, Store
from telme.transcripts import read

BACKBONES = ("--text-backbone", "--audio-backbone", "--visual-backbone")
OPTIONS = {
    "demo": {"--out"},
    "check": {"CORPUS", "ROOT", "--json"},
    "synth": {"OUT", "--corpus", "--dialogues", "--seed", "--defects"},
    "prepare": {"CORPUS", "ROOT", "--out"},
    "train": {"PRESET", "--store", "--out", "--stage", "--seed", *BACKBONES},
    "evaluate": {"MODEL", "--store", "--split", "--json", "--as-released"},
    "predict": {"MODEL", "FILE", "--format", "--media"},
    "import-released": {"DIR", "--out", *BACKBONES},
}
HEADER = ["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "Season", "Episode", "StartTime", "EndTime"]
CONVERSATION = {
    "id": "office",
    "utterances": [
        {"speaker": "Ann", "text": "what a lovely day"},
        {"speaker": "Bob", "text": "I hate waiting", "start": 1.5, "end": 2.25, "label": "cross"},
    ],
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line on stderr of a user's error."""
        assert self.status == 2
        assert self.out == ""
        assert re.fullmatch(r"telme: [^\n]+\n", self.err), self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("telme: ").rstrip("\n")


Telme = Callable[..., Ended]


@pytest.fixture
def telme(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Telme]:
    """Runs a command in this process, and looks at what it printed."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, printed.out, printed.err)

    return run  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """As `main` asks for by the environment, which is too late here, where transformers is imported already."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the commands run."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def office(tmp_path: Path) -> Path:
    path = tmp_path / "office.json"
    path.write_text(json.dumps(CONVERSATION), encoding="utf-8")
    return path


@pytest.fixture
def meld(tmp_path: Path) -> Path:
    """A folder in MELD's layout: two utterances in each split."""
    for number, split in enumerate(("train", "dev", "test")):
        with (tmp_path / f"{split}_sent_emo.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *(meld_row(turn, number) for turn in range(2))])
    return tmp_path


def meld_row(turn: int, dialogue: int) -> list[str]:
    times = [f"00:00:{10 * dialogue + 3 * turn + second:02},000" for second in (0, 2)]
    text = f"It is number {dialogue}, said {turn} times"
    return [text, "Monica", ("joy", "anger")[turn % 2], str(dialogue), str(turn), "1", "2", *times]


def add_row(path: Path, row: list[str]) -> None:
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(row)


def exchange(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize("command", OPTIONS)
def test_the_options_of_a_command_are_pinned(telme: Telme, command: str) -> None:
    ended = telme(command, "--help")
    assert (ended.status, ended.err) == (0, "")
    shown = re.findall(r"^[│\s]*(--[a-z][a-z-]*|[A-Z]{3,}(?=  ))", ended.out, flags=re.MULTILINE)
    assert sorted(shown) == sorted(OPTIONS[command])


def test_the_commands_are_pinned(telme: Telme) -> None:
    ended = telme("--help")
    assert ended.status == 0
    assert "{demo,check,synth,prepare,train,evaluate,predict,import-released}" in ended.out


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["predict", "mini"]])
def test_help_and_mistyped_commands_do_not_wait_for_pytorch(arguments: list[str]) -> None:
    script = f"""
import atexit, sys
from telme.cli import main
atexit.register(lambda: print("LOADED", *{{name.partition(".")[0] for name in sys.modules}}))
main({arguments!r})
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout
    loaded = set(printed.split("LOADED")[1].split())
    assert "telme" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "datasets", "matplotlib", "pyarrow"})


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "ascii"])
def test_arguments_that_do_not_fit_are_told_whatever_the_terminal(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", "from telme.cli import main; main(['check', 'friends', 'there'])"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 2
    assert ended.stderr.startswith("telme: invalid choice 'friends'")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", ["demo, check, synth, prepare, train, evaluate, predict, import-released"]),
        ("sing", ["sing", "demo, check, synth, prepare, train, evaluate, predict, import-released"]),
        ("check meld", ["ROOT"]),
        ("check friends there", ["'friends'", "'meld'"]),
        ("prepare meld there", ["--out"]),
        ("train", ["PRESET", "--store", "--out"]),
        ("train tiny --out run", ["--store"]),
        ("train tiny --store s --out r --seed one", ["--seed", "'one'"]),
        ("train tiny --store s --out r --stage dream", ["'dream'", "'teach'"]),
        ("train tiny --store s --out r --epochs 3", ["--epochs"]),
        ("predict mini", ["FILE"]),
        ("predict mini a.json --format xml", ["'xml'", "'json', 'csv'"]),
        ("predict mini a.json b.json", ["b.json"]),
        ("evaluate mini --split", ["--split"]),
    ],
)
def test_arguments_that_do_not_fit(telme: Telme, here: Path, arguments: str, named: list[str]) -> None:
    refusal = telme(*arguments.split()).refusal
    for name in named:
        assert name in refusal
    assert "telme --help" in refusal
    assert list(here.iterdir()) == []


def test_predict_json(telme: Telme, run: Run, office: Path) -> None:
    ended = telme("predict", run.model, office, "--format", "json")
    assert (ended.status, ended.err) == (0, "")
    (conversation,) = flat(json.loads(ended.out))
    assert conversation["id"] == "office"
    first, second = conversation["utterances"]
    assert (first["speaker"], first["text"]) == ("Ann", "what a lovely day")
    assert (second["start"], second["end"], second["annotated"]) == (1.5, 2.25, "cross")
    predictions = Recognizer.from_pretrained(run.model)(read(office)[0])
    for written, prediction in zip(conversation["utterances"], predictions, strict=True):
        assert written["label"] == prediction.label
        assert written["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)
        assert written["modalities"] == ["text"]


def flat(document: Any) -> list[Any]:
    """The conversations of a predictions document, whether it holds one or several."""
    return document if isinstance(document, list) else [document]


def test_predict_csv(telme: Telme, run: Run, office: Path) -> None:
    ended = telme("predict", run.model, office, "--format", "csv")
    assert (ended.status, ended.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    predictions = Recognizer.from_pretrained(run.model)(read(office)[0])
    assert [(row["speaker"], row["text"], row["label"]) for row in rows] == [
        (p.utterance.speaker, p.utterance.text, p.label) for p in predictions
    ]


@pytest.mark.parametrize(
    "text",
    [
        "speaker,text\nAnn,what a lovely day\nBob,I hate waiting\n",
        json.dumps(CONVERSATION),
        json.dumps([CONVERSATION], indent=2),
    ],
    ids=["csv", "json", "array"],
)
@pytest.mark.parametrize("form", ["json", "csv"])
def test_predict_standard_input(
    telme: Telme, run: Run, office: Path, monkeypatch: pytest.MonkeyPatch, text: str, form: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
    ended = telme("predict", run.model, "-", "--format", form)
    assert (ended.status, ended.err) == (0, "")
    labels = [p.label for p in Recognizer.from_pretrained(run.model)(read(office)[0])]
    if form == "csv":
        assert [row["label"] for row in csv.DictReader(io.StringIO(ended.out))] == labels
    else:
        (conversation,) = flat(json.loads(ended.out))
        assert [utterance["label"] for utterance in conversation["utterances"]] == labels


def test_predict_is_json_away_from_a_terminal_and_a_table_on_one(
    telme: Telme, run: Run, office: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert telme("predict", run.model, office).out == telme("predict", run.model, office, "--format", "json").out
    table = telme("predict", run.model, office, "--format", "table").out
    assert "Ann" in table
    assert "lovely" in table
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    on_a_terminal = telme("predict", run.model, office).out
    assert re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal) == table


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A second of a voice without a face."""
    return record(tmp_path / "recording.m4a", seconds=1.0, colours=None)


def test_predict_with_media(telme: Telme, media_run: Run, recording: Path, here: Path) -> None:
    turns = [
        {"speaker": "Ann", "text": "what a lovely day", "start": 0.1, "end": 0.5},
        {"speaker": "Bob", "text": "I hate waiting"},
        {"speaker": "Cy", "text": "", "media": "recording.m4a"},
    ]
    document = here / "talk.json"
    document.write_text(json.dumps({"id": "talk", "utterances": turns}), encoding="utf-8")
    shutil.copy(recording, here)
    ended = telme("predict", media_run.model, document, "--media", recording, "--format", "json")
    assert ended.status == 0
    assert ended.err == "telme: utterance 1, Ann: no-video\ntelme: utterance 3, Cy: no-video\n"
    ann, bob, cy = flat(json.loads(ended.out))[0]["utterances"]
    assert [turn["modalities"] for turn in (ann, bob, cy)] == [["text", "audio"], ["text"], ["audio"]]
    assert 0 < ann["shift"] < 0.2
    assert bob["text_only"] == bob["probabilities"] != ann["text_only"]
    assert "text_only" not in cy or cy["text_only"] == {}
    table = telme("predict", media_run.model, document, "--media", recording, "--format", "csv").out
    assert [row["modalities"] for row in csv.DictReader(io.StringIO(table))] == ["text+audio", "text", "audio"]


def test_predict_refuses_media_that_are_not_there(telme: Telme, media_run: Run, office: Path) -> None:
    refusal = telme("predict", media_run.model, office, "--media", "gone.mp4").refusal
    assert refusal.startswith("gone.mp4: no such file; the conversation names it as its media")


def test_stages_one_by_one(telme: Telme, media_recipe: Recipe, media_store: Store, here: Path) -> None:
    (here / "mine.json").write_text(media_recipe.to_json(), encoding="utf-8")
    ended = telme("train", "mine.json", "--store", media_store.path, "--out", "run", "--stage", "teach")
    assert ended.status == 0
    assert ended.err.endswith("telme: stage teach is done; the other stages are left\n")
    assert not (here / "run" / "results.json").exists()


def test_check_and_prepare(telme: Telme, meld: Path, here: Path) -> None:
    checked = telme("check", "meld", meld, "--json", "findings.json")
    assert checked.status == 0
    findings = json.loads((here / "findings.json").read_bytes())
    assert {finding["check"] for finding in findings} >= {"wrong-count"}
    assert all({"utterance", "check", "severity", "evidence", "action"} <= set(finding) for finding in findings)

    prepared = telme("prepare", "meld", meld, "--out", "store")
    store = Store(here / "store")
    assert prepared.status == 0
    assert store.name in prepared.err
    assert "train: 1 conversations, 2 utterances" in prepared.err
    assert store.conversations("dev")[0].utterances[1].label == "anger"


def test_a_repeated_id_is_kept(telme: Telme, meld: Path, here: Path) -> None:
    add_row(meld / "dev_sent_emo.csv", meld_row(0, 1))
    assert telme("check", "meld", meld, "--json", "findings.json").status == 0
    (repeated,) = [f for f in json.loads((here / "findings.json").read_bytes()) if f["check"] == "duplicate-id"]
    assert repeated["utterance"] == "dev/dia1_utt0"
    assert telme("prepare", "meld", meld, "--out", "store").status == 0
    assert sum(map(len, Store(here / "store").conversations("dev"))) == 3


def test_evaluate_writes_the_contract(telme: Telme, run: Run, store: Store, here: Path) -> None:
    ended = telme("evaluate", run.model, "--store", store.path, "--json", "out.json")
    assert ended.status == 0
    results = json.loads((here / "out.json").read_bytes())
    assert tuple(results)[: len(RESULT_KEYS)] == RESULT_KEYS
    (recorded,) = [record for record in run.results["results"] if record["split"] == "test"]
    assert results == recorded | {"model": str(run.model)}
    assert f"{100 * results['weighted_f1']:.2f}" in ended.out
    assert all(label in ended.out for label in results["per_class"])
    assert list(here.glob("*.svg")) != []


def test_evaluate_another_split(telme: Telme, run: Run, store: Store, here: Path) -> None:
    assert telme("evaluate", run.model, "--store", store.path, "--split", "dev", "--json", "out.json").status == 0
    assert json.loads((here / "out.json").read_bytes())["split"] == "dev"
    assert "no split 'valid'" in telme("evaluate", run.model, "--store", store.path, "--split", "valid").refusal


def test_train_does_not_repeat_a_finished_run(telme: Telme, run: Run, store: Store) -> None:
    ended = telme("train", run.path / "recipe.json", "--store", store.path, "--out", run.path)
    assert ended.status == 0
    assert "padding efficiency" in ended.err
    efficiency = run.results["stages"]["text"]["padding_efficiency"]
    assert f"{efficiency:.3f}" in ended.err
    seeded = telme("train", run.path / "recipe.json", "--store", store.path, "--out", run.path, "--seed", 8)
    assert "another recipe or seed" in seeded.refusal


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "a.json holds no conversation"),
        ("a.csv", b"", "a.csv holds no conversation"),
        ("a.jsonl", b" \n", "a.jsonl holds no conversation"),
        ("a.csv", b"who,text\nAnn,hello\n", "a.csv:1: no column 'speaker'; the columns are who, text"),
        ("a.csv", b"speaker,text\nAnn,caf\xe9\n", "a.csv:2: byte 0xe9 is not valid UTF-8"),
        ("a.json", b'\xff\xfe{"id"', "a.json:1: byte 0xff is not valid UTF-8"),
        ("a.csv", b"speaker,text\nAnn,hi\nBob," + b"word " * 10_000, "a.csv:3: text has 49,999 characters"),
        (
            "a.json",
            json.dumps({"id": "a", "utterances": [{"speaker": "Ann", "text": "word " * 10_000}]}).encode(),
            "text has 50,000 characters",
        ),
        ("a.json", b'{"id": "a", "utterances": [{"speaker": "Ann", "text": ""}]}', "text is ''"),
        ("a.csv", b"speaker,text\nAnn,\n", "a.csv:2: text is ''"),
        ("a.json", b'{"id": "a", "utterances": []}', "no utterances"),
        ("a.json", b'{"id": "a", "utterances": [{"speaker": "", "text": "hi"}]}', "speaker is ''"),
        ("a.json", b'{"id": "a", "utterances": [{"speaker": "Ann", "txt": "hi"}]}', "unknown key 'utterances[0].txt'"),
        ("a.json", b'{"id": "a", ', "not valid JSON"),
        ("a.json", b'{"id": "a", "utterances": [{"speaker": "Ann", "text": "\\ud800"}]}', "a.json"),
        ("a.json", b'{"id":"a","utterances":[{"speaker":"Ann","text":"","media":"a.wav"}]}', "reads text only"),
        ("a.mp4", b"\x00\x00", "'.mp4' is not a transcript format"),
    ],
)
def test_predict_refuses_bad_files(telme: Telme, run: Run, here: Path, name: str, content: bytes, message: str) -> None:
    (here / name).write_bytes(content)
    assert message in telme("predict", run.model, name).refusal
    assert [path.name for path in here.iterdir()] == [name]


def test_predict_refuses_a_file_that_is_not_there(telme: Telme, run: Run, here: Path) -> None:
    assert telme("predict", run.model, "none.json").refusal.startswith("none.json cannot be read: No such file")
    assert telme("predict", run.model, here).refusal.startswith(f"{here} cannot be read: Is a directory")


@pytest.mark.parametrize("model", ["nowhere", "runs/a/model", "./mini"])
def test_a_model_that_does_not_exist(telme: Telme, here: Path, office: Path, store: Store, model: str) -> None:
    assert f"no model '{model}'; name a folder, a bundled model" in telme("predict", model, office).refusal
    evaluate = telme("evaluate", model, "--store", store.path, "--json", "out.json")
    assert f"no model '{model}'" in evaluate.refusal
    assert list(here.iterdir()) == []


def test_the_runs_folder_is_not_its_model(telme: Telme, run: Run, office: Path) -> None:
    assert "RUN/model" in telme("predict", run.path, office).refusal


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "bert"}'),
        ("model.safetensors", b"version https://git-lfs"),
        ("model.safetensors", None),
        ("tokenizer.json", b'{"version": "1.0", "trun'),
        ("tokenizer_config.json", b'{"backend": "tok'),
        ("tokenizer.json", None),
    ],
)
def test_a_damaged_model(
    telme: Telme, run: Run, tmp_path: Path, office: Path, file: str, content: bytes | None
) -> None:
    model = tmp_path / "model"
    shutil.copytree(run.model, model)
    if content is None:
        (model / file).unlink()
    else:
        (model / file).write_bytes(content)
    assert f"model '{model}' cannot be loaded: " in telme("predict", model, office).refusal


def test_a_backbone_is_not_a_model(telme: Telme, backbone_folder: dict[str, str], office: Path) -> None:
    assert backbone_folder["bert"] in telme("predict", backbone_folder["bert"], office).refusal


def test_a_recipe_with_an_unknown_key(telme: Telme, recipe: Recipe, store: Store, here: Path) -> None:
    document = json.loads(recipe.to_json())
    document["teach"]["learning_rte"] = 1e-5
    (here / "mine.json").write_text(json.dumps(document), encoding="utf-8")
    refusal = telme("train", "mine.json", "--store", store.path, "--out", "run").refusal
    assert refusal.startswith("mine.json: unknown key 'teach.learning_rte'; valid keys here are batch_size")
    assert [path.name for path in here.iterdir()] == ["mine.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gigantic"], "no preset or file 'gigantic'; presets are meld, iemocap, meld-released, iemo"),
        (["mini"], "label 'calm' is not one of recipe 'mini': neutral, surprise"),
        (["tiny"], "no annotated utterance of 'train' has a voice; train a preset that reads the rest"),
        (["mine.json", "--text-backbone", "no/such/folder"], "text backbone 'no/such/folder'"),
        (["mine.json", "--audio-backbone", "ears"], "audio backbone 'ears': recipe 'moods' reads text"),
        (["mine.json", "--seed", "-1"], "seed"),
    ],
)
def test_train_refuses_before_it_writes(
    telme: Telme, recipe: Recipe, store: Store, here: Path, arguments: list[str], message: str
) -> None:
    (here / "mine.json").write_text(recipe.to_json(), encoding="utf-8")
    assert message in telme("train", *arguments, "--store", store.path, "--out", "run").refusal
    assert [path.name for path in here.iterdir()] == ["mine.json"]


def test_a_store_from_another_version(telme: Telme, run: Run, corpus: Corpus, here: Path) -> None:
    prepare(corpus, here / "old")
    manifest = here / "old" / MANIFEST
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"version": 2', '"version": 0'), encoding="utf-8")
    message = "store version 0, not 2; run telme prepare again"
    assert message in telme("evaluate", run.model, "--store", "old", "--json", "out.json").refusal
    assert message in telme("train", run.path / "recipe.json", "--store", "old", "--out", "new").refusal
    assert [path.name for path in here.iterdir()] == ["old"]


def test_a_store_with_labels_that_the_model_lacks(telme: Telme, run: Run, meld: Path, here: Path) -> None:
    telme("prepare", "meld", meld, "--out", "store")
    refusal = telme("evaluate", run.model, "--store", "store", "--json", "out.json").refusal
    assert "unknown label 'joy'" in refusal
    assert "calm, glad, cross" in refusal
    assert not (here / "out.json").exists()


@pytest.mark.parametrize("command", [["check"], ["prepare", "--out", "store"]])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "dev_sent_emo.csv:1: no column"),
        (lambda path: exchange(path, b"Emotion", b"Mood"), "dev_sent_emo.csv:1: no column Emotion"),
        (lambda path: exchange(path, b"joy", b"jo"), "dev_sent_emo.csv:2: unknown label 'jo'"),
        (lambda path: exchange(path, b"Monica", b"\xff"), "dev_sent_emo.csv:2: byte 0xff is not valid UTF-8"),
        (lambda path: add_row(path, ["word " * 10_000, *meld_row(7, 1)[1:]]), "dev_sent_emo.csv:4: text has 50,000"),
        (lambda path: add_row(path, ["", *meld_row(7, 1)[1:]]), "dev_sent_emo.csv:4: text is ''"),
    ],
    ids=["empty", "column", "label", "encoding", "long", "blank"],
)
def test_a_corpus_that_cannot_be_used(
    telme: Telme, meld: Path, here: Path, command: list[str], damage: Callable[[Path], object], message: str
) -> None:
    damage(meld / "dev_sent_emo.csv")
    name, *options = command
    assert message in telme(name, "meld", meld, *options).refusal
    assert list(here.iterdir()) == []


def test_a_folder_without_a_corpus(telme: Telme, here: Path) -> None:
    assert "no MELD here; the folder needs at least one of train_sent_emo.csv" in telme("check", "meld", here).refusal
    assert telme("prepare", "meld", "nowhere", "--out", "store").refusal.startswith("nowhere: no MELD here")
    assert list(here.iterdir()) == []


def test_a_place_that_cannot_be_written(telme: Telme, meld: Path, here: Path) -> None:
    (here / "file").write_text("mine", encoding="utf-8")
    assert "file" in telme("prepare", "meld", meld, "--out", "file/store").refusal
    assert "is not a store" in telme("prepare", "meld", meld, "--out", "file").refusal
    assert (here / "file").read_text(encoding="utf-8") == "mine"


def test_an_interrupt_is_not_a_traceback(telme: Telme, meld: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("telme.prepare.prepare", interrupt)
    ended = telme("prepare", "meld", meld, "--out", here / "store")
    assert ended.status == 130
    assert ended.err == "telme: interrupted; the same command goes on from here\n"
