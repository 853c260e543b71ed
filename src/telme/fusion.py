"""The leading modality's embedding, moved by the students': ASF (Eq. 16-19), and the concatenation it is compared with.

The students come in the order of MODALITIES without the leader: with text leading, audio before visual. The paper
writes F_av = <F_v, F_a>, the released weights were trained audio first; the order has no meaning of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from telme.encoders import EMBEDDING_SIZE
from telme.errors import TelMEError

STUDENTS = 2
STUDENTS_SIZE = STUDENTS * EMBEDDING_SIZE  # 1536, of F_av
EPSILON = 1e-6  # beside ||H|| in Eq. 19, as in the released code


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionSettings:
    """How the modalities are brought together.

    Args:
        kind: "shifting" is ASF; "concatenation" is the first row of Table 3.
        heads: Of the self-attention; a divisor of 1536.
        theta: Threshold of Eq. 19: the most that the students may shift F_T, as a share of its norm.
        dropout: After the attention and before the classifier.
        attend: Which rows the self-attention of an utterance sees: its own ("utterance"), its own and the earlier ones
            of its conversation ("dialogue"), or all that happen to share the batch ("batch": what the released code
            does, for reproduction only).
    """

    kind: Literal["shifting", "concatenation"] = "shifting"
    heads: int = 3
    theta: float = 0.1
    dropout: float = 0.2
    attend: Literal["utterance", "dialogue", "batch"] = "utterance"

    def __post_init__(self) -> None:
        for name, valid, range_ in (
            ("heads", self.heads >= 1 and STUDENTS_SIZE % self.heads == 0, f"a divisor of {STUDENTS_SIZE}, as 3 or 4"),
            ("theta", self.theta > 0, "above 0"),
            ("dropout", 0 <= self.dropout < 1, "from 0 to below 1"),
        ):
            if not valid:
                raise TelMEError(f"{name} is {getattr(self, name)}; valid is {range_}")


class Fused(NamedTuple):
    """What every fusion returns: the joint embedding, the class scores read off it, and how far the students moved it.

    `embedding` is Z (Eq. 18) of ASF, 768 numbers, and <F_T, F_a, F_v> of the concatenation.
    `shift` is ||lambda H|| / ||F_T||, from 0 to theta; 0 where F_T is 0, and of the concatenation.
    """

    embedding: Float[Tensor, "batch size"]
    logits: Float[Tensor, "batch classes"]
    shift: Float[Tensor, " batch"]


class Fusion(nn.Module):
    """Base of both fusions: a student that is absent is replaced by an embedding that is learned for its absence."""

    classifier: nn.Linear

    def __init__(self, settings: FusionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.absent = nn.Parameter(torch.zeros(STUDENTS, EMBEDDING_SIZE))

    def forward(
        self,
        leading: Float[Tensor, "batch 768"],
        students: Float[Tensor, "batch 2 768"],
        present: Bool[Tensor, "batch 2"],
        conversation: Int[Tensor, " batch"] | None = None,
    ) -> Fused:
        """Fuses each row.

        Args:
            leading: F_T, of whichever modality leads.
            students: F_a and F_v, in the order of MODALITIES without the leader.
            present: Whether the row has the student; where it has not, the values are never looked at.
            conversation: Rows of equal number are utterances of one conversation, in time order; attend="dialogue"
                needs it.
        """
        known = torch.where(present.unsqueeze(-1), students, self.absent)
        return self._fuse(leading, known.flatten(1), conversation)

    def _fuse(
        self,
        leading: Float[Tensor, "batch 768"],
        students: Float[Tensor, "batch 1536"],
        conversation: Int[Tensor, " batch"] | None,
    ) -> Fused:
        raise NotImplementedError


class ShiftingFusion(Fusion):
    """ASF: self-attention over the students gives a displacement H, of which lambda is added to the leading embedding.

    Args:
        settings: Heads, theta, dropout and the scope of the attention.
        classes: Number of emotions.
    """

    def __init__(self, settings: FusionSettings, *, classes: int) -> None:
        super().__init__(settings)
        self.attention = nn.MultiheadAttention(STUDENTS_SIZE, settings.heads)
        self.attention_norm = nn.LayerNorm(STUDENTS_SIZE)
        self.gate = nn.Linear(STUDENTS_SIZE + EMBEDDING_SIZE, EMBEDDING_SIZE)  # W1, b1
        self.displacement = nn.Linear(STUDENTS_SIZE, EMBEDDING_SIZE)  # W2, b2
        self.norm = nn.LayerNorm(EMBEDDING_SIZE)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(EMBEDDING_SIZE, classes)

    def _fuse(
        self,
        leading: Float[Tensor, "batch 768"],
        students: Float[Tensor, "batch 1536"],
        conversation: Int[Tensor, " batch"] | None,
    ) -> Fused:
        attended = self._attend(students, conversation)
        attended = self.dropout(self.attention_norm(attended + students))  # F_att
        gate = F.relu(self.gate(torch.cat([attended, leading], dim=1)))  # g, Eq. 16
        displacement = (gate * self.displacement(attended)).float()  # H, Eq. 17
        size = torch.linalg.vector_norm(displacement, dim=1, keepdim=True)
        leading_size = torch.linalg.vector_norm(leading.float(), dim=1, keepdim=True)
        # A displacement of exactly 0 counts as one of size 1, as in the released code.
        limit = self.settings.theta * leading_size / (size.masked_fill(size == 0, 1) + EPSILON)
        lambda_ = limit.clamp(max=1)  # Eq. 19
        embedding = leading + lambda_ * displacement  # Z, Eq. 18
        shift = lambda_ * size / leading_size.masked_fill(leading_size == 0, 1)
        return Fused(embedding, self.classifier(self.dropout(self.norm(embedding))), shift.squeeze(1))

    def _attend(
        self, students: Float[Tensor, "batch 1536"], conversation: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch 1536"]:
        """Self-attention of each row over the rows in its scope."""
        attention = self.attention
        if self.settings.attend == "utterance":
            # Over a single token every weight is 1, whatever query and key: the value is all that is left.
            value = F.linear(students, attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2])
            attended: Tensor = attention.out_proj(value)
        else:
            hidden = None if self.settings.attend == "batch" else ~_so_far(conversation)
            attended, _ = attention(students, students, students, attn_mask=hidden, need_weights=False)
        return attended


class Concatenation(Fusion):
    """The plain baseline, first row of Table 3: the embeddings side by side -> dropout -> linear classifier.

    Args:
        settings: Of these, only `dropout` is used.
        classes: Number of emotions.
    """

    def __init__(self, settings: FusionSettings, *, classes: int) -> None:
        super().__init__(settings)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(EMBEDDING_SIZE + STUDENTS_SIZE, classes)

    def _fuse(
        self,
        leading: Float[Tensor, "batch 768"],
        students: Float[Tensor, "batch 1536"],
        conversation: Int[Tensor, " batch"] | None,  # noqa: ARG002
    ) -> Fused:
        embedding = torch.cat([leading, students], dim=1)
        return Fused(embedding, self.classifier(self.dropout(embedding)), leading.new_zeros(len(leading)))


def build_fusion(settings: FusionSettings, *, classes: int) -> Fusion:
    """The fusion that the settings ask for, with fresh weights."""
    kinds = {"shifting": ShiftingFusion, "concatenation": Concatenation}
    return kinds[settings.kind](settings, classes=classes)


def _so_far(conversation: Int[Tensor, " batch"] | None) -> Bool[Tensor, "batch batch"]:
    """Whether row i may look at row j: itself, or an earlier one of its conversation."""
    if conversation is None:
        raise TelMEError('conversation is None; attend="dialogue" needs to know which conversation each row is of')
    return (conversation.unsqueeze(1) == conversation.unsqueeze(0)).tril()
