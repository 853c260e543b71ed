"""L_response and L_feature: the paper's sums written out, the released code's values, and every degenerate batch."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from telme.distillation import feature_loss, response_loss

Rows = list[list[float]]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, leaf)
    return found


# The equations as the paper writes them, one sum after the other, in double precision.


def softmax(values: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def distance(u: list[float], v: list[float]) -> float:
    """Eq. 7."""
    return 1 - float(np.corrcoef(u, v)[0, 1])


def paper_response(student: Rows, teacher: Rows, temperature: float) -> float:
    """Eq. 8-12."""
    y_s = [softmax(row, temperature) for row in student]
    y_t = [softmax(row, temperature) for row in teacher]
    rows, classes = len(y_s), len(y_s[0])
    inter = sum(distance(y_s[i], y_t[i]) for i in range(rows))
    intra = sum(distance([row[j] for row in y_s], [row[j] for row in y_t]) for j in range(classes))
    return temperature**2 / rows * inter + temperature**2 / classes * intra


def paper_feature(student: Rows, teacher: Rows, temperature: float) -> float:
    """Eq. 13-15."""

    def unit(row: list[float]) -> list[float]:
        return [value / math.hypot(*row) for value in row]

    f_s, f_t = [unit(row) for row in student], [unit(row) for row in teacher]
    divergence = 0.0
    for f_i in f_t:
        p = softmax([float(np.dot(f_i, f_j)) for f_j in f_t], temperature)
        q = softmax([float(np.dot(f_i, f_j)) for f_j in f_s], temperature)
        divergence += sum(p_j * math.log(p_j / q_j) for p_j, q_j in zip(p, q, strict=True))
    return divergence / len(f_t)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize(("rows", "classes"), [(2, 2), (4, 7), (9, 6)])
def test_the_response_loss_is_equation_12(rows: int, classes: int, temperature: float) -> None:
    student, teacher = random(rows, classes), random(rows, classes, seed=1)
    expected = paper_response(student.tolist(), teacher.tolist(), temperature)
    assert response_loss(student, teacher, temperature=temperature).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.0])
@pytest.mark.parametrize(("rows", "size"), [(1, 3), (4, 16), (9, 768)])
def test_the_feature_loss_is_equation_15(rows: int, size: int, temperature: float) -> None:
    student, teacher = random(rows, size), random(rows, size, seed=1)
    expected = paper_feature(student.tolist(), teacher.tolist(), temperature)
    assert feature_loss(student, teacher, temperature=temperature).item() == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    """Values of the released code."""
    folder = os.environ.get("TELME_PARITY")
    if folder is None:
        pytest.skip("TELME_PARITY names no folder of recorded values")
    return load_file(Path(folder) / "distillation.safetensors")


@pytest.mark.parametrize(("name", "temperature"), [("response_tau4", 4.0), ("response_tau2", 2.0)])
def test_the_response_loss_is_the_released_one(recorded: dict[str, Tensor], name: str, temperature: float) -> None:
    student = recorded["student_logits"].requires_grad_()
    loss = response_loss(student, recorded["teacher_logits"], temperature=temperature)
    torch.testing.assert_close(loss, recorded[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient(loss, student), recorded[f"{name}_grad"], rtol=0, atol=1e-6)


def test_the_feature_loss_is_the_released_one(recorded: dict[str, Tensor]) -> None:
    student = recorded["student_embedding"].requires_grad_()
    loss = feature_loss(student, recorded["teacher_embedding"])
    torch.testing.assert_close(loss, recorded["feature"], rtol=0, atol=1e-6)
    # These gradients are so small that an absolute 1e-6 would let a wrong one pass.
    torch.testing.assert_close(gradient(loss, student), recorded["feature_grad"], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("corpus", "alpha", "temperature"), [("meld", 1.0, 4.0), ("iemocap", 0.1, 2.0)])
def test_the_sum_is_the_released_one(
    recorded: dict[str, Tensor], corpus: str, alpha: float, temperature: float
) -> None:
    response = response_loss(recorded["student_logits"], recorded["teacher_logits"], temperature=temperature)
    feature = feature_loss(recorded["student_embedding"], recorded["teacher_embedding"])
    total = F.cross_entropy(recorded["student_logits"], recorded["labels"]) + alpha * response + feature
    torch.testing.assert_close(total, recorded[f"total_{corpus}"], rtol=0, atol=1e-6)


# What a batch can look like at worst: for each, values and gradients are finite and of a size to learn from.

NORMAL = random(4, 7)
DEGENERATE = {
    "one row": NORMAL[:1],
    "one class": NORMAL[:, :1],
    "one row, one class": NORMAL[:1, :1],
    "all zero": torch.zeros(4, 7),
    "equal rows": NORMAL[:1].expand(4, 7),
    "equal columns": NORMAL[:, :1].expand(4, 7),
    "a zero row": torch.cat([torch.zeros(1, 7), NORMAL[1:]]),
    "certain": 1e4 * NORMAL,
    "beyond certain": 1e15 * NORMAL,
    "one class never": torch.cat([torch.full((4, 1), -1e4), NORMAL[:, 1:]], dim=1),
    "all but equal": 1 + 1e-6 * NORMAL,
    "tiny": 1e-30 * NORMAL,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_losses_and_gradients_are_finite(case: str, who: str, dtype: torch.dtype) -> None:
    odd = DEGENERATE[case].to(dtype)
    plain = random(*odd.shape, seed=1).to(dtype)
    student = (plain if who == "teacher" else odd).clone().requires_grad_()
    teacher = plain if who == "student" else odd
    for loss in (response_loss(student, teacher, temperature=4.0), feature_loss(student, teacher)):
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert gradient(loss, student).isfinite().all()


def test_a_constant_column_pulls_at_nothing() -> None:
    student = DEGENERATE["equal rows"].clone().requires_grad_()
    assert gradient(response_loss(student, random(4, 7, seed=1), temperature=4.0), student).abs().max() < 100
    student = torch.zeros(4, 7, requires_grad=True)
    assert gradient(response_loss(student, random(4, 7, seed=1), temperature=4.0), student).abs().max() < 100


def test_one_row_is_compared_over_its_classes_alone() -> None:
    student, teacher = NORMAL[:1], random(1, 7, seed=1)
    inter = distance(softmax(student[0].tolist(), 4.0), softmax(teacher[0].tolist(), 4.0))
    assert response_loss(student, teacher, temperature=4.0).item() == pytest.approx(16 * (inter + 1), abs=1e-4)


def test_half_precision_is_only_how_the_inputs_come() -> None:
    halves = [random(8, size, seed=seed).bfloat16() for size in (7, 768) for seed in (0, 1)]
    singles = [rows.float() for rows in halves]
    with torch.autocast("cpu", torch.bfloat16):
        found = response_loss(*halves[:2], temperature=2.0), feature_loss(*halves[2:])
    expected = response_loss(*singles[:2], temperature=2.0), feature_loss(*singles[2:])
    assert torch.equal(torch.stack(found), torch.stack(expected))


# Properties.

SEEDS = st.integers(0, 10_000)
ROWS = st.integers(1, 8)


@given(seed=SEEDS, rows=ROWS)
def test_the_order_of_the_batch_does_not_matter(seed: int, rows: int) -> None:
    student, teacher = random(rows, 7, seed=seed), random(rows, 7, seed=seed + 1)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    shuffled = student[order], teacher[order]
    torch.testing.assert_close(
        response_loss(*shuffled, temperature=2.0), response_loss(student, teacher, temperature=2.0), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(feature_loss(*shuffled), feature_loss(student, teacher), rtol=0, atol=1e-6)


@given(seed=SEEDS, rows=ROWS)
def test_losses_stay_within_their_bounds(seed: int, rows: int) -> None:
    student, teacher = random(rows, 7, seed=seed), random(rows, 7, seed=seed + 1)
    assert -1e-5 <= response_loss(student, teacher, temperature=2.0) <= 4 * 2.0**2 + 1e-5
    assert feature_loss(student, teacher) >= -1e-6


@given(seed=SEEDS, offset=st.floats(-50, 50))
def test_a_perfect_student_has_nothing_to_learn(seed: int, offset: float) -> None:
    teacher = random(6, 7, seed=seed)
    response = response_loss(teacher + offset, teacher, temperature=2.0)  # a softmax does not see the offset
    assert abs(response.item()) < 1e-3
    embedding = random(6, 32, seed=seed)
    assert abs(feature_loss(3 * embedding, embedding).item()) < 1e-6  # nor a cosine the length


@given(seed=SEEDS, slope=st.floats(0.05, 0.95))
def test_probabilities_related_by_a_line_agree_fully(seed: int, slope: float) -> None:
    teacher = random(6, 7, seed=seed)
    blurred = slope * teacher.softmax(dim=1) + (1 - slope) / 7  # affine in rows and columns alike
    assert abs(response_loss(blurred.log(), teacher, temperature=1.0).item()) < 1e-3
    bent = teacher.softmax(dim=1) ** 2
    assert response_loss(bent.log(), teacher, temperature=1.0) > 1e-3


def test_opposite_rows_are_as_far_apart_as_can_be() -> None:
    teacher = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert response_loss(-teacher, teacher, temperature=2.0).item() == pytest.approx(16.0, abs=1e-4)
