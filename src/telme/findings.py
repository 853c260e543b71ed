"""What is wrong with a corpus, as data: the utterance, the evidence, and what `prepare` does about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One defect.

    Args:
        check: Name of the check that found it, such as `duplicate-span`.
        severity: `info` changes nothing, `warning` is repaired or kept, `error` loses the utterance, or its voice and
            face although its split has clips.
        evidence: What was observed, with numbers and units.
        action: What `telme prepare` does about it.
        utterance: Key of the utterance (`train/dia0_utt3`); none where it concerns a file or a split.
        file: The file concerned, where there is one.
    """

    check: str
    severity: Severity
    evidence: str
    action: str
    utterance: str | None = None
    file: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """The finding as `check --json` writes it; `file` is left out where there is none."""
        fields = asdict(self)
        if self.file is None:
            del fields["file"]
        return fields
