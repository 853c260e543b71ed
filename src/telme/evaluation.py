"""A model and a split of a store -> results: every annotated utterance is read with its conversation up to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from telme.columns import Columns, encode_split, fingerprint
from telme.conversation import LabelSet, Modality
from telme.encoders import Encoded, TextEncoder
from telme.errors import TelMEError
from telme.inputs import read_inputs
from telme.metrics import IntArray, Results, Scores, SubsetScore, score
from telme.model import TelMEModel
from telme.prompt import Prompter
from telme.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """The annotated utterances of a split.

    Args:
        rows: (n,) their rows in the store.
        labels: (n,) class indices.
        conversations: (n,) the conversation of each.
        conversation: (all rows of the split,) number of each row's conversation.
    """

    rows: IntArray
    labels: IntArray
    conversations: list[str]
    conversation: Tensor

    def __len__(self) -> int:
        return len(self.rows)


def annotated(store: Store, split: str, labels: LabelSet) -> Annotations:
    """The split as a supervised problem; utterances without a label are context only.

    Raises:
        TelMEError: No such split, a label outside of `labels`, or nothing annotated.
    """
    turns = [
        (number, conversation.id, utterance.label)
        for number, conversation in enumerate(store.conversations(split))
        for utterance in conversation
    ]
    kept = [(row, labels.index(label), name) for row, (_, name, label) in enumerate(turns) if label is not None]
    if not kept:
        raise TelMEError(f"{store.path}: no utterance of {split!r} has a label; training and evaluation need them")
    rows, indices, names = zip(*kept, strict=True)
    return Annotations(
        rows=np.array(rows),
        labels=np.array(indices),
        conversations=list(names),
        conversation=torch.tensor([number for number, _, _ in turns]),
    )


def evaluate(model: TelMEModel, prompter: Prompter, store: Store, split: str, *, name: str) -> Results:
    """Scores of a model on a split, from all modalities it reads and from each subset of them.

    Args:
        name: Of the model, for the record.

    Raises:
        TelMEError: As `annotated`.
    """
    data = annotated(store, split, model.config.labels)
    columns = {modality: _columns(model, prompter, store, split, modality) for modality in model.config.modalities}
    return results(model, columns, data, store=store, split=split, name=name)


def results(
    model: TelMEModel,
    columns: Mapping[Modality, Columns],
    data: Annotations,
    *,
    store: Store,
    split: str,
    name: str,
) -> Results:
    """Scores of a model on a split whose utterances are encoded already."""
    modalities = model.config.modalities
    subsets = {
        subset: scores
        for subset in _subsets(modalities)
        if (scores := _score(model, columns, data, subset)) is not None
    }
    return Results(
        split=split,
        scores=subsets[modalities],
        subsets={"+".join(subset): SubsetScore.of(scores) for subset, scores in subsets.items()},
        selected_on=model.config.selected_on,
        seed=model.config.seed,
        model=name,
        store=store.name,
    )


def _subsets(modalities: tuple[Modality, ...]) -> Iterator[tuple[Modality, ...]]:
    """All that can be had of the modalities: each alone first, all of them last."""
    return (subset for size in range(1, len(modalities) + 1) for subset in combinations(modalities, size))


def _score(
    model: TelMEModel, columns: Mapping[Modality, Columns], data: Annotations, subset: tuple[Modality, ...]
) -> Scores | None:
    """Scores from these modalities alone, over the annotated utterances that have one of them; none if none has."""
    present = {m: c.present if m in subset else torch.zeros_like(c.present) for m, c in columns.items()}
    reading = model.read({m: Encoded(c.embedding, c.logits) for m, c in columns.items()}, present, data.conversation)
    there = torch.stack(list(present.values())).any(dim=0).numpy()[data.rows]
    if not there.any():
        return None
    return score(
        reading.probabilities.numpy()[data.rows][there],
        data.labels[there],
        np.array(data.conversations)[there],
        model.config.labels.labels,
    )


def _columns(model: TelMEModel, prompter: Prompter, store: Store, split: str, modality: Modality) -> Columns:
    """A modality's columns, of an encoder that comes with a whole model."""
    encoder, compat = model.encoder(modality), model.config.compat
    facts = prompter.facts() if isinstance(encoder, TextEncoder) else asdict(encoder.settings)
    return encode_split(
        lambda: (
            encoder,
            read_inputs(modality, store, split, prompter=prompter, pad_id=model.text.pad_id, compat=compat),
        ),
        key=f"{compat}-{modality}-{fingerprint(encoder, facts)}"
        if compat
        else f"{modality}-{fingerprint(encoder, facts)}",
        store=store,
        split=split,
        classes=len(model.config.labels),
        title=f"{modality} of {split}",
    )
