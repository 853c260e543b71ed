"""What the recogniser says about one utterance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from telme.conversation import Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """An emotion for an utterance, with an account of how it came about.

    Args:
        utterance: The utterance that was read.
        label: The most probable emotion.
        probabilities: Calibrated probability of every label, in the label set's order; they sum to 1.
        modalities: What was used, out of `text`, `audio` and `visual`.
        text_only: The probabilities of the teacher alone, which is text unless another modality taught; empty where
            the utterance lacks it.
        shift: lambda * ||H|| / ||F_T|| (Eq. 17-19): how far voice and face moved the reading; 0 for text alone.
        problems: What was wrong with the utterance's media, such as `no-video` (see `telme.media.Problem`).
    """

    utterance: Utterance
    label: str
    probabilities: dict[str, float]
    modalities: tuple[str, ...]
    text_only: dict[str, float]
    shift: float
    problems: tuple[str, ...] = ()

    @property
    def confidence(self) -> float:
        """Probability of the predicted label."""
        return self.probabilities[self.label]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the utterance's fields first, those that are not known left out."""
        utterance = {
            name: value
            for name in ("id", "speaker", "text", "start", "end", "media")
            if (value := getattr(self.utterance, name)) is not None
        }
        annotated = {} if self.utterance.label is None else {"annotated": self.utterance.label}
        return {
            **utterance,
            **annotated,
            "label": self.label,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
            "modalities": list(self.modalities),
            "text_only": self.text_only,
            "shift": self.shift,
            **({"problems": list(self.problems)} if self.problems else {}),
        }
