"""The findings as a terminal shows them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from telme.doctor.transcripts import split_of
from telme.findings import Finding

_SEVERITIES = ("error", "warning", "info")


def findings_table(findings: Sequence[Finding]) -> Table:
    """The findings in a terminal's width: a row for each check with its counts by split and its gravest example."""
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.check].append(finding)
    splits = sorted({split_of(f.utterance) for f in findings}, key=lambda split: (not split, split != "train", split))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    table.add_column("check", no_wrap=True)
    table.add_column("severity", no_wrap=True)
    for split in splits:
        table.add_column(split or "whole", justify="right", no_wrap=True)
    table.add_column("an example, and what prepare does", overflow="fold")
    gravest = {check: min(group, key=_gravity) for check, group in groups.items()}
    for check, example in sorted(gravest.items(), key=lambda item: _gravity(item[1])):
        counts = Counter(split_of(finding.utterance) for finding in groups[check])
        cells = (f"{counts[split]:,}" if counts[split] else "" for split in splits)
        table.add_row(check, example.severity, *cells, _example(example))
    return table


def _gravity(finding: Finding) -> int:
    return _SEVERITIES.index(finding.severity)


def _example(finding: Finding) -> Text:
    place = "" if finding.utterance is None else f"{finding.utterance}: "
    # Text, not markup: evidence quotes transcripts, which hold square brackets.
    return Text.assemble(place, finding.evidence, "; ", (finding.action, "italic"))
