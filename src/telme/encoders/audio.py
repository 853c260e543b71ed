"""A waveform -> the mean over its frames, brought to 768 (Eq. 4), whatever clips share its batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from telme.backbones import VoiceSettings
from telme.collate import pad_waveforms
from telme.encoders.encoder import Encoded, Encoder, identity_or_linear

SAMPLES_PER_BATCH = 1_600_000  # in prediction: 100 s, about 2 GB with a base encoder


class AudioEncoder(Encoder):
    """Speech model -> mean over the frames of the utterance (Eq. 4) -> 768 -> linear classifier.

    Hugging Face's speech models let padding into the speech: through the biases of their positional convolutions
    (transformers #25621) and through normalisation over time. Here both see speech alone, so that an utterance's
    embedding and its gradient are those that it has by itself. (LayerDrop, where the backbone's configuration has it,
    leaves weights without a gradient at random, which DistributedDataParallel refuses: override `layerdrop` with 0.)

    Args:
        backbone: A model that `telme.backbones` knows as an audio encoder.
        classes: Number of emotions.
        settings: What the backbone expects of a waveform, and which frames are read.
    """

    def __init__(self, backbone: PreTrainedModel, *, classes: int, settings: VoiceSettings) -> None:
        config = backbone.config
        super().__init__(backbone, projection=identity_or_linear(config.hidden_size), classes=classes)
        self.settings = settings
        self._masks_time = getattr(config, "apply_spec_augment", True) and config.mask_time_prob > 0
        if not self._masks_time and hasattr(backbone, "masked_spec_embed"):
            backbone.register_parameter("masked_spec_embed", None)
        self._lengths = Lengths(config.conv_kernel, config.conv_stride)
        _keep_padding_out(backbone, self._lengths)

    def train(self, mode: bool = True) -> AudioEncoder:
        """As usual, but a BatchNorm, as some HuBERTs have, keeps its statistics: the batch's would mix utterances."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self

    def forward(self, waveforms: Float[Tensor, "batch samples"], samples: Int[Tensor, " batch"]) -> Encoded:
        """Reads the first `samples` of each row; what stands behind them, and the other rows, change nothing.

        Args:
            waveforms: 16 kHz mono, padded on the right.
            samples: Length of each waveform; at least the backbone's receptive field (25 ms).
        """
        self._lengths.samples = samples
        frames = self._lengths.after()
        valid = _before(samples, waveforms.shape[1])
        hidden = self.backbone(
            self._normalized(waveforms, valid),
            attention_mask=valid.long(),
            mask_time_indices=self._time_mask(frames) if self.training and self._masks_time else None,
        ).last_hidden_state
        if self.settings.pooling == "first":
            return self._encoded(hidden[:, 0])
        speech = hidden.masked_fill(~_before(frames, hidden.shape[1]).unsqueeze(2), 0)
        return self._encoded(speech.sum(dim=1, dtype=torch.float32) / frames.unsqueeze(1))

    def encode(
        self,
        waveforms: Sequence[NDArray[np.float32]],
        *,
        samples: Sequence[int] | None = None,
        samples_per_batch: int = SAMPLES_PER_BATCH,
        title: str | None = None,
    ) -> Encoded:
        """Embeddings and logits of waveforms, in their order, float32 on the CPU; the encoder is put in eval mode.

        Args:
            waveforms: 16 kHz mono; may be decoded as they are asked for.
            samples: Their lengths, where asking each waveform for its own would decode it.
            samples_per_batch: Padded samples that are computed at once; it changes the speed only.
            title: Of the progress bar; none shows without it.
        """
        return self._encode(
            waveforms,
            pad_waveforms,
            sizes=[len(waveform) for waveform in waveforms] if samples is None else samples,
            budget=samples_per_batch,
            title=title,
        )

    def _normalized(
        self, waveforms: Float[Tensor, "batch samples"], valid: Bool[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch samples"]:
        """Padding as zeros; the speech with zero mean and unit variance where the backbone was trained so."""
        speech = waveforms.masked_fill(~valid, 0)
        if not self.settings.normalize:
            return speech
        count = valid.sum(dim=1, keepdim=True)
        centred = (speech - speech.sum(dim=1, keepdim=True) / count).masked_fill(~valid, 0)
        return centred / (centred.square().sum(dim=1, keepdim=True) / count + 1e-7).sqrt()

    def _time_mask(self, frames: Int[Tensor, " batch"]) -> Bool[Tensor, "batch frames"]:
        """SpecAugment's masked frames, drawn from numpy's generator; each clip's within its own frames.

        A clip with fewer frames than one mask is left as it is, where transformers would raise.
        """
        config = self.backbone.config
        lengths = frames.cpu()
        longest = int(lengths.max())
        width = max(longest, config.mask_time_length)
        masked = _compute_mask_indices(
            (len(frames), width),
            mask_prob=config.mask_time_prob,
            mask_length=config.mask_time_length,
            attention_mask=cast("torch.LongTensor", _before(lengths, width)),
            min_masks=config.mask_time_min_masks,
        )
        return torch.from_numpy(masked[:, :longest]).to(frames.device)


class Lengths:
    """How much of each row of the batch at hand is speech; shared with the layers that must not look beyond it.

    Args:
        kernels: Kernel size of each convolution that shortens the waveform.
        strides: Its stride.
    """

    samples: Int[Tensor, " batch"]

    def __init__(self, kernels: Sequence[int], strides: Sequence[int]) -> None:
        self._convolutions = tuple(zip(kernels, strides, strict=True))

    def after(self, layers: int | None = None) -> Int[Tensor, " batch"]:
        """Steps of each row that the first `layers` convolutions, or all, make of its samples."""
        steps = self.samples
        for kernel, stride in self._convolutions[:layers]:
            steps = (steps - kernel) // stride + 1
        return steps

    def silence(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Zeroes what is not speech before a convolution over frames: the zeros that it pads a lone clip with."""
        (hidden,) = inputs
        return (hidden.masked_fill(~_before(self.after(), hidden.shape[2]).unsqueeze(1), 0),)


class SpeechNorm(nn.GroupNorm):
    """GroupNorm with one group a channel, whose mean and variance are those of the speech.

    Args:
        norm: The one to replace, right after the first convolution; its weights are taken over.
        lengths: Of the batch at hand.
    """

    def __init__(self, norm: nn.GroupNorm, lengths: Lengths) -> None:
        super().__init__(norm.num_groups, norm.num_channels, eps=norm.eps, device="meta")
        self.weight, self.bias = norm.weight, norm.bias
        self._lengths = lengths

    def forward(self, hidden: Float[Tensor, "batch channels steps"]) -> Float[Tensor, "batch channels steps"]:
        """Normalises each row's speech by itself: as fast as sums over a masked batch, on a CPU twice as fast."""
        width = hidden.shape[2]
        rows = [
            F.pad(
                F.group_norm(row[None, :, :steps], self.num_groups, self.weight, self.bias, self.eps),
                (0, width - steps),
            )
            for row, steps in zip(hidden, self._lengths.after(1).tolist(), strict=True)
        ]
        return torch.cat(rows)


def _keep_padding_out(backbone: PreTrainedModel, lengths: Lengths) -> None:
    for module in backbone.get_submodule("encoder.pos_conv_embed").modules():
        if isinstance(module, nn.Conv1d):
            module.register_forward_pre_hook(lengths.silence)
    first = backbone.get_submodule("feature_extractor.conv_layers.0")
    norm = getattr(first, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        first.layer_norm = SpeechNorm(norm, lengths)


def _before(lengths: Int[Tensor, " batch"], width: int) -> Bool[Tensor, "batch width"]:
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)
