"""Frames of a face -> the class token, brought to 768 (Eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.timesformer.modeling_timesformer import TimesformerSelfAttention

from telme.backbones import FaceSettings
from telme.collate import stack_frames
from telme.encoders.encoder import Encoded, Encoder, identity_or_linear

CLIPS_PER_BATCH = 8  # in prediction: about 2 GB with a base encoder


class VisualEncoder(Encoder):
    """Video model -> its class token, or the mean over its tokens where it has none (Eq. 5) -> 768 -> classifier.

    Args:
        backbone: A model that `telme.backbones` knows as a visual encoder.
        classes: Number of emotions.
        settings: Mean and standard deviation of the colours that the backbone expects.
    """

    def __init__(self, backbone: PreTrainedModel, *, classes: int, settings: FaceSettings) -> None:
        super().__init__(backbone, projection=identity_or_linear(backbone.config.hidden_size), classes=classes)
        self.settings = settings
        for module in backbone.modules():
            if isinstance(module, TimesformerSelfAttention):
                module.__class__ = FusedSelfAttention

    def forward(self, frames: UInt8[Tensor, "batch frames height width 3"]) -> Encoded:
        """Reads RGB frames of any size and number."""
        return self.read(self._pixels(frames))

    def read(self, pixel_values: Float[Tensor, "batch frames 3 height width"]) -> Encoded:
        """Reads frames that are normalised, and of the size and number that the backbone expects."""
        hidden = self.backbone(pixel_values).last_hidden_state
        has_class_token = hasattr(self.backbone.embeddings, "cls_token")
        return self._encoded(hidden[:, 0] if has_class_token else hidden.mean(dim=1))

    def encode(
        self,
        frames: Sequence[NDArray[np.uint8]],
        *,
        clips_per_batch: int = CLIPS_PER_BATCH,
        title: str | None = None,
    ) -> Encoded:
        """Embeddings and logits of clips, in their order, float32 on the CPU; the encoder is put in eval mode.

        Args:
            frames: RGB, each (frames, height, width, 3), all of one size; may be decoded as they are asked for.
            clips_per_batch: Clips that are computed at once; it changes the speed only.
            title: Of the progress bar; none shows without it.
        """
        return self._encode(frames, stack_frames, sizes=[1] * len(frames), budget=clips_per_batch, title=title)

    def _pixels(
        self, frames: UInt8[Tensor, "batch frames height width 3"]
    ) -> Float[Tensor, "batch wanted 3 size size"]:
        config = self.backbone.config
        present = frames.shape[1]
        # Spread evenly, each frame repeated or left out as often as any other.
        wanted = (2 * torch.arange(config.num_frames, device=frames.device) + 1) * present // (2 * config.num_frames)
        frames = frames[:, wanted].permute(0, 1, 4, 2, 3)
        pictures = frames.flatten(0, 1)
        if pictures.shape[2:] != (config.image_size, config.image_size):
            # As bytes, which only a processor resizes: twenty times faster than as floating point.
            size = (config.image_size, config.image_size)
            pictures = F.interpolate(pictures.cpu(), size=size, mode="bilinear", antialias=True).to(frames.device)
        pixels = pictures.float() / 255
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.settings.mean, self.settings.std))
        return ((pixels - mean) / std).view(*frames.shape[:2], *pixels.shape[1:])


class FusedSelfAttention(TimesformerSelfAttention):
    """TimesformerSelfAttention computed by PyTorch's fused kernels; transformers has the step-by-step one only."""

    def forward(
        self, hidden_states: Float[Tensor, "batch tokens hidden"], output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        """The attended tokens; their weights too, in several steps, where they are asked for."""
        if output_attentions:
            attended: tuple[Tensor, ...] = super().forward(hidden_states, output_attentions)
            return attended
        query, key, value = self.qkv(hidden_states).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attn_drop.p if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale)
        return (context.transpose(1, 2).flatten(2),)
