"""What a student learns from a teacher: L_response (Eq. 7-12) and L_feature (Eq. 13-15), between any two modalities.

Both compare the utterances of a batch with each other, so they want the whole batch, of all processes.
They take what mixed precision gives and compute in float32.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-8  # beside the product of the norms in rho, as in the released code
ROUNDING = 1e-6  # a vector that varies by less of its size is constant in float32
SHORTEST = 1e-6  # an embedding of a smaller norm has no direction


def response_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """L_response = L_inter + L_intra, 0 to 4 tau^2: how differently both judge within rows and within classes (Eq. 12).

    Args:
        student_logits: Z^s; the gradient flows here.
        teacher_logits: Z^t.
        temperature: tau of Eq. 8 and 9.
    """
    student = (student_logits.float() / temperature).softmax(dim=1)  # Y^s, Eq. 9
    teacher = (teacher_logits.float() / temperature).softmax(dim=1)  # Y^t, Eq. 8
    inter = _distance(student, teacher).mean()  # Eq. 10: over the utterances
    intra = _distance(student.T, teacher.T).mean()  # Eq. 11: over the classes
    return temperature**2 * (inter + intra)


def feature_loss(
    student_embedding: Float[Tensor, "batch size"],
    teacher_embedding: Float[Tensor, "batch size"],
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """L_feature: how differently the student is placed among the teacher's embeddings, 0 or more (Eq. 15).

    Args:
        student_embedding: F_S, rows of any length; the gradient flows here.
        teacher_embedding: F_T.
        temperature: tau of Eq. 13 and 14.
    """
    student = F.normalize(student_embedding.float(), eps=SHORTEST)
    teacher = F.normalize(teacher_embedding.float(), eps=SHORTEST)
    with torch.autocast(teacher.device.type, enabled=False):  # it would round the products to half precision
        target = (teacher @ teacher.T / temperature).log_softmax(dim=1)  # log P, Eq. 13
        prediction = (teacher @ student.T / temperature).log_softmax(dim=1)  # log Q, Eq. 14
    return F.kl_div(prediction, target, reduction="batchmean", log_target=True)


def _distance(student: Float[Tensor, "rows values"], teacher: Float[Tensor, "rows values"]) -> Float[Tensor, " rows"]:
    """d = 1 - rho of each row (Eq. 7); 1 where either row is constant, for that correlates with nothing."""
    student, teacher = _centred(student), _centred(teacher)
    norms: Tensor = torch.linalg.vector_norm(student, dim=1) * torch.linalg.vector_norm(teacher, dim=1)
    return 1 - (student * teacher).sum(dim=1) / (norms + EPSILON)


def _centred(rows: Float[Tensor, "rows values"]) -> Float[Tensor, "rows values"]:
    """The rows less their mean; a constant row gives exact zeros, and no gradient instead of one in the millions."""
    centred = rows - rows.mean(dim=1, keepdim=True)
    constant = centred.abs().amax(dim=1, keepdim=True) <= ROUNDING * rows.abs().amax(dim=1, keepdim=True)
    return centred.masked_fill(constant, 0.0)
