"""One batch over several processes: rows of all ranks as if they were one; a single process needs none of it."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


def join() -> None:
    """Makes this process one of those that `torchrun` started together; elsewhere it does nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())


def rank() -> int:
    """Number of this process among all, from 0."""
    return dist.get_rank() if _is_distributed() else 0


def world_size() -> int:
    """How many processes work together; 1 outside of `torchrun` and `accelerate launch`."""
    return dist.get_world_size() if _is_distributed() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return rank() == 0


def barrier() -> None:
    """Returns when every process has come here."""
    if world_size() > 1:
        dist.barrier()


def gather_rows(rows: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "all_rows ..."]:
    """The rows of all ranks, in rank order; ranks may hold different numbers of rows, none included.

    The gradient of a rank's rows is the *sum* of those that all ranks have for them. When every rank computes the same
    loss from the gathered rows, DistributedDataParallel's mean over ranks is then the gradient of one process that held
    them all.
    """
    if world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    gathered: Tensor = _GatherRows.apply(rows, torch.cat(counts).tolist())
    return gathered


def gather_objects(item: T) -> list[T]:
    """Every rank's item, in rank order."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


class _GatherRows(torch.autograd.Function):
    """All ranks' rows from `counts[rank]` rows each; padded on the way, as all_gather wants equal shapes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.split(ctx.counts)[rank()], None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
