"""What a stage minimises, against PyTorch's own cross-entropy, the losses it is made of and the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from telme.distillation import feature_loss, response_loss
from telme.encoders import Encoded
from telme.fusion import FusionSettings, build_fusion
from telme.objectives import Classification, Distillation, FusionObjective


class Linear(nn.Module):
    """An encoder of vectors whose logits are a linear map of them."""

    def __init__(self, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.map = nn.Linear(5, 3, dtype=dtype)

    def forward(self, values: Tensor) -> Encoded:
        return Encoded(values, self.map(values))


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"values": torch.randn(7, 5, generator=generator), "labels": torch.tensor([0, 1, 2, 2, 1, 0, 2])}


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5])
def test_it_is_the_mean_cross_entropy(batch: dict[str, Tensor], label_smoothing: float) -> None:
    encoder = Linear()
    loss = Classification(encoder, label_smoothing=label_smoothing)(**batch)
    logits = encoder(batch["values"]).logits
    torch.testing.assert_close(
        loss["loss"], F.cross_entropy(logits, batch["labels"], label_smoothing=label_smoothing), rtol=0, atol=0
    )
    target = (1 - label_smoothing) * F.one_hot(batch["labels"], 3) + label_smoothing / 3
    torch.testing.assert_close(loss["loss"], -(target * logits.log_softmax(dim=1)).sum(dim=1).mean())
    torch.testing.assert_close(loss["logits"], logits, rtol=0, atol=0)


def test_the_terms_sum_to_the_loss(batch: dict[str, Tensor]) -> None:
    loss = Classification(Linear(), label_smoothing=0.1)(**batch)
    assert set(loss["terms"]) == {"classification"}
    torch.testing.assert_close(sum(loss["terms"].values(), torch.tensor(0.0)), loss["loss"], rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, 1e30])
def test_the_gradient_is_finite(batch: dict[str, Tensor], scale: float) -> None:
    objective = Classification(Linear(), label_smoothing=0.1)
    batch["values"] *= scale
    objective(**batch)["loss"].backward()
    for parameter in objective.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_half_precision_logits_are_scored_in_float32(batch: dict[str, Tensor]) -> None:
    loss = Classification(Linear(dtype=torch.bfloat16))(batch["labels"], values=batch["values"].bfloat16())
    assert loss["loss"].dtype == torch.float32


class Student(nn.Module):
    """An encoder of vectors through an embedding of 768."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(5, 768)
        self.classifier = nn.Linear(768, 3)

    def forward(self, values: Tensor) -> Encoded:
        embedding = self.projection(values)
        return Encoded(embedding, self.classifier(embedding))


@pytest.fixture
def taught(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with a teacher's columns beside it."""
    generator = torch.Generator().manual_seed(1)
    teacher = {"teacher_embedding": torch.randn(7, 768, generator=generator)}
    return {**batch, **teacher, "teacher_logits": torch.randn(7, 3, generator=generator)}


def test_distillation_is_the_weighted_sum_of_its_terms(taught: dict[str, Tensor]) -> None:
    student = Student()
    objective = Distillation(
        student, alpha=0.3, beta=7.0, temperature=2.0, feature_temperature=0.5, label_smoothing=0.1
    )
    loss = objective(**taught)
    encoded = student(taught["values"])
    expected = {
        "classification": F.cross_entropy(encoded.logits, taught["labels"], label_smoothing=0.1),
        "response": 0.3 * response_loss(encoded.logits, taught["teacher_logits"], temperature=2.0),
        "feature": 7.0 * feature_loss(encoded.embedding, taught["teacher_embedding"], temperature=0.5),
    }
    assert list(loss["terms"]) == list(expected)
    torch.testing.assert_close(loss["terms"], expected)
    torch.testing.assert_close(loss["loss"], torch.stack(list(expected.values())).sum())
    torch.testing.assert_close(loss["logits"], encoded.logits)


def test_distillation_without_its_losses_is_classification(taught: dict[str, Tensor]) -> None:
    student = Student()
    distilled = Distillation(student, alpha=0.0, beta=0.0, temperature=2.0)(**taught)
    classified = Classification(student)(labels=taught["labels"], values=taught["values"])
    torch.testing.assert_close(distilled["loss"], classified["loss"], rtol=0, atol=0)


def test_fitting_brings_the_student_nearer_to_the_teacher(taught: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    objective = Distillation(Student(), alpha=1.0, beta=50.0, temperature=2.0)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    before = objective(**taught)["terms"]
    for _ in range(50):
        optimizer.zero_grad()
        objective(**taught)["loss"].backward()
        optimizer.step()
    after = objective(**taught)["terms"]
    assert after["response"] < 0.5 * before["response"]
    assert after["feature"] < 0.7 * before["feature"]


def test_fillers_count_nowhere(taught: dict[str, Tensor]) -> None:
    objective = Distillation(Student(), alpha=1.0, beta=1.0, temperature=2.0)
    real = torch.tensor([True, False, True, True, False, True, True])
    with_fillers = objective(**taught, real=real)
    without = objective(**{name: tensor[real] for name, tensor in taught.items()})
    torch.testing.assert_close(with_fillers, without)


class Recorder(nn.Module):
    """A fusion that keeps what it was told to be present."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = build_fusion(FusionSettings(dropout=0.0), classes=3)

    def forward(self, leading: Tensor, students: Tensor, present: Tensor, conversation: Tensor | None) -> Tensor:
        self.present = present
        result: Tensor = self.fusion(leading, students, present, conversation)
        return result


@pytest.fixture
def fused() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "labels": torch.randint(3, (400,), generator=generator),
        "leading": torch.randn(400, 768, generator=generator),
        "students": torch.randn(400, 2, 768, generator=generator),
        "present": torch.tensor([[True, True], [True, False], [False, True], [False, False]]).repeat(100, 1),
    }


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_fusion_is_scored_by_cross_entropy(fused: dict[str, Tensor], label_smoothing: float) -> None:
    fusion = build_fusion(FusionSettings(dropout=0.0), classes=3)
    fused["labels"][:7] = -100
    loss = FusionObjective(fusion, label_smoothing=label_smoothing)(**fused)
    logits = fusion(fused["leading"], fused["students"], fused["present"]).logits
    expected = F.cross_entropy(logits, fused["labels"], label_smoothing=label_smoothing)
    torch.testing.assert_close(loss["loss"], expected)
    torch.testing.assert_close(loss["logits"], logits)
    assert list(loss["terms"]) == ["classification"]


def test_rows_without_a_label_are_not_in_the_loss(fused: dict[str, Tensor]) -> None:
    objective = FusionObjective(build_fusion(FusionSettings(dropout=0.0), classes=3))
    labelled = fused["labels"] != 1
    expected = objective(**{name: tensor[labelled] for name, tensor in fused.items()})["loss"]
    fused["labels"] = fused["labels"].where(labelled, -100)
    torch.testing.assert_close(objective(**fused)["loss"], expected)
    fused["labels"][:] = -100
    loss = objective(**fused)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters())


def test_modality_dropout_hides_a_student_of_two_and_never_the_last(fused: dict[str, Tensor]) -> None:
    recorder = Recorder()
    torch.manual_seed(0)
    FusionObjective(recorder, modality_dropout=0.4).train()(**fused)
    kinds = recorder.present.reshape(100, 4, 2)
    both, audio, visual, neither = kinds.unbind(dim=1)
    assert (audio == torch.tensor([True, False])).all()
    assert (visual == torch.tensor([False, True])).all()
    assert not neither.any()
    assert both.any(dim=1).all()
    for student in both.unbind(dim=1):  # hidden where it alone was drawn: 0.4 * 0.6 of 100 rows
        assert 10 < (~student).sum() < 38


@pytest.mark.parametrize(("training", "probability"), [(False, 0.9), (True, 0.0)])
def test_without_modality_dropout_nothing_is_hidden_or_drawn(
    fused: dict[str, Tensor], training: bool, probability: float
) -> None:
    recorder = Recorder()
    state = torch.get_rng_state()
    FusionObjective(recorder, modality_dropout=probability).train(training)(**fused)
    assert torch.equal(recorder.present, fused["present"])
    assert torch.equal(torch.get_rng_state(), state)


def test_modality_dropout_repeats_with_the_seed(fused: dict[str, Tensor]) -> None:
    objective = FusionObjective(Recorder(), modality_dropout=0.5).train()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(objective(**fused)["loss"].item())
    assert losses[0] == losses[1] != losses[2]
