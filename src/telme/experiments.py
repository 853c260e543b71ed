"""The paper's experiments as calls of stages: what its tables compare differs in a few fields of a recipe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from telme.recipes import Recipe
from telme.run import Run
from telme.stages import train
from telme.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A row of a table: its name in the paper, and the recipe that it stands for."""

    name: str
    recipe: Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a variant scored: a finished run for each seed."""

    variant: Variant
    runs: tuple[Run, ...]

    def to_dict(self, split: str) -> dict[str, Any]:
        """The scores on a split as plain values for JSON; `weighted_f1` is the mean over the seeds.

        `weighted_f1_spread` is their standard deviation, null for one seed; the interval is the first seed's.
        """
        records = [record for run in self.runs for record in run.results["results"] if record["split"] == split]
        scores = [record["weighted_f1"] for record in records]
        return {
            "variant": self.variant.name,
            "split": split,
            "utterances": records[0]["utterances"],
            "weighted_f1": mean(scores),
            "weighted_f1_spread": stdev(scores) if len(scores) > 1 else None,
            "weighted_f1_interval": records[0]["weighted_f1_interval"],
            "weighted_f1_by_seed": {str(record["seed"]): record["weighted_f1"] for record in records},
            "selected_on": records[0]["selected_on"],
            "store": records[0]["store"],
        }


def ablation(recipe: Recipe) -> tuple[Variant, ...]:
    """The rows of Table 3, from encoders that learn alone and are concatenated to the recipe itself."""
    alone = replace(recipe.distillation, alpha=0.0, beta=0.0)
    response = replace(recipe.distillation, beta=0.0)
    name = recipe.name
    return (
        Variant(
            name="concatenation",
            recipe=replace(
                recipe,
                name=f"{name}-concatenation",
                distillation=alone,
                fusion=replace(recipe.fusion, kind="concatenation"),
            ),
        ),
        Variant(name="ASF", recipe=replace(recipe, name=f"{name}-asf", distillation=alone)),
        Variant(name="ASF + response", recipe=replace(recipe, name=f"{name}-asf-response", distillation=response)),
        Variant(name="ASF + response + feature", recipe=recipe),
    )


def run_ablation(recipe: Recipe, store: Store, out: Path, *, seeds: Sequence[int] | None = None) -> Iterator[Row]:
    """Yields the rows of Table 3, each once it is measured; what variants have in common is fitted once.

    Killed at any moment, the next call goes on from there.

    Args:
        out: Folder for a run of each variant and seed, named such as `tiny-asf-42`.
        seeds: The recipe's own by default.

    Raises:
        TelMEError: As `telme.stages.train`.
    """
    shared = out / "stages"
    for variant in ablation(recipe):
        runs = [
            train(replace(variant.recipe, seed=seed), store, out / f"{variant.recipe.name}-{seed}", stages=shared)
            for seed in seeds or (recipe.seed,)
        ]
        yield Row(variant=variant, runs=tuple(runs))
    shutil.rmtree(shared, ignore_errors=True)
