"""What was planted in a corpus: the findings that `telme check` must have, and no others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from telme.files import write_json
from telme.findings import Finding, Severity

ACTION = "planted by telme synth"


def planted(
    check: str,
    evidence: str,
    *,
    severity: Severity = "warning",
    utterance: str | None = None,
    file: str | None = None,
) -> Finding:
    """A finding that the doctor must have; `file` is a path in the corpus."""
    return Finding(check=check, severity=severity, evidence=evidence, action=ACTION, utterance=utterance, file=file)


def write_planted(root: Path, findings: Iterable[Finding]) -> None:
    """Writes `planted.json`."""
    write_json(root / "planted.json", [finding.to_dict() for finding in findings])
