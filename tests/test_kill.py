"""`telme train`, killed at random moments and run again, ends with the bytes of a run that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from telme.fusion import FusionSettings
from telme.recipes import Recipe
from telme.store import Store

# It imports PyTorch once, so that each kill falls into the work and not into the imports.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["telme.stages", "telme.cli"])


def telme(arguments: list[str], dies_after: float | None) -> None:
    """A command in a process of its own, which may be killed when it has computed for so many seconds."""
    import telme.training
    from telme.cli import main

    if dies_after is not None:
        # In processor time, so that a kill falls into the work however busy the machine is; nothing handles the signal.
        signal.setitimer(signal.ITIMER_PROF, dies_after)
        telme.training.CHECKPOINT_SECONDS = 0
        telme.training.CHECKPOINT_SHARE = 2
    main(arguments)


def train(recipe: Path, store: Path, out: Path, *, dies_after: float | None = None) -> None:
    arguments = ["train", str(recipe), "--store", str(store), "--out", str(out)]
    process = SERVER.Process(target=telme, args=(arguments, dies_after))
    process.start()
    process.join()
    assert process.exitcode == (0 if dies_after is None else -signal.SIGPROF)


def train_killed(recipe: Path, store: Path, out: Path, *, kills: int, seconds: float) -> set[Path]:
    """Trains, and kills it so often, each time within so many seconds.

    Returns:
        What the stages made that were done before the last kill; none of it is made twice.
    """
    moments = random.Random(0)
    made: dict[Path, int] = {}
    for _ in range(kills):
        train(recipe, store, out, dies_after=moments.uniform(0.1, seconds))
        for weights in out.glob("stages/*-????????????/model.safetensors"):
            assert weights.stat().st_mtime_ns == made.setdefault(weights, weights.stat().st_mtime_ns), "made twice"
    train(recipe, store, out)
    return set(made)


def assert_same(one: Path, other: Path) -> None:
    for name in ("model/model.safetensors", "results.json", "report.html", "model/README.md", "model/config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the new processes: the networks are too small for more."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_killed_within_a_stage(recipe: Recipe, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(replace(recipe, teach=replace(recipe.teach, epochs=6)).to_json(), encoding="utf-8")
    train(file, store.path, tmp_path / "undisturbed")
    train_killed(file, store.path, tmp_path / "killed", kills=5, seconds=0.8)
    assert_same(tmp_path / "killed", tmp_path / "undisturbed")


def test_killed_anywhere_between_text_and_fusion(media_recipe: Recipe, media_store: Store, tmp_path: Path) -> None:
    """While voices and faces are learned and while they are encoded, too: each run has a store of its own."""
    file = tmp_path / "recipe.json"
    stores = [tmp_path / "store one", tmp_path / "store two"]
    for path in stores:
        shutil.copytree(media_store.path, path, ignore=shutil.ignore_patterns("columns"))
    fusion = FusionSettings(kind="concatenation")  # whose checkpoints are small
    file.write_text(replace(media_recipe, fusion=fusion).to_json(), encoding="utf-8")
    train(file, stores[0], tmp_path / "undisturbed")
    assert train_killed(file, stores[1], tmp_path / "killed", kills=6, seconds=1.5), "no kill fell between two stages"
    assert_same(tmp_path / "killed", tmp_path / "undisturbed")
    columns = [{path.relative_to(store) for path in store.glob("columns/*/*.arrow")} for store in stores]
    assert columns[0] == columns[1]
    for path in columns[0]:
        assert (stores[0] / path).read_bytes() == (stores[1] / path).read_bytes(), path
    assert [path.name for path in (tmp_path / "killed").rglob("*.unfinished")] == []
