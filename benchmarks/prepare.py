"""Prints what preparing a store costs: memory by number of clips, clips a second, size, and reading a row at random.

Run from the repository: python benchmarks/prepare.py [MELD]
MELD is a folder in MELD's layout; without one, `telme synth` makes it. The corpus is repeated under new ids up to the
number of clips. CPU time is user and system; the ratios hold where the times of a shared machine do not.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import av

from telme.conversation import Conversation
from telme.corpora import Corpus, read_corpus
from telme.corpora.synthetic import write_synthetic
from telme.media import Source, read_clip
from telme.prepare import prepare
from telme.store import Store

MELD_CLIPS = 13_708
READS = 200


class Cost(NamedTuple):
    """What one call of `prepare` took."""

    seconds: float
    cpu_seconds: float
    main_mb: float  # most memory of the calling process,
    worker_mb: float  # and of the largest decoding process


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, help="folder in MELD's layout")
    parser.add_argument("--clips", type=int, default=1_000, help="how many to prepare")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.root is None:
            write_synthetic(folder / "meld")
        meld = read_corpus("meld", arguments.root or folder / "meld")
        print(f"Commit {commit()}, {date.today()}; {hardware()}; PyAV {av.__version__}.\n")
        print("| clips | processes | clips/s | CPU ms a clip | memory, caller | memory, process |")
        print("| --: | --: | --: | --: | --: | --: |")
        for share, workers in ((4, 2), (2, 2), (1, 2), (1, 1)):
            corpus = of_size(meld, arguments.clips // share)
            count = len(corpus.sources)
            cost = measure(corpus, folder / f"{share}-{workers}", workers)
            print(
                f"| {count:,} | {workers} | {count / cost.seconds:.1f} | {1000 * cost.cpu_seconds / count:.0f} "
                f"| {cost.main_mb:.0f} MB | {cost.worker_mb:.0f} MB |"
            )
        print()
        for line in reading(Store(folder / "1-2"), corpus):
            print(f"- {line}")


def of_size(meld: Corpus, clips: int) -> Corpus:
    """The train split, as often as it takes for that many clips, each time with ids of its own."""
    conversations: list[Conversation] = []
    sources: dict[str, Source] = {}
    while len(sources) < clips:
        for conversation in meld.splits["train"]:
            key = f"train/dia{len(conversations)}"
            turns = [replace(turn, id=f"{key}_utt{number}") for number, turn in enumerate(conversation)]
            turns = turns[: clips - len(sources)]
            sources |= {str(new.id): meld.sources[str(old.id)] for old, new in zip(conversation, turns, strict=False)}
            conversations.append(Conversation(key, tuple(turns)))
            if len(sources) == clips:
                break
    return replace(meld, splits={"train": tuple(conversations)}, sources=sources)


def measure(corpus: Corpus, out: Path, workers: int) -> Cost:
    """What `prepare` takes, measured in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, corpus, out, workers).result()


def _measure(corpus: Corpus, out: Path, workers: int) -> Cost:
    began, cpu = time.monotonic(), cpu_seconds()
    prepare(corpus, out, workers=workers)
    return Cost(
        seconds=time.monotonic() - began,
        cpu_seconds=cpu_seconds() - cpu,
        main_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        worker_mb=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000,
    )


def reading(store: Store, corpus: Corpus) -> list[str]:
    """What the store's size is, and what it takes to open it and to read its rows in any order."""
    size = sum((store.path / shard.file).stat().st_size for shard in store.manifest.shards)
    began = time.monotonic()
    Store(store.path)
    opened = time.monotonic() - began
    sources = list(corpus.sources.values())
    rows = random.Random(0).sample(range(len(sources)), min(READS, len(sources)))
    clips = store.clips("train")
    clips[0]
    cpu = cpu_seconds()
    for row in rows:
        clips[row]
    read = cpu_seconds() - cpu
    cpu = cpu_seconds()
    for row in rows:
        read_clip(sources[row])
    decoded = cpu_seconds() - cpu
    each = size / len(sources)
    return [
        f"{each / 1000:.0f} KB a clip; {MELD_CLIPS:,} clips, as many as MELD has: {MELD_CLIPS * each / 1e9:.2f} GB",
        f"opening the store, whose {size / 1e6:.0f} MB are hashed: {opened:.2f} s, {size / opened / 1e9:.1f} GB/s",
        f"a row at random: {1000 * read / len(rows):.2f} ms of CPU; decoding its clip: "
        f"{1000 * decoded / len(rows):.0f} ms, {decoded / read:.0f} times as much",
    ]


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
