"""Full-size training on a GPU: samples/s, memory and model FLOP utilisation of each stage, in bfloat16.

    python benchmarks/gpu.py [--meld FOLDER] [--dialogues 80] [--batch 32] [--peak 989] [--folder FOLDER]

Encoders have the shapes of RoBERTa-large, data2vec-audio-base and TimeSformer-base with random weights: speed does not
depend on the values. Clips are those of a made-up MELD, decoded on the spot; the teacher reads the real MELD's
transcripts where `--meld` names them. A step's time is the median over a stage; its FLOPs are counted by PyTorch over a
forward and backward pass, and utilisation is FLOPs a second over `--peak`, the TFLOP/s of the GPU's dense bfloat16
arithmetic by its data sheet (H100 SXM and H200: 989). `busy` is the share of a step in which the GPU computes at all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    Data2VecAudioConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    RobertaConfig,
    TimesformerConfig,
)

from telme import stages, training
from telme.backbones import load_text_backbone
from telme.conversation import Modality
from telme.corpora import read_corpus
from telme.corpora.synthetic import write_synthetic
from telme.frozen import columns
from telme.prepare import prepare
from telme.progress import StageProgress
from telme.prompt import PromptSettings
from telme.recipes import Recipe, meld
from telme.run import Run
from telme.store import Store

COUNTED_STEP, PROFILED_STEP = 2, 6  # neither is among the fastest half


class Clock(StageProgress):
    """Progress that remembers when each step was done."""

    steps: list[float] = []  # noqa: RUF012 -- of the stage at hand

    def at(self, step: int) -> None:
        torch.cuda.synchronize()
        Clock.steps.append(time.perf_counter())
        super().at(step)


def main() -> None:
    """Prepares a corpus, trains the three stages, and prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meld", type=Path, help="folder of MELD's CSV files, for the teacher")
    parser.add_argument("--dialogues", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s in bfloat16, dense")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "telme-gpu")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a GPU that PyTorch can use")
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    store, seconds_per_clip = prepared(folder, arguments.dialogues)
    recipe = full_size(folder, store, batch=arguments.batch)
    training.StageProgress = Clock  # type: ignore[attr-defined]
    run = Run(folder / f"run-{os.getpid()}", recipe, store)
    rows = []
    if arguments.meld:
        transcripts = prepare(read_corpus("meld", arguments.meld), folder / "transcripts")
        one_epoch = replace(recipe, teach=replace(recipe.teach, epochs=1))
        other = Run(folder / f"text-{os.getpid()}", one_epoch, transcripts)
        rows.append(measured("teacher, MELD's text", lambda: fit(other, "text"), arguments))
    for name, modality in (("teacher", "text"), ("audio student", "audio"), ("visual student", "visual")):
        rows.append(measured(name, lambda modality=modality: fit(run, modality), arguments))  # type: ignore[misc]
    begun = time.perf_counter()
    for modality in recipe.modalities:
        for split in ("train", "dev"):
            columns(run, modality, split)
    annotation = time.perf_counter() - begun
    rows.append(measured("fusion", lambda: stages.fuse(run), arguments))
    machine = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "clips prepared per second": round(1 / seconds_per_clip, 1),
        "rows": sum(len(store.clips(split)) for split in store.splits),
        "annotation of train and dev by three encoders, float32, s": round(annotation, 1),
    }
    for cells in (rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print("| " + " | ".join(map(str, cells)) + " |")
    print(json.dumps({**machine, "stages": rows}))


def prepared(folder: Path, dialogues: int) -> tuple[Store, float]:
    """A made-up MELD as a store, and the seconds that each clip took."""
    if not (folder / "corpus").exists():
        write_synthetic(folder / "corpus", dialogues=dialogues, seed=1)
    corpus = read_corpus("meld", folder / "corpus")
    begun = time.perf_counter()
    store = prepare(corpus, folder / "store")
    return store, (time.perf_counter() - begun) / sum(1 for _ in corpus.utterances)


def full_size(folder: Path, store: Store, *, batch: int) -> Recipe:
    """The preset `meld` over random backbones of its shapes, for three epochs."""
    recipe = meld()
    transcripts = [turn.text for conversation in store.conversations("train") for turn in conversation]
    _, tokenizer = load_text_backbone("scratch", overrides={}, prompt=PromptSettings(), transcripts=transcripts)
    roberta = RobertaConfig(
        vocab_size=50_265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        pad_token_id=tokenizer.pad_token_id,
    )
    data2vec = Data2VecAudioConfig(mask_time_length=3)
    backbones: dict[Modality, tuple[PreTrainedConfig, PreTrainedTokenizerBase | None]] = {
        "text": (roberta, tokenizer),
        "audio": (data2vec, None),
        "visual": (TimesformerConfig(), None),
    }
    for modality, (config, words) in backbones.items():
        path = folder / modality
        if not path.exists():
            AutoModel.from_config(config).save_pretrained(path)
            if words:
                words.save_pretrained(path)
        recipe = recipe.with_backbone(modality, str(path))
    fitting = replace(recipe.teach, epochs=3, batch_size=batch)
    return replace(recipe, teach=fitting, distil=fitting, fuse=fitting)


def fit(run: Run, modality: Any) -> None:
    """Fits one encoder, as the stages `teach` and `distil` do."""
    fitting = run.recipe.teach if modality == run.recipe.teacher else run.recipe.distil
    assert fitting is not None
    stages._fit_encoder(run, modality, fitting)


def measured(name: str, stage: Callable[[], None], arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs a stage and says how fast its steps were."""
    Clock.steps.clear()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    original = training._Trainer.training_step
    flops = busy = 0.0
    steps = 0

    def watched(self: Any, *inputs: Any, **more: Any) -> Any:
        nonlocal flops, busy, steps
        steps += 1
        if steps == COUNTED_STEP:
            with FlopCounterMode(display=False) as counter:
                loss = original(self, *inputs, **more)
            flops = counter.get_total_flops()
            return loss
        if steps == PROFILED_STEP:
            begun = time.perf_counter()
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                loss = original(self, *inputs, **more)
                torch.cuda.synchronize()
                took = time.perf_counter() - begun
            busy = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / took
            return loss
        return original(self, *inputs, **more)

    training._Trainer.training_step = watched  # type: ignore[method-assign]
    try:
        stage()
    finally:
        training._Trainer.training_step = original  # type: ignore[method-assign]
    step = statistics.median(later - earlier for earlier, later in pairwise(Clock.steps))
    return {
        "stage": name,
        "samples/s": round(arguments.batch / step, 1),
        "ms a step": round(1000 * step, 1),
        "GB": round(torch.cuda.max_memory_allocated() / 1e9, 1),
        "TFLOP a step": round(flops / 1e12, 3),
        "utilisation": f"{flops / step / (arguments.peak * 1e12):.1%}",
        "busy": f"{busy:.0%}",
    }


def commit() -> str:
    """The commit that is measured, where git knows."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COMMIT", "unknown")


if __name__ == "__main__":
    main()
