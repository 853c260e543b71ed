"""What a stage minimises: modules from a batch to a loss with its named terms; they know of no training loop.

Over several processes each takes its own rows and returns the loss of the global batch, all ranks' rows together, so
that the result does not depend on how a batch was split. DistributedDataParallel needs every rank to run the model: a
rank that is left without rows hands over any row as a filler, with `real` False for it. Fillers count nowhere.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from telme.distillation import feature_loss, response_loss
from telme.distributed import gather_rows
from telme.encoders import Encoded
from telme.fusion import Fused


class Loss(TypedDict):
    """The loss to minimise, the class scores of the global batch, and the terms that the loss is the sum of."""

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

    def forward(
        self, labels: Int[Tensor, " batch"], real: Bool[Tensor, " batch"] | None = None, **inputs: Tensor
    ) -> Loss:
        """Loss of a batch; `inputs` as the encoder takes them."""
        encoded: Encoded = self.encoder(**inputs)
        logits = _all_rows(encoded.logits.float(), real)
        loss = F.cross_entropy(logits, _all_rows(labels, real), label_smoothing=self.label_smoothing)
        return {"loss": loss, "logits": logits, "terms": {"classification": loss}}


class Distillation(nn.Module):
    """L_student = L_cls + alpha L_response + beta L_feature: a student beside a frozen teacher (Eq. 6).

    Args:
        encoder: The student; maps the batch without labels and teacher to `Encoded`.
        alpha: Weight of L_response.
        beta: Weight of L_feature.
        temperature: tau of L_response.
        feature_temperature: tau of L_feature.
        label_smoothing: As for `Classification`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        alpha: float,
        beta: float,
        temperature: float,
        feature_temperature: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.feature_temperature = feature_temperature
        self.label_smoothing = label_smoothing

    def forward(
        self,
        labels: Int[Tensor, " batch"],
        teacher_embedding: Float[Tensor, "batch 768"],
        teacher_logits: Float[Tensor, "batch classes"],
        real: Bool[Tensor, " batch"] | None = None,
        **inputs: Tensor,
    ) -> Loss:
        """Loss of a batch; `inputs` as the student takes them. The terms carry their weights alpha and beta."""
        encoded: Encoded = self.encoder(**inputs)
        logits = _all_rows(encoded.logits.float(), real)
        embedding = _all_rows(encoded.embedding.float(), real)
        classification = F.cross_entropy(logits, _all_rows(labels, real), label_smoothing=self.label_smoothing)
        response = response_loss(logits, _all_rows(teacher_logits, real), temperature=self.temperature)
        feature = feature_loss(embedding, _all_rows(teacher_embedding, real), temperature=self.feature_temperature)
        terms = {"classification": classification, "response": self.alpha * response, "feature": self.beta * feature}
        return {"loss": sum(terms.values(), torch.zeros_like(classification)), "logits": logits, "terms": terms}


class FusionObjective(nn.Module):
    """Mean cross-entropy of a fusion of frozen embeddings; the batch holds what the encoders made of each utterance.

    A row whose class index is -100 has no label: others may attend to it, but it is not in the loss. The rows of all
    ranks are gathered before they are fused, so that a row may attend to those of other ranks; ranks with equal seeds
    draw equal dropouts.

    Args:
        fusion: A `Fusion`.
        modality_dropout: In training, the probability that a student is hidden, so that the fusion learns to do without
            it. Students are drawn independently; a row that would lose all it has keeps them.
        label_smoothing: As for `Classification`.
    """

    def __init__(self, fusion: nn.Module, *, modality_dropout: float = 0.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.fusion = fusion
        self.modality_dropout = modality_dropout
        self.label_smoothing = label_smoothing

    def forward(
        self,
        labels: Int[Tensor, " batch"],
        leading: Float[Tensor, "batch 768"],
        students: Float[Tensor, "batch 2 768"],
        present: Bool[Tensor, "batch 2"],
        conversation: Int[Tensor, " batch"] | None = None,
        real: Bool[Tensor, " batch"] | None = None,
    ) -> Loss:
        """Loss of a batch; everything but the labels as `Fusion.forward` takes it."""
        present = _all_rows(present, real)
        if self.training and self.modality_dropout > 0:
            present = _hide(present, self.modality_dropout)
        fused: Fused = self.fusion(
            _all_rows(leading, real),
            _all_rows(students, real),
            present,
            None if conversation is None else _all_rows(conversation, real),
        )
        logits, labels = fused.logits.float(), _all_rows(labels, real)
        total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)
        loss = total / (labels >= 0).sum().clamp(min=1)
        return {"loss": loss, "logits": logits, "terms": {"classification": loss}}


def _all_rows(rows: Tensor, real: Bool[Tensor, " batch"] | None) -> Tensor:
    """The rows of the global batch: every rank's that are real, in rank order."""
    return gather_rows(rows if real is None else rows[real])


def _hide(present: Bool[Tensor, "batch 2"], probability: float) -> Bool[Tensor, "batch 2"]:
    """The students that are left when each is hidden with this probability, or all where none would be."""
    left = present & (torch.rand(present.shape, device=present.device) >= probability)
    return torch.where(left.any(dim=1, keepdim=True), left, present)
