"""What a stage minimises: modules from a batch to a loss with its named terms; they know of no training loop."""

from __future__ import annotations

from typing import TypedDict

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from telme.encoders import Encoded


class Loss(TypedDict):
    """The loss to minimise, the class scores, and the terms that the loss is the sum of."""

    loss: Float[Tensor, ""]
    logits: Float[Tensor, "batch classes"]
    terms: dict[str, Float[Tensor, ""]]


class Classification(nn.Module):
    """L_cls: mean cross-entropy of an encoder's logits against the annotated emotions (Eq. 3 and 6).

    Args:
        encoder: Maps the batch without its labels to `Encoded`.
        label_smoothing: Share of the target that is spread over all classes.
    """

    def __init__(self, encoder: nn.Module, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.label_smoothing = label_smoothing

    def forward(self, labels: Int[Tensor, " batch"], **inputs: Tensor) -> Loss:
        """Loss of a batch; `inputs` as the encoder takes them."""
        encoded: Encoded = self.encoder(**inputs)
        logits = encoded.logits.float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return {"loss": loss, "logits": logits, "terms": {"classification": loss}}
