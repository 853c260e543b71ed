"""`telme train`, killed at random moments and run again, ends with the bytes of a run that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from telme.fusion import FusionSettings
from telme.recipes import Recipe
from telme.store import Store


def train_with_many_checkpoints(arguments: list[str], seconds: float) -> None:
    """`telme train` in a process of its own, which is killed when it has computed for so long; 0 lets it live."""
    import telme.training
    from telme.cli import main

    # In processor time, so that a kill falls into the work however busy the machine is; nothing handles the signal.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    telme.training.CHECKPOINT_SECONDS = 0
    telme.training.CHECKPOINT_SHARE = 2
    main(arguments)


def train_undisturbed(recipe: Path, store: Path, out: Path) -> None:
    telme = [sys.executable, "-c", "from telme.cli import main; main()"]
    command = [*telme, "train", str(recipe), "--store", str(store), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)


def train_killed(recipe: Path, store: Path, out: Path, *, kills: int, seconds: float) -> set[Path]:
    """Trains, and kills it so often, each time within so many seconds.

    Returns:
        What the stages made that were done before the last kill; none of it is made twice.
    """
    # A fork server imports PyTorch once, so that each kill falls into the work and not into the imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["telme.stages", "telme.cli"])
    moments = random.Random(0)
    arguments = ["train", str(recipe), "--store", str(store), "--out", str(out)]
    made: dict[Path, int] = {}
    for kill in range(kills + 1):
        dies_after = moments.uniform(0.1, seconds) if kill < kills else 0
        process = context.Process(target=train_with_many_checkpoints, args=(arguments, dies_after))
        import time; t0 = time.time(); process.start(); print("start", time.time() - t0, flush=True)
        process.join(); print("ran", time.time() - t0, dies_after, flush=True)
        assert process.exitcode == (-signal.SIGPROF if dies_after else 0)
        for weights in out.glob("stages/*-????????????/model.safetensors"):
            assert weights.stat().st_mtime_ns == made.setdefault(weights, weights.stat().st_mtime_ns), "made twice"
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
    train_undisturbed(file, store.path, tmp_path / "undisturbed")
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
    train_undisturbed(file, stores[0], tmp_path / "undisturbed")
    assert train_killed(file, stores[1], tmp_path / "killed", kills=6, seconds=1.5), "no kill fell between two stages"
    assert_same(tmp_path / "killed", tmp_path / "undisturbed")
    columns = [{path.relative_to(store) for path in store.glob("columns/*/*.arrow")} for store in stores]
    assert columns[0] == columns[1]
    for path in columns[0]:
        assert (stores[0] / path).read_bytes() == (stores[1] / path).read_bytes(), path
    assert [path.name for path in (tmp_path / "killed").rglob("*.unfinished")] == []
