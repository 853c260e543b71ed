"""Rows -> padded batches: the only place that pads, and that decides which rows share a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telme.media import SHORTEST_SAMPLES
from telme.prompt import Prompt

MEGABATCH = 50  # batches that are sorted by length together: enough to pad little, few enough to stay random


def pad_prompts(prompts: Sequence[Prompt], *, pad_id: int) -> dict[str, Tensor]:
    """Prompts as a batch, padded on the right.

    Returns:
        `input_ids` and `attention_mask` (batch, longest), `position` (batch,) of the embedding; all int64.
    """
    longest = max(len(prompt.input_ids) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), pad_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt.input_ids)] = torch.tensor(prompt.input_ids)
        attention_mask[row, : len(prompt.input_ids)] = 1
    position = torch.tensor([prompt.position for prompt in prompts])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "position": position}


def pad_waveforms(waveforms: Sequence[NDArray[np.float32]]) -> dict[str, Tensor]:
    """Waveforms as a batch, padded with silence on the right; none shorter than 0.25 s.

    Returns:
        `waveforms` float32 (batch, longest), `samples` int64 (batch,), the length of each; silence that brings a
        waveform to 0.25 s counts as part of it.
    """
    samples = torch.tensor([max(len(waveform), SHORTEST_SAMPLES) for waveform in waveforms])
    padded = torch.zeros(len(waveforms), int(samples.max()))
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return {"waveforms": padded, "samples": samples}


def stack_frames(frames: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
    """Clips of one size as a batch: `frames` uint8 (batch, frames, height, width, 3)."""
    return {"frames": torch.from_numpy(np.stack(frames))}


def batches_by_size(lengths: Sequence[int], *, budget: int) -> list[list[int]]:
    """Row numbers in batches of similar length, each of at most `budget` padded tokens (or samples, or frames).

    A row that is longer than the budget gets a batch to itself.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Ascending, so the row at hand is the longest of the batch it joins.
        if batches and (len(batches[-1]) + 1) * lengths[row] <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


class LengthGroupedBatches:
    """A batch sampler: shuffled every epoch, yet the rows of a batch are of similar length.

    The order depends on `seed` and the epoch alone, so that an interrupted epoch can be taken up where it stopped.

    Args:
        lengths: Length of each row, in tokens, samples or frames.
        batch_size: Rows a batch; the last one may be smaller.
        seed: Of the recipe.
    """

    drop_last = False

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches(self.epoch))

    def padding_efficiency(self, *, epochs: int) -> float:
        """Real tokens / computed tokens over the first epochs, between 0 and 1."""
        batches = [batch for epoch in range(epochs) for batch in self._batches(epoch)]
        computed = sum(len(batch) * max(self.lengths[row] for row in batch) for batch in batches)
        return epochs * sum(self.lengths) / computed

    def _batches(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 10_007 + epoch)
        shuffled = torch.randperm(len(self.lengths), generator=generator).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(shuffled), self.batch_size * MEGABATCH):
            alike = sorted(shuffled[start : start + self.batch_size * MEGABATCH], key=self.lengths.__getitem__)
            batches += [alike[i : i + self.batch_size] for i in range(0, len(alike), self.batch_size)]
        return [batches[batch] for batch in torch.randperm(len(batches), generator=generator).tolist()]
