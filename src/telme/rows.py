"""What is fitted: rows of the store as the objectives take them, with labels and what frozen encoders made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from telme.columns import Columns, Encoder
from telme.conversation import Modality
from telme.encoders import Encoded
from telme.evaluation import Annotations
from telme.fusion import Fused, Fusion, build_fusion
from telme.inputs import Inputs
from telme.metrics import IntArray
from telme.model import fusion_inputs


@dataclass(frozen=True, slots=True)
class EncoderRows:
    """The annotated utterances of a split that have a modality, each with its label and what the teacher says of it."""

    inputs: Inputs
    rows: list[int]
    labels: IntArray
    teacher: Columns | None

    @classmethod
    def of(cls, inputs: Inputs, data: Annotations, *, teacher: Columns | None = None) -> EncoderRows:
        """The rows of a split's annotations that have the modality, and the teacher's where there is one."""
        has = inputs.present[data.rows]
        if teacher is not None:
            has &= teacher.present.numpy()[data.rows]
        return cls(inputs, data.rows[has].tolist(), data.labels[has], teacher)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int, int]:
        row = self.rows[index]
        return self.inputs[row], int(self.labels[index]), row

    @property
    def lengths(self) -> list[int]:
        """Of each row, in tokens, samples or clips."""
        lengths = self.inputs.lengths
        return [lengths[row] for row in self.rows]

    def batch(self, items: list[tuple[Any, int, int]]) -> dict[str, Tensor]:
        """As the objective takes it."""
        inputs, labels, rows = zip(*items, strict=True)
        batch = {**self.inputs.batch(inputs), "labels": torch.tensor(labels)}
        if self.teacher is not None:
            at = torch.tensor(rows)
            batch |= {"teacher_embedding": self.teacher.embedding[at], "teacher_logits": self.teacher.logits[at]}
        return batch

    def logits(self, encoder: Encoder) -> Tensor:
        """(rows, classes) on the CPU."""
        return self.inputs.encode(encoder, self.rows).logits


@dataclass(frozen=True, slots=True)
class FusionRows:
    """The utterances of a split that have the teacher and a student, by what is fused together.

    An item is one utterance, or all of a conversation for a fusion that attends to the dialogue. An utterance without a
    label is there for the others' sake: its class index is -100, which the cross-entropy leaves out.
    """

    leading: Tensor
    students: Tensor
    present: Tensor
    labels: Tensor
    groups: list[list[int]]

    @classmethod
    def of(
        cls, columns: Mapping[Modality, Columns], data: Annotations, *, teacher: Modality, whole_dialogues: bool
    ) -> FusionRows:
        """The rows of a split that can be fused.

        Args:
            columns: What the frozen encoders made of the split.
            teacher: The modality that leads.
            whole_dialogues: Whether an item is a conversation.
        """
        labels = torch.full((len(data.conversation),), -100)
        labels[torch.from_numpy(data.rows)] = torch.from_numpy(data.labels)
        there = torch.stack([c.present for modality, c in columns.items() if modality != teacher]).any(dim=0)
        there &= columns[teacher].present
        if not whole_dialogues:
            there &= labels >= 0
        rows = there.nonzero().squeeze(1)
        groups: dict[int, list[int]] = {}
        for place, row in enumerate(rows.tolist()):
            groups.setdefault(int(data.conversation[row]) if whole_dialogues else place, []).append(place)
        leading, students, present = fusion_inputs(
            teacher,
            {modality: Encoded(c.embedding, c.logits) for modality, c in columns.items()},
            {modality: c.present for modality, c in columns.items()},
            rows,
        )
        return cls(leading, students, present, labels[rows], list(groups.values()))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rows = torch.tensor(self.groups[index])
        return {
            "leading": self.leading[rows],
            "students": self.students[rows],
            "present": self.present[rows],
            "labels": self.labels[rows],
            "conversation": torch.full((len(rows),), index),
        }

    @staticmethod
    def batch(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """As the objective takes it."""
        return {name: torch.cat([item[name] for item in items]) for name in items[0]}

    @torch.inference_mode()
    def logits(self, fusion: Fusion) -> Tensor:
        """(rows, classes) on the CPU, each row by itself or with its conversation, whatever it was trained beside."""
        fusion = _without_neighbours(fusion)
        everything = self.batch([self[index] for index in range(len(self))])
        device = fusion.absent.device
        fused: Fused = fusion.eval()(
            *(everything[name].to(device) for name in ("leading", "students", "present", "conversation"))
        )
        return fused.logits.float().cpu()


def _without_neighbours(fusion: Fusion) -> Fusion:
    """The fusion as it predicts: attention across a batch is for training by the released code alone."""
    if fusion.settings.attend != "batch":
        return fusion
    alone = build_fusion(replace(fusion.settings, attend="utterance"), classes=fusion.classifier.out_features)
    alone.load_state_dict(fusion.state_dict())
    return alone.to(fusion.absent.device)
