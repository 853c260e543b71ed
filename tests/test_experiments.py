"""The ablation: what its rows differ in, that nothing is fitted twice, and that a killed one goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import telme.stages
from telme.experiments import Row, ablation, run_ablation
from telme.recipes import Fitting, Recipe, meld
from telme.run import Run
from telme.store import Store
from telme.training import fit


@pytest.fixture
def quick(media_recipe: Recipe) -> Recipe:
    """The recipe with one epoch of large batches."""
    epoch = Fitting(epochs=1, batch_size=32, learning_rate=1e-3, warmup_epochs=0)
    return replace(media_recipe, teach=epoch, distil=epoch, fuse=epoch)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of what is fitted, as it is fitted."""
    titles: list[str] = []

    def counted(*rows: Any, **settings: Any) -> Any:
        titles.append(settings["title"])
        return fit(*rows, **settings)

    monkeypatch.setattr(telme.stages, "fit", counted)
    return titles


def test_rows_of_table_3_differ_in_losses_and_fusion_alone() -> None:
    recipe = meld()
    rows = ablation(recipe)
    facts = [(v.recipe.fusion.kind, v.recipe.distillation.alpha, v.recipe.distillation.beta) for v in rows]
    assert facts == [("concatenation", 0, 0), ("shifting", 0, 0), ("shifting", 1, 0), ("shifting", 1, 1)]
    for variant in rows:
        alike = replace(variant.recipe, name="meld", fusion=recipe.fusion, distillation=recipe.distillation)
        assert alike == recipe
    assert rows[-1].recipe == recipe
    assert len({v.recipe.name for v in rows}) == len(rows)


def test_what_variants_share_is_fitted_once_whenever_it_is_killed(
    quick: Recipe, media_store: Store, tmp_path: Path, fitted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    finish = telme.stages._finish

    def dying(run: Run) -> None:
        if run.recipe.name == "media-asf":
            raise Killed
        finish(run)

    with monkeypatch.context() as patch:
        patch.setattr(telme.stages, "_finish", dying)
        rows = run_ablation(quick, media_store, tmp_path)
        assert next(rows).variant.name == "concatenation"
        with pytest.raises(Killed):
            next(rows)
    done = list(run_ablation(quick, media_store, tmp_path))
    # The rows are: learned alone and concatenated; learned alone, ASF; L_response; both losses.
    assert sorted(fitted) == ["audio student"] * 3 + ["fusion"] * 4 + ["text teacher"] + ["visual student"] * 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "media-concatenation-3", "media-asf-3", "media-asf-response-3", "media-3"
    }  # fmt: skip

    fitted.clear()
    again = list(run_ablation(quick, media_store, tmp_path))
    assert fitted == []
    assert [row.to_dict("test") for row in again] == [row.to_dict("test") for row in done]


def results(store: Store, seed: int, weighted_f1: float) -> dict[str, Any]:
    record = {
        "utterances": 9,
        "weighted_f1": weighted_f1,
        "weighted_f1_interval": [weighted_f1 - 0.1, weighted_f1 + 0.1],
        "selected_on": "dev",
        "seed": seed,
        "store": store.name,
    }
    return {"results": [{"split": "dev", **record, "weighted_f1": 0.9}, {"split": "test", **record}]}


@pytest.fixture
def seeds(quick: Recipe, store: Store, tmp_path: Path) -> tuple[Run, ...]:
    """Two finished runs that scored 0.5 and 0.6."""
    runs = []
    for seed, score in ((3, 0.5), (4, 0.6)):
        (tmp_path / str(seed)).mkdir()
        runs.append(Run(tmp_path / str(seed), replace(quick, seed=seed), store))
        runs[-1].begin()
        runs[-1].finish(results(store, seed, score))
    return tuple(runs)


def test_a_row_of_several_seeds_is_their_mean_and_spread(quick: Recipe, seeds: tuple[Run, ...]) -> None:
    variant = ablation(quick)[0]
    row = Row(variant=variant, runs=seeds).to_dict("test")
    assert json.loads(json.dumps(row)) == row
    assert row["weighted_f1"] == pytest.approx(0.55)
    assert row["weighted_f1_spread"] == pytest.approx(0.0707, abs=1e-4)
    assert row["weighted_f1_by_seed"] == {"3": 0.5, "4": 0.6}
    assert row["weighted_f1_interval"] == pytest.approx([0.4, 0.6])
    assert Row(variant=variant, runs=seeds[:1]).to_dict("test")["weighted_f1_spread"] is None
