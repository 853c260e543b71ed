"""What the three encoders share: their result, the way to 768 and to the classes, and going over many utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from telme.collate import batches_by_size
from telme.distributed import gather_objects, is_main, rank, world_size
from telme.progress import track

EMBEDDING_SIZE = 768  # d, the size that all encoder outputs are brought to

T = TypeVar("T")
R = TypeVar("R")


class Encoded(NamedTuple):
    """What every encoder returns: the embedding F_T, F_a or F_v, and the class scores read off it."""

    embedding: Float[Tensor, "batch 768"]
    logits: Float[Tensor, "batch classes"]


class Encoder(nn.Module):
    """Backbone, then a projection to 768, then a linear classifier; what is read of the backbone is the subclass's.

    Args:
        backbone: Any Hugging Face model of the modality, without a head.
        projection: From the backbone's size to 768.
        classes: Number of emotions.
    """

    def __init__(self, backbone: PreTrainedModel, *, projection: nn.Module, classes: int) -> None:
        super().__init__()
        # Their outputs are not read, and weights without a gradient would stop a distributed run.
        for unused in ("pooler", "adapter"):
            if getattr(backbone, unused, None) is not None:
                backbone.register_module(unused, None)
        self.backbone = backbone
        self.projection = projection
        self.classifier = nn.Linear(EMBEDDING_SIZE, classes)

    def _encoded(self, hidden: Float[Tensor, "batch hidden"]) -> Encoded:
        embedding = self.projection(hidden)
        return Encoded(embedding, self.classifier(embedding))

    @torch.inference_mode()
    def _encode(
        self,
        items: Sequence[T],
        collate: Callable[[list[T]], dict[str, Tensor]],
        *,
        sizes: Sequence[int],
        budget: int,
        title: str | None,
    ) -> Encoded:
        """Embeddings and logits of all items, in their order, float32 on the CPU; ranks share the work.

        Args:
            items: Read by batches, one ahead of what is computed, so they may be decoded as they are asked for.
            collate: Items -> the arguments of `forward`.
            sizes: Of each item; those of similar size share a batch.
            budget: What the sizes of a batch, padded to the largest, may add up to.
            title: Of the progress bar; none shows without it.
        """
        self.eval()
        device = self.classifier.weight.device
        batches = batches_by_size(sizes, budget=budget)
        embedding = torch.empty(len(items), EMBEDDING_SIZE)
        logits = torch.empty(len(items), self.classifier.out_features)
        mine = batches[rank() :: world_size()]
        parts: list[tuple[Tensor, Tensor]] = []
        inputs = _read_ahead(mine, lambda batch: collate([items[row] for row in batch]))
        # cuDNN's convolutions in TF32, its default, differ by 1e-3 between batches.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for _, tensors in zip(track(mine, title=title if is_main() else None), inputs, strict=True):
                encoded = self(**{name: tensor.to(device) for name, tensor in tensors.items()})
                parts.append((encoded.embedding.float().cpu(), encoded.logits.float().cpu()))
        for first, of_rank in enumerate(gather_objects(parts)):
            for batch, part in zip(batches[first :: world_size()], of_rank, strict=True):
                embedding[batch], logits[batch] = part
        return Encoded(embedding, logits)


def _read_ahead(batches: Sequence[T], read: Callable[[T], R]) -> Iterator[R]:
    """What is read of each batch; the next one is read while the caller computes."""
    if not batches:
        return
    with ThreadPoolExecutor(max_workers=1) as reader:
        reading = reader.submit(read, batches[0])
        for following in batches[1:]:
            ready = reading.result()
            reading = reader.submit(read, following)
            yield ready
        yield reading.result()


def identity_or_linear(size: int) -> nn.Module:
    """Nothing where a backbone is as wide as the embedding, so that the released weights have a place for theirs."""
    return nn.Identity() if size == EMBEDDING_SIZE else nn.Linear(size, EMBEDDING_SIZE)
