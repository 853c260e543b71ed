"""Token ids -> the hidden state at the read-out position, brought to 768 (Eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from telme.collate import pad_prompts
from telme.encoders.encoder import EMBEDDING_SIZE, Encoded, Encoder
from telme.prompt import Prompt

TOKENS_PER_BATCH = 8192  # in prediction: enough to keep a processor busy, about 1 GB with a large encoder


class TextEncoder(Encoder):
    """Language model -> Linear to 768 at the read-out position (Eq. 3) -> linear classifier.

    Args:
        backbone: Any Hugging Face encoder or decoder without a head.
        classes: Number of emotions.
    """

    def __init__(self, backbone: PreTrainedModel, *, classes: int) -> None:
        super().__init__(backbone, projection=nn.Linear(backbone.config.hidden_size, EMBEDDING_SIZE), classes=classes)

    @property
    def pad_id(self) -> int:
        """Token id to pad with; a decoder without one is never shown the padding, so that any id will do."""
        return self.backbone.config.pad_token_id or 0

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"],
        position: Int[Tensor, " batch"],
    ) -> Encoded:
        """Reads each row at its position; padding may stand on either side and never changes the result.

        Args:
            input_ids: Token ids, padded.
            attention_mask: 1 where there is a token, 0 where there is padding.
            position: Index of the mask token within the padded row.
        """
        # Absolute positions are counted from the left, so padding on the left is rotated to the right first.
        first = attention_mask.argmax(dim=1, keepdim=True)
        order = (torch.arange(input_ids.shape[1], device=input_ids.device) + first) % input_ids.shape[1]
        hidden = self.backbone(
            input_ids=input_ids.gather(1, order), attention_mask=attention_mask.gather(1, order)
        ).last_hidden_state
        rows = torch.arange(len(hidden), device=hidden.device)
        return self._encoded(hidden[rows, position - first.squeeze(1)])

    def encode(
        self, prompts: Sequence[Prompt], *, tokens_per_batch: int = TOKENS_PER_BATCH, title: str | None = None
    ) -> Encoded:
        """Embeddings and logits of prompts, in their order, float32 on the CPU; the encoder is put in eval mode.

        Args:
            tokens_per_batch: Padded tokens that are computed at once; it changes the speed only.
            title: Of the progress bar; none shows without it.
        """
        return self._encode(
            prompts,
            lambda batch: pad_prompts(batch, pad_id=self.pad_id),
            sizes=[len(prompt.input_ids) for prompt in prompts],
            budget=tokens_per_batch,
            title=title,
        )
