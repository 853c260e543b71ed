"""`telme train` and `telme evaluate` under `torchrun`: two processes end with what one process ends with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import telme.training
from telme.cli import main
from telme.recipes import Recipe
from telme.store import Store

# Each argument is a command. In float32: bfloat16 would show the order in which two processes sum.
COMMANDS = """
import sys
import telme.training
from telme.cli import main
telme.training.device_has_bf16 = lambda: False
for command in sys.argv[1:]:
    try:
        main(command.split())
    except SystemExit as end:
        assert end.code == 0, command
"""
UNDROPPED = {
    "text": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "audio": {
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "mask_time_prob": 0.0,
    },
}


@pytest.fixture(scope="module")
def undropped(media_recipe: Recipe, media_store: Store) -> Recipe:
    """Without dropout, and with last batches of 4 texts, 1 voice and 1 conversation, of which a process has none."""
    clips = media_store.clips("train")
    assert (len(clips) % 5, sum(map(bool, clips.samples)) % 4, len(media_store.conversations("train")) % 7) == (4, 1, 1)
    encoders: dict[str, Any] = {
        name: replace(getattr(media_recipe, name), overrides=overrides) for name, overrides in UNDROPPED.items()
    }
    return replace(
        media_recipe,
        **encoders,
        visual=None,
        teach=replace(media_recipe.teach, epochs=2, batch_size=5),
        distil=replace(media_recipe.teach, epochs=1, batch_size=4),
        fuse=replace(media_recipe.teach, epochs=2, batch_size=7, learning_rate=1e-3),
        fusion=replace(media_recipe.fusion, dropout=0.0, attend="dialogue"),
        modality_dropout=0.0,
    )


@pytest.fixture(scope="module")
def ended(undropped: Recipe, media_store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folder of what one and what two processes made, from a store of their own: `run/` and `test.json`."""
    folders = {processes: tmp_path_factory.mktemp(f"by{processes}") for processes in (1, 2)}
    for processes, folder in folders.items():
        shutil.copytree(media_store.path, folder / "store", ignore=shutil.ignore_patterns("columns"))
        (folder / "recipe.json").write_text(undropped.to_json(), encoding="utf-8")
        commands = [
            f"train {folder}/recipe.json --store {folder}/store --out {folder}/run",
            # Of the model that one process trained, so that nothing but the evaluation can differ.
            f"evaluate {folders[1]}/run/model --store {folder}/store --json {folder}/test.json",
        ]
        if processes == 1:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(telme.training, "device_has_bf16", lambda: False)
                for command in commands:
                    with pytest.raises(SystemExit) as end:
                        main(command.split())
                    assert end.value.code == 0
            shutil.rmtree(folder / "store" / "columns")
        else:
            script = folder / "commands.py"
            script.write_text(COMMANDS, encoding="utf-8")
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
            ran = subprocess.run([*torchrun, str(script), *commands], capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
    return folders


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_every_stage_takes_the_same_way(ended: dict[int, Path]) -> None:
    one, two = (read(ended[processes] / "run" / "results.json")["stages"] for processes in (1, 2))
    assert list(one) == list(two) == ["text", "audio", "fusion"]
    assert two["text"]["history"][0] == pytest.approx(one["text"]["history"][0], rel=1e-6)
    for stage, fitted in one.items():
        assert two[stage]["best_epoch"] == fitted["best_epoch"]
        for mine, theirs in zip(two[stage]["history"], fitted["history"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-5), stage


def test_the_weights_are_the_same(ended: dict[int, Path]) -> None:
    one, two = (load_file(ended[processes] / "run" / "model" / "model.safetensors") for processes in (1, 2))
    assert one.keys() == two.keys()
    for part in ("text", "audio", "fusion"):
        apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one if name.startswith(part)])
        # AdamW makes steps of equal size of whatever gradient there is, be it rounding alone, as a key's bias has.
        assert (apart > 1e-5).double().mean() < 2e-3, part
        assert apart.mean() < 1e-6, part


def test_one_process_writes(ended: dict[int, Path]) -> None:
    assert {path.name for path in (ended[2] / "run").iterdir()} == {path.name for path in (ended[1] / "run").iterdir()}
    assert list(ended[2].rglob("*.unfinished")) == []


def test_evaluation_is_the_same_to_the_byte(ended: dict[int, Path]) -> None:
    assert (ended[2] / "test.json").read_bytes() == (ended[1] / "test.json").read_bytes()
    assert (ended[2] / "test-confusion.svg").exists()
