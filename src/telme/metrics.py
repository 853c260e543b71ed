"""How good predictions are: weighted F1 with a bootstrap interval over dialogues, scores per class, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telme.errors import TelMEError

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.floating[Any]]

CALIBRATION_BINS = 15  # Guo et al. 2017
TEMPERATURES = (0.05, 20.0)  # a separable development set has no finite optimum: the search stops here
SMALLEST_PROBABILITY = float(
    np.finfo(np.float32).tiny
)  # a softmax in float32 may underflow; its logarithm stays finite


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Predictions whose confidence is in (`lower`, `upper`]: mean confidence, accuracy and number."""

    lower: float
    upper: float
    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence is from accuracy: the expected calibration error and the non-empty bins that it averages."""

    ece: float
    bins: list[CalibrationBin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Everything one evaluation measures; fractions, not percent.

    A class that is never annotated and never predicted has F1 = 0 (scikit-learn's convention) and counts in `macro_f1`.

    Args:
        weighted_f1: Mean of the classes' F1, weighted by support; the score of the ERC literature.
        weighted_f1_interval: 95 % percentile interval, dialogues being resampled with replacement.
        macro_f1: Unweighted mean of the classes' F1.
        per_class: F1 of every label, in the label set's order.
        support: Annotated utterances of every label.
        confusion: Counts; rows are annotated, columns predicted, both in the label set's order.
        negative_log_likelihood: Mean over utterances, in nats.
    """

    utterances: int
    accuracy: float
    weighted_f1: float
    weighted_f1_interval: tuple[float, float]
    macro_f1: float
    per_class: dict[str, float]
    support: dict[str, int]
    confusion: list[list[int]]
    calibration: Calibration
    negative_log_likelihood: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "weighted_f1_interval": list(self.weighted_f1_interval)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetScore:
    """How well a model reads from some of its modalities, over the utterances that have one of them."""

    utterances: int
    weighted_f1: float
    weighted_f1_interval: tuple[float, float]

    @classmethod
    def of(cls, scores: Scores) -> SubsetScore:
        """The part of the scores that is kept of a subset."""
        return cls(
            utterances=scores.utterances,
            weighted_f1=scores.weighted_f1,
            weighted_f1_interval=scores.weighted_f1_interval,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "weighted_f1_interval": list(self.weighted_f1_interval)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Scores with all that is needed to quote them: one record of `results.json`.

    Args:
        split: What was evaluated, such as `test`.
        subsets: What is left of the scores with some of the modalities, such as `text+audio`.
        selected_on: What the weights were chosen by, such as `dev`.
        seed: Of the training run.
        model: Folder or Hub id.
        store: Folder of the prepared store that was read.
    """

    split: str
    scores: Scores
    subsets: Mapping[str, SubsetScore]
    selected_on: str | None
    seed: int | None
    model: str
    store: str

    def to_dict(self) -> dict[str, Any]:
        """One flat record of plain values for JSON; the keys that every reader may rely on come first."""
        scores = self.scores.to_dict()
        relied_on = ("utterances", "weighted_f1", "weighted_f1_interval", "macro_f1", "per_class", "confusion")
        return {
            "split": self.split,
            **{name: scores.pop(name) for name in relied_on},
            "selected_on": self.selected_on,
            "seed": self.seed,
            "model": self.model,
            "store": self.store,
            **scores,
            "subsets": {name: subset.to_dict() for name, subset in self.subsets.items()},
        }


def weighted_f1(labels: IntArray, predictions: IntArray) -> float:
    """Weighted F1 of class indices (n,) against class indices (n,); n is at least 1."""
    classes = int(max(labels.max(), predictions.max())) + 1
    return float(_weighted_f1(_confusion(labels, predictions, classes)))


def score(
    probabilities: FloatArray,
    labels: IntArray,
    groups: Sequence[str] | NDArray[Any],
    label_names: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Scores:
    """Everything measured of `probabilities` (n, classes) against `labels` (n,).

    Args:
        groups: The dialogue of each utterance (n,). Utterances of a dialogue depend on each other, so dialogues are
            resampled; with a single dialogue the interval is a point.
        label_names: In the order of the classes.
        resamples: Of the bootstrap.
        seed: Of the bootstrap; the same seed gives the same interval.

    Raises:
        TelMEError: Nothing to score, lengths that differ, or a label that is no class index.
    """
    _check(probabilities, labels, groups, label_names)
    predictions = probabilities.argmax(axis=1)
    by_dialogue = _confusion_by_group(labels, predictions, groups, len(label_names))
    confusion = by_dialogue.sum(axis=0)
    f1 = _f1(confusion)
    return Scores(
        utterances=len(labels),
        accuracy=float(np.trace(confusion) / len(labels)),
        weighted_f1=float(_weighted_f1(confusion)),
        weighted_f1_interval=_bootstrap_interval(by_dialogue, resamples, seed),
        macro_f1=float(f1.mean()),
        per_class=dict(zip(label_names, f1.tolist(), strict=True)),
        support=dict(zip(label_names, confusion.sum(axis=1).tolist(), strict=True)),
        confusion=confusion.tolist(),
        calibration=calibration(probabilities, labels),
        negative_log_likelihood=negative_log_likelihood(probabilities, labels),
    )


def negative_log_likelihood(probabilities: FloatArray, labels: IntArray) -> float:
    """Mean of -log p(label) in nats, of `probabilities` (n, classes)."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(chosen, SMALLEST_PROBABILITY)).mean())


def calibration(probabilities: FloatArray, labels: IntArray) -> Calibration:
    """Confidence against accuracy of `probabilities` (n, classes), in bins of equal width."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    bins = [
        CalibrationBin(
            lower=i / CALIBRATION_BINS,
            upper=(i + 1) / CALIBRATION_BINS,
            confidence=float(confidence[index == i].mean()),
            accuracy=float(correct[index == i].mean()),
            count=int((index == i).sum()),
        )
        for i in np.unique(index).tolist()
    ]
    return Calibration(ece=sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / len(labels), bins=bins)


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """The temperature T that minimises the negative log likelihood of softmax(`logits` (n, classes) / T).

    Fit it on the development set (Guo et al. 2017). It stays within `TEMPERATURES`.
    """
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    annotated = z[np.arange(len(labels)), labels].mean()
    cold, hot = np.log(TEMPERATURES)
    # The likelihood is convex in 1 / T, and its slope there is E[z] - z_label: bisect for the change of sign.
    for _ in range(50):
        middle = (cold + hot) / 2
        p = np.exp(z * np.exp(-middle))
        expected = ((p * z).sum(axis=1) / p.sum(axis=1)).mean()
        cold, hot = (middle, hot) if expected > annotated else (cold, middle)
    return float(np.exp((cold + hot) / 2))


def _check(
    probabilities: FloatArray, labels: IntArray, groups: Sequence[str] | NDArray[Any], names: Sequence[str]
) -> None:
    if len(labels) == 0:
        raise TelMEError("no utterances to score; the split needs at least one with a label")
    if probabilities.shape != (len(labels), len(names)) or len(groups) != len(labels):
        raise TelMEError(
            f"probabilities {probabilities.shape}, {len(labels)} labels, {len(groups)} groups and {len(names)} label "
            "names do not fit; probabilities are (utterances, label names), with one label and one group an utterance"
        )
    if labels.min() < 0 or labels.max() >= len(names):
        wrong = labels[(labels < 0) | (labels >= len(names))][0]
        raise TelMEError(f"label {wrong} is no class index; valid are 0 to {len(names) - 1}: {', '.join(names)}")


def _confusion(labels: IntArray, predictions: IntArray, classes: int) -> IntArray:
    """Counts (classes, classes): rows annotated, columns predicted."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def _confusion_by_group(
    labels: IntArray, predictions: IntArray, groups: Sequence[str] | NDArray[Any], classes: int
) -> IntArray:
    """Counts (groups, classes, classes), groups in sorted order."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    cell = (group * classes + labels) * classes + predictions
    return np.bincount(cell, minlength=len(names) * classes**2).reshape(len(names), classes, classes)


def _f1(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """F1 (..., classes) of confusion matrices (..., classes, classes); 0 where a class does not occur."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    occurrences = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return np.asarray(2 * hits / np.maximum(occurrences, 1), dtype=np.float64)


def _weighted_f1(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Weighted F1 (...) of confusion matrices (..., classes, classes)."""
    support = confusion.sum(axis=-1)
    return np.asarray((_f1(confusion) * support).sum(axis=-1) / support.sum(axis=-1), dtype=np.float64)


def _bootstrap_interval(by_dialogue: IntArray, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the weighted F1, from the confusion matrices (dialogues, classes, classes)."""
    dialogues, classes, _ = by_dialogue.shape
    drawn = np.random.default_rng(seed).multinomial(dialogues, np.full(dialogues, 1 / dialogues), size=resamples)
    # In floating point because integer products do not use BLAS; the counts are far below 2**53, hence exact.
    confusion = drawn.astype(np.float64) @ by_dialogue.reshape(dialogues, -1).astype(np.float64)
    low, high = np.percentile(_weighted_f1(confusion.reshape(resamples, classes, classes)), (2.5, 97.5))
    return float(low), float(high)
