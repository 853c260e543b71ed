"""The doctor on made-up corpora: it finds every planted defect and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from telme.cli import parse
from telme.corpora.synthetic import write_synthetic

Name = Literal["meld", "iemocap"]


class Found(NamedTuple):
    """What tells findings apart: evidence and action are words, and the corpus may lie anywhere."""

    check: str
    severity: str
    utterance: str | None
    file: str | None


def findings(path: Path) -> Counter[Found]:
    return Counter(
        Found(
            entry["check"], entry["severity"], entry["utterance"], Path(entry["file"]).name if "file" in entry else None
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    )


def check(corpus: Name, root: Path) -> tuple[int, Counter[Found]]:
    """Exit status and findings of `telme check`."""
    report = root / "findings.json"
    status = parse(["check", corpus, str(root), "--json", str(report)]).run()
    return status, findings(report)


@pytest.mark.parametrize(("corpus", "dialogues"), [("meld", 24), ("iemocap", 10)])
def test_every_planted_defect_is_found_and_nothing_else(corpus: Name, dialogues: int, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "corpus", corpus=corpus, dialogues=dialogues, defects=True)
    status, found = check(corpus, tmp_path / "corpus")
    planted = findings(tmp_path / "corpus" / "planted.json")
    assert planted - found == Counter()
    assert found - planted == Counter()
    assert status == 3


@pytest.mark.parametrize(
    ("corpus", "dialogues", "unavoidable"),
    [("meld", 3, {"wrong-count", "surround-audio"}), ("iemocap", 5, {"wrong-count", "label-convention"})],
)
def test_a_corpus_without_defects_has_none(corpus: Name, dialogues: int, unavoidable: set[str], tmp_path: Path) -> None:
    write_synthetic(tmp_path / "corpus", corpus=corpus, dialogues=dialogues)
    status, found = check(corpus, tmp_path / "corpus")
    assert {finding.check for finding in found} <= unavoidable
    assert status == 0
