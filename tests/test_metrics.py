"""The scores agree with scikit-learn, the vectorised bootstrap with an explicit one, the temperature with a grid."""

from __future__ import annotations

import json
import warnings
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss  # type: ignore[import-untyped]

from telme.errors import TelMEError
from telme.metrics import Results, Scores, calibration, fit_temperature, score, weighted_f1

NAMES = ("neutral", "joy", "fear")


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def made_up(n: int = 60, dialogues: int = 9, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Logits (n, 3) that lean to the label, labels (n,) with a rare class, dialogues (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=(0.6, 0.35, 0.05))
    return rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[labels], labels, rng.integers(dialogues, size=n)


def made_up_scores() -> Scores:
    logits, labels, groups = made_up()
    return score(softmax(logits), labels, groups, NAMES)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_weighted_f1_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs).T
    expected = f1_score(labels, predictions, average="weighted", zero_division=0)
    assert weighted_f1(labels, predictions) == pytest.approx(expected)


@settings(max_examples=25)
@given(n=st.integers(1, 40), seed=st.integers(0, 1000))
def test_every_point_value_is_that_of_scikit_learn(n: int, seed: int) -> None:
    logits, labels, groups = made_up(n, seed=seed)
    probabilities = softmax(logits)
    predictions = probabilities.argmax(axis=1)
    scores = score(probabilities, labels, groups, NAMES, resamples=10)

    def f1(average: str | None) -> Any:
        return f1_score(labels, predictions, labels=range(3), average=average, zero_division=0)

    assert scores.utterances == n
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predictions))
    assert scores.weighted_f1 == pytest.approx(f1("weighted"))
    assert scores.macro_f1 == pytest.approx(f1("macro"))
    assert scores.per_class == pytest.approx(dict(zip(NAMES, f1(None), strict=True)))
    assert scores.support == {name: (labels == i).sum() for i, name in enumerate(NAMES)}
    assert scores.confusion == confusion_matrix(labels, predictions, labels=range(3)).tolist()
    assert scores.negative_log_likelihood == pytest.approx(log_loss(labels, probabilities, labels=range(3)))


def test_interval_is_that_of_resampling_whole_dialogues_one_by_one() -> None:
    logits, labels, groups = made_up()
    probabilities = softmax(logits)
    names = np.unique(groups)
    drawn = np.random.default_rng(7).multinomial(len(names), np.full(len(names), 1 / len(names)), size=200)
    values = []
    for times in drawn:
        rows = np.concatenate([np.flatnonzero(groups == name) for name in np.repeat(names, times)])
        predictions = probabilities[rows].argmax(axis=1)
        values.append(f1_score(labels[rows], predictions, average="weighted", zero_division=0))

    interval = score(probabilities, labels, groups, NAMES, resamples=200, seed=7).weighted_f1_interval
    assert interval == pytest.approx(tuple(np.percentile(values, (2.5, 97.5))))
    assert interval[0] < weighted_f1(labels, probabilities.argmax(axis=1)) < interval[1]


def test_interval_depends_on_dialogues_and_seed_but_not_on_the_order_of_utterances() -> None:
    logits, labels, groups = made_up()
    probabilities = softmax(logits)
    order = np.random.default_rng(1).permutation(len(labels))
    interval = score(probabilities, labels, groups, NAMES).weighted_f1_interval

    assert score(probabilities[order], labels[order], groups[order], NAMES).weighted_f1_interval == interval
    assert score(probabilities, labels, groups, NAMES, seed=1).weighted_f1_interval != interval
    assert score(probabilities, labels, np.arange(len(labels)), NAMES).weighted_f1_interval != interval


def test_classes_that_do_not_occur_score_zero_without_a_warning() -> None:
    probabilities = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(probabilities, np.array([0, 0]), ["a", "b"], NAMES)
    assert scores.per_class == {"neutral": pytest.approx(2 / 3), "joy": 0.0, "fear": 0.0}
    assert scores.macro_f1 == pytest.approx(2 / 9)
    assert scores.weighted_f1_interval == (0.0, 1.0)
    assert np.isfinite(scores.negative_log_likelihood)


def test_calibration_by_hand() -> None:
    # Confidences 0.9 (right) and 0.9 (wrong) share a bin, 0.6 (right) has its own: (2 * |0.5 - 0.9| + 0.4) / 3.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    labels = np.array([0, 1, 1])
    assert calibration(probabilities, labels).ece == pytest.approx(0.4)
    bins = score(probabilities, labels, ["a", "a", "b"], ("no", "yes")).calibration.bins
    assert [astuple(b) for b in bins] == [
        pytest.approx((8 / 15, 9 / 15, 0.6, 1.0, 1)),
        pytest.approx((13 / 15, 14 / 15, 0.9, 0.5, 2)),
    ]


def test_certain_and_right_is_perfectly_calibrated() -> None:
    assert calibration(np.eye(3), np.arange(3)).ece == 0


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_temperature_is_the_best_of_a_grid(scale: float) -> None:
    logits, labels, _ = made_up(400)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 601))
    losses = [log_loss(labels, softmax(scale * logits / t)) for t in grid]
    assert fit_temperature(scale * logits, labels) == pytest.approx(grid[np.argmin(losses)], rel=0.01)


def test_temperature_is_bounded_where_no_optimum_exists() -> None:
    labels = np.arange(3)
    assert fit_temperature(np.eye(3), labels) == pytest.approx(0.05)
    assert fit_temperature(1000 * np.eye(3, dtype=np.float32), (labels + 1) % 3) == pytest.approx(20)


def test_results_are_flat_json_with_the_promised_keys_first() -> None:
    results = Results(
        split="test", scores=made_up_scores(), subsets={}, selected_on="dev", seed=3, model="runs/a", store="stores/b"
    )
    record = results.to_dict()
    assert list(record)[:11] == [
        *("split", "utterances", "weighted_f1", "weighted_f1_interval", "macro_f1", "per_class", "confusion"),
        *("selected_on", "seed", "model", "store"),
    ]
    assert set(list(record)[11:]) == {"accuracy", "support", "calibration", "negative_log_likelihood", "subsets"}
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert list(record["per_class"]) == list(NAMES)


@pytest.mark.parametrize(
    ("probabilities", "labels", "groups", "message"),
    [
        (np.empty((0, 3)), [], [], "no utterances to score"),
        (np.full((2, 3), 1 / 3), [0, 1], ["a"], "1 groups"),
        (np.full((2, 2), 1 / 2), [0, 1], ["a", "a"], r"probabilities \(2, 2\)"),
        (
            np.full((2, 3), 1 / 3),
            [0, -1],
            ["a", "b"],
            "label -1 is no class index; valid are 0 to 2: neutral, joy, fear",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(
    probabilities: NDArray[np.float64], labels: list[int], groups: list[str], message: str
) -> None:
    with pytest.raises(TelMEError, match=message):
        score(probabilities, np.array(labels, dtype=np.int64), groups, NAMES)
