"""Times the whole of training, three stages from media files, against a loop that decodes and encodes as it goes.

    python benchmarks/pipeline.py

Both ways train the same small backbones on the same made-up clips, in the batches of 4 and with the optimiser of recipe
`meld`: ours by `prepare` and `train`, the other one (`released_loop.py`) with the data flow of the authors' release.
Ours includes checkpoints, the scores on test, the report and the model folder. CPU time is user and system, of child
processes too; its ratio holds where the times of a shared machine do not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from telme.corpora import Corpus, read_corpus
from telme.corpora.synthetic import write_synthetic

if TYPE_CHECKING:
    from telme.recipes import Recipe

STAGES = {"prepare": "decoding, once", "teach": "teacher", "distil": "both students", "fuse": "fusion"}


class Cost(NamedTuple):
    """What a stage took."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dialogues", type=int, default=8, help="of the made-up corpus, 4 to 10 clips each")
    parser.add_argument("--epochs", type=int, default=10, help="of the teacher, of each student and of the fusion")
    arguments = parser.parse_args()
    # Before PyTorch is imported; several threads that wait for a busy machine spend CPU time without doing anything.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tree = commit()  # others may go on working while it runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_synthetic(folder / "meld", dialogues=arguments.dialogues)
        corpus = read_corpus("meld", folder / "meld")
        ours, theirs = our_stages(corpus, folder, arguments.epochs), their_stages(corpus, arguments.epochs)
        fast, slow = dict[str, Cost](), dict[str, Cost]()
        for stage in STAGES:  # in turn, so that a busy machine slows both
            fast[stage] = cost(ours[stage])
            slow[stage] = cost(theirs[stage]) if stage in theirs else Cost()
    sizes = ", ".join(f"{sum(map(len, of_split))} {split}" for split, of_split in corpus.splits.items())
    print(f"Commit {tree}, {date.today()}; {hardware()}.")
    print(f"Clips: {sizes}; {arguments.epochs} epochs; {os.environ['OMP_NUM_THREADS']} thread(s).\n")
    print("| | released loop, s | CPU s | telme, s | CPU s | ratio | of CPU |\n| --- " + "| --: " * 6 + "|")
    for stage, title in STAGES.items():
        print(row(title, slow[stage], fast[stage]))
    print(row("all", total(slow), total(fast)))


def our_stages(corpus: Corpus, folder: Path, epochs: int) -> dict[str, Callable[[], object]]:
    """What a user calls, who prepares the corpus and trains on the store."""
    # The processes that decode import this file anew: what is slow to import is imported where it is needed.
    from telme.prepare import prepare
    from telme.stages import train
    from telme.store import Store

    recipe = small_meld(epochs)

    def fit(stage: str) -> None:
        train(recipe, Store(folder / "store"), folder / "run", stage=stage)

    fits = {stage: partial(fit, stage) for stage in STAGES if stage != "prepare"}
    return {"prepare": partial(prepare, corpus, folder / "store"), **fits}


def their_stages(corpus: Corpus, epochs: int) -> dict[str, Callable[[], object]]:
    """The stages of the released loop, which decodes in each of them."""
    from released_loop import ReleasedLoop

    warnings.simplefilter("ignore")  # librosa announces that it will stop reading videos
    loop = ReleasedLoop(small_meld(epochs), corpus)
    loop.collate(loop.train[:1])  # librosa compiles what it needs when it is first called
    return {"teach": loop.teach, "distil": loop.distil, "fuse": loop.fuse}


def small_meld(epochs: int) -> Recipe:
    """Recipe `meld` with backbones that are built from scratch."""
    from telme.backbones import SCRATCH
    from telme.recipes import meld

    recipe = meld()
    for modality in recipe.modalities:
        recipe = recipe.with_backbone(modality, SCRATCH)
    fitting = replace(recipe.teach, epochs=epochs)  # all three of `meld` are the same
    return replace(recipe, teach=fitting, distil=fitting, fuse=fitting)


def cost(work: Callable[[], object]) -> Cost:
    """What a call takes."""
    began, cpu_began = time.monotonic(), cpu_seconds()
    work()
    return Cost(time.monotonic() - began, cpu_seconds() - cpu_began)


def total(costs: dict[str, Cost]) -> Cost:
    """All stages together."""
    return Cost(*map(sum, zip(*costs.values(), strict=True)))


def row(title: str, slow: Cost, fast: Cost) -> str:
    """A line of the table."""
    ratios = [f"{theirs / ours:.1f}" if theirs else "" for theirs, ours in zip(slow, fast, strict=True)]
    return "| " + " | ".join([title, *(f"{number:.1f}" for number in (*slow, *fast)), *ratios]) + " |"


def cpu_seconds() -> float:
    """CPU time so far, of ended child processes too."""
    return sum(os.times()[:4])


def hardware() -> str:
    """The processor and the number of its cores."""
    names = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    return f"{names[0].split(':')[1].strip() if names else 'unknown processor'}, {os.cpu_count()} cores"


def commit() -> str:
    """Short hash of the checked-out commit."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
