"""How weights move: learning rates by layer, the moving average of the weights, and the precision of the arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from telme.recipes import Fitting


def device_has_bf16() -> bool:
    """True where the hardware computes in bfloat16; elsewhere training is in float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def parameter_groups(objective: nn.Module, fitting: Fitting) -> list[dict[str, Any]]:
    """The trainable parameters by learning rate.

    Outside of a backbone it is `head_learning_rate`; within one `learning_rate` for the last layer and what follows it,
    times `layer_decay` for each layer below, the embeddings lowest.
    """
    names = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
    groups: dict[float, list[nn.Parameter]] = {}
    for name, distance in _distance_from_top(names).items():
        if distance is None:
            rate = fitting.head_learning_rate or fitting.learning_rate
        else:
            rate = fitting.learning_rate * fitting.layer_decay**distance
        groups.setdefault(rate, []).append(objective.get_parameter(name))
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


def _distance_from_top(names: list[str]) -> dict[str, int | None]:
    """Layers between each parameter and the last layer of its backbone; None for one outside of a backbone.

    A backbone defines its parameters from the bottom up: what has no layer number belongs to the embeddings if it comes
    before the first layer, and to the last layer if it comes after.
    """
    below, layers = -1, dict[str, int | None]()
    for name in names:
        _, inside, rest = name.partition("backbone.")
        below = next((int(part) for part in rest.split(".") if part.isdigit()), below)
        layers[name] = below if inside else None
    top = max((layer for layer in layers.values() if layer is not None), default=-1)
    return {name: None if layer is None else top - layer for name, layer in layers.items()}


def averaged(objective: nn.Module, decay: float) -> AveragedModel:
    """A copy of the objective with the exponential moving average of its weights; `update_parameters` moves it."""
    return AveragedModel(objective, multi_avg_fn=_moving_average(decay)).requires_grad_(False)


def _moving_average(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """Quicker in the first steps, when the average holds little but the start."""

    @torch.no_grad()
    def update(averages: Any, weights: Any, updates: Tensor | int) -> None:
        kept = min(decay, (1 + int(updates)) / (10 + int(updates)))
        torch._foreach_lerp_(averages, weights, 1 - kept)

    return update
