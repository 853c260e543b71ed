"""A model and a split of a store -> results: every annotated utterance is read with its conversation up to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from telme.conversation import LabelSet
from telme.errors import TelMEError
from telme.metrics import IntArray, Results, score
from telme.model import TelMEModel
from telme.prompt import Prompt, Prompter
from telme.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedPrompts:
    """The annotated utterances of a split: what is read, (n,) class indices, and each one's conversation."""

    prompts: list[Prompt]
    labels: IntArray
    conversations: list[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return [len(prompt.input_ids) for prompt in self.prompts]


def annotated_prompts(store: Store, split: str, prompter: Prompter, labels: LabelSet) -> AnnotatedPrompts:
    """The split as a supervised problem; utterances without a label are context only.

    Raises:
        TelMEError: No such split, a label outside of `labels`, or nothing annotated.
    """
    kept = [
        (prompt, labels.index(utterance.label), conversation.id)
        for conversation in store.conversations(split)
        for utterance, prompt in zip(conversation, prompter(conversation), strict=True)
        if utterance.label is not None
    ]
    if not kept:
        raise TelMEError(f"{store.path}: no utterance of {split!r} has a label; training and evaluation need them")
    prompts, indices, conversations = zip(*kept, strict=True)
    return AnnotatedPrompts(prompts=list(prompts), labels=np.array(indices), conversations=list(conversations))


def evaluate(model: TelMEModel, prompter: Prompter, store: Store, split: str, *, name: str) -> Results:
    """Scores of a model on a split.

    Args:
        name: Of the model, for the record.

    Raises:
        TelMEError: As `annotated_prompts`.
    """
    labels = model.config.labels
    data = annotated_prompts(store, split, prompter, labels)
    return Results(
        split=split,
        scores=score(
            model.probabilities(model.text.encode(data.prompts, title=f"reading {split}").logits).numpy(),
            data.labels,
            data.conversations,
            labels.labels,
        ),
        selected_on=model.config.selected_on,
        seed=model.config.seed,
        model=name,
        store=store.name,
    )
