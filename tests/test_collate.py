"""Every row is in exactly one batch; batches keep their budget, pad little and come in a repeatable order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from telme.collate import LengthGroupedBatches, batches_by_size, pad_prompts, pad_waveforms, stack_frames
from telme.prompt import Prompt

lengths_strategy = st.lists(st.integers(1, 300), max_size=200)


def test_prompts_are_padded_on_the_right() -> None:
    batch = pad_prompts([Prompt([5, 6], 1), Prompt([7, 8, 9], 0)], pad_id=1)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 1], [7, 8, 9]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
        "position": [1, 0],
    }


@given(st.lists(st.lists(st.integers(0, 9), min_size=1), min_size=1))
def test_padding_is_masked_whatever_the_pad_id(rows: list[list[int]]) -> None:
    batch = pad_prompts([Prompt(ids, len(ids) - 1) for ids in rows], pad_id=0)
    assert batch["input_ids"].shape == (len(rows), max(map(len, rows)))
    for ids, row, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
        assert row[mask == 1].tolist() == ids
        assert mask.sum() == len(ids)
    assert {str(tensor.dtype) for tensor in batch.values()} == {"torch.int64"}


def test_waveforms_are_padded_with_silence_on_the_right_to_a_quarter_of_a_second_at_least() -> None:
    waveforms = [np.random.default_rng(row).normal(size=size).astype(np.float32) for row, size in enumerate((1, 5000))]
    batch = pad_waveforms(waveforms)
    assert {name: (tensor.dtype, *tensor.shape) for name, tensor in batch.items()} == {
        "waveforms": (torch.float32, 2, 5000),
        "samples": (torch.int64, 2),
    }
    assert batch["samples"].tolist() == [4000, 5000]
    for waveform, row in zip(waveforms, batch["waveforms"].numpy(), strict=True):
        assert np.array_equal(row[: len(waveform)], waveform)
        assert not row[len(waveform) :].any()
    assert pad_waveforms(waveforms[:1])["waveforms"].shape == (1, 4000)


def test_frames_are_stacked() -> None:
    clips = [np.full((8, 4, 6, 3), value, np.uint8) for value in (0, 255)]
    frames = stack_frames(clips)["frames"]
    assert (frames.dtype, *frames.shape) == (torch.uint8, 2, 8, 4, 6, 3)
    assert frames.flatten(1).unique(dim=1).tolist() == [[0], [255]]


@given(lengths=lengths_strategy, budget=st.integers(1, 1000))
def test_batches_keep_their_budget_and_hold_every_row_once(lengths: list[int], budget: int) -> None:
    batches = batches_by_size(lengths, budget=budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * min(lengths[row] for row in following) > budget  # no batch could hold one more


@given(
    lengths=lengths_strategy, batch_size=st.integers(1, 8), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 100)
)
def test_an_epoch_holds_every_row_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    sampler = LengthGroupedBatches(lengths, batch_size=batch_size, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)  # at most one is smaller


class TestOrder:
    lengths = tuple(int(length) for length in np.random.default_rng(0).integers(5, 128, 2000))

    def epoch(self, number: int, *, seed: int = 1, lengths: tuple[int, ...] = lengths) -> list[list[int]]:
        sampler = LengthGroupedBatches(lengths, batch_size=16, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    def test_depends_on_seed_and_epoch_alone(self) -> None:
        sampler = LengthGroupedBatches(self.lengths, batch_size=16, seed=1)
        passes = []
        for number in (0, 2, 0):
            sampler.set_epoch(number)
            passes.append(list(sampler))
        assert passes == [self.epoch(0), self.epoch(2), self.epoch(0)]

    def test_differs_between_epochs_and_between_seeds(self) -> None:
        orders = [self.epoch(number, seed=seed) for number in range(3) for seed in (1, 2, 42)]
        assert len({str(order) for order in orders}) == len(orders)
        together = [{frozenset(batch) for batch in order} for order in orders]
        assert len(together[0] & together[-1]) < len(together[0]) / 10  # other batches, not the same ones shuffled

    def test_does_not_go_from_short_to_long(self) -> None:
        means = [np.mean([self.lengths[row] for row in batch]) for batch in self.epoch(0)]
        assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3


class TestPaddingEfficiency:
    @pytest.mark.parametrize("max_length", [64, 128, 512])
    @pytest.mark.parametrize("batch_size", [4, 16, 32])
    def test_on_lengths_like_melds(self, max_length: int, batch_size: int) -> None:
        sampler = LengthGroupedBatches(meld_like(max_length), batch_size=batch_size, seed=42)
        assert 0.9 <= sampler.padding_efficiency(epochs=2) <= 1

    def test_is_real_by_computed_tokens(self) -> None:
        assert LengthGroupedBatches([1, 1, 2], batch_size=3, seed=0).padding_efficiency(epochs=3) == 4 / 6
        assert LengthGroupedBatches([7, 7, 7], batch_size=2, seed=0).padding_efficiency(epochs=1) == 1

    def test_leaves_the_epoch_as_it_was(self) -> None:
        sampler = LengthGroupedBatches(meld_like(128), batch_size=16, seed=42)
        first = list(sampler)
        sampler.padding_efficiency(epochs=3)
        assert list(sampler) == first


def meld_like(max_length: int) -> list[int]:
    """Prompt lengths of 1,000 dialogues of 1 to 24 turns of some 12 tokens, each turn with all before it."""
    rng = np.random.default_rng(0)
    contexts = [np.cumsum(2 + rng.gamma(1.5, 7, rng.integers(1, 25)).astype(int)) for _ in range(1000)]
    return [min(int(length) + 7, max_length) for context in contexts for length in context]
