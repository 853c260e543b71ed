"""What a stage minimises, against PyTorch's own cross-entropy and against the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from telme.encoders import Encoded
from telme.objectives import Classification


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
