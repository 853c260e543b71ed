"""A frozen encoder over a split -> its outputs, computed once and kept as columns of the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from telme.encoders import EMBEDDING_SIZE, AudioEncoder, TextEncoder, VisualEncoder
from telme.inputs import Inputs
from telme.store import Store

Encoder = TextEncoder | AudioEncoder | VisualEncoder

_NO_MATTER = ("_name_or_path", "architectures", "dtype", "transformers_version")  # of a backbone's configuration


class Columns(NamedTuple):
    """An encoder's outputs for every row of a split; rows that lack the modality hold zeros.

    `embedding` (rows, 768) and `logits` (rows, classes) are float32, `present` (rows,) is bool.
    """

    embedding: Tensor
    logits: Tensor
    present: Tensor

    @classmethod
    def absent(cls, rows: int, classes: int) -> Columns:
        """The columns of a modality that no row has."""
        return cls(torch.zeros(rows, EMBEDDING_SIZE), torch.zeros(rows, classes), torch.zeros(rows, dtype=torch.bool))


def fingerprint(encoder: Encoder, facts: Any) -> str:
    """16 hexadecimal digits that change whenever an output of the encoder may.

    Args:
        facts: What else its outputs depend on, such as the prompt and the tokenizer, as values for JSON.
    """
    config = {name: value for name, value in encoder.backbone.config.to_dict().items() if name not in _NO_MATTER}
    digest = hashlib.sha256(json.dumps([facts, config], sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def encode_split(
    load: Callable[[], tuple[Encoder, Inputs]], *, key: str, store: Store, split: str, classes: int, title: str
) -> Columns:
    """The encoder's outputs for a split: read from the store, or computed and added to it.

    Args:
        load: Gives the encoder and what it reads; called only if something is to be computed.
        key: Names the columns; holds the encoder's fingerprint.
        classes: Of the encoder.
        title: Of the progress bar.
    """
    loaded = cache(load)

    def compute(rows: range) -> dict[str, np.ndarray[Any, Any]]:
        encoder, inputs = loaded()
        present = inputs.present
        there = [row for row in rows if present[row]]
        columns = Columns.absent(len(rows), classes)
        if there:
            encoded = inputs.encode(encoder, there)
            at = torch.tensor(there) - rows.start
            columns.embedding[at], columns.logits[at], columns.present[at] = *encoded, torch.tensor(True)
        return {name: tensor.numpy() for name, tensor in columns._asdict().items()}

    arrays = store.annotate(key, split, compute, title=title)
    return Columns(**{name: torch.from_numpy(arrays[name]) for name in Columns._fields})
