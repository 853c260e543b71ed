"""The data doctor: a corpus -> findings, each with its evidence and with what `prepare` does about it.

A check is a function that yields findings: of the corpus (`CHECKS`), or of what its clips are like (`CLIP_CHECKS`).
What they look for was reported by users of MELD and IEMOCAP (issues of github.com/declare-lab/MELD are cited by number)
or counted in the corpora's tables. Nothing is edited.
"""

from __future__ import annotations

from collections.abc import Iterable

from telme.corpora import Corpus
from telme.doctor import clips, transcripts
from telme.doctor.inspection import inspect_clips
from telme.doctor.table import findings_table
from telme.findings import Finding

__all__ = ["CHECKS", "CLIP_CHECKS", "examine", "exit_code", "findings_table"]

CHECKS = (*transcripts.CHECKS, clips.extra_files)
CLIP_CHECKS = clips.CHECKS


def examine(corpus: Corpus) -> list[Finding]:
    """Everything that is wrong with the corpus: what reading had to mend, then what each check finds."""
    facts = inspect_clips(corpus)
    return [
        *corpus.repairs,
        *(finding for check in CHECKS for finding in check(corpus)),
        *(finding for clip_check in CLIP_CHECKS for finding in clip_check(facts)),
    ]


def exit_code(findings: Iterable[Finding]) -> int:
    """3 if an utterance is lost, or its voice and face are although its split has clips; else 0."""
    return 3 if any(f.severity == "error" and f.utterance is not None for f in findings) else 0
