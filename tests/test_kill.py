"""`telme train`, killed at random moments and run again, ends with the bytes of a run that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from telme.recipes import Recipe
from telme.store import Store

KILLS = 8


def train_with_many_checkpoints(arguments: list[str]) -> None:
    """`telme train`, in a process of its own."""
    import telme.training
    from telme.cli import main

    telme.training.CHECKPOINT_SECONDS = 0
    telme.training.CHECKPOINT_SHARE = 2
    main(arguments)


@pytest.fixture
def arguments(recipe: Recipe, store: Store, tmp_path: Path) -> list[str]:
    """`telme train` for some 250 steps, without the folder."""
    file = tmp_path / "recipe.json"
    file.write_text(replace(recipe, teach=replace(recipe.teach, epochs=12)).to_json(), encoding="utf-8")
    return ["train", str(file), "--store", str(store.path), "--out"]


def test_killed_at_random_moments(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the new processes: the network is too small for more
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    telme = [sys.executable, "-c", "from telme.cli import main; main()"]
    subprocess.run([*telme, *arguments, str(undisturbed)], check=True, capture_output=True)

    # A fork server imports PyTorch once, so that each kill falls into the work and not into the imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["telme.stages", "telme.cli"])
    moments = random.Random(0)
    kills = 0
    while not (killed / "results.json").exists():
        process = context.Process(target=train_with_many_checkpoints, args=([*arguments, str(killed)],))
        process.start()
        process.join(moments.uniform(0.1, 1.2) if kills < KILLS else 60)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode in (0, -signal.SIGKILL)
        assert kills <= KILLS, "it does not come to its end"
    assert kills > 1

    for name in ("model/model.safetensors", "results.json", "report.html", "model/README.md", "model/config.json"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
