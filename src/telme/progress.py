"""What long work shows: a progress bar on a terminal, a line now and then elsewhere; always on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import track as rich_track

T = TypeVar("T")

SECONDS_PER_LINE = 60.0  # away from a terminal
SECONDS_PER_EPOCH = 10.0  # between the lines of epochs: of quick ones only some are told, and the last


def track(items: Sequence[T], *, title: str | None) -> Iterable[T]:
    """The items, with a bar that moves as they are taken; without a title, or away from a terminal, nothing shows."""
    console = Console(stderr=True)
    hidden = title is None or not console.is_terminal
    return rich_track(items, description=title or "", console=console, disable=hidden, transient=True)


def counted(items: Iterable[T], *, title: str, unit: str, total: int, done: int) -> Iterator[T]:
    """The items, counted from `done` to `total` as they are taken, with their rate and the time left.

    On a terminal a bar moves; elsewhere a line is printed every SECONDS_PER_LINE.
    """
    console = Console(stderr=True)
    began = printed = time.monotonic()
    with _bar(console, unit, TextColumn("{task.fields[rate]}")) as bar:
        task = bar.add_task(title, total=total, completed=done, rate="")
        for count, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            rate = f"{count / (now - began):.1f} {unit}/s"
            bar.update(task, completed=done + count, rate=rate)
            if not console.is_terminal and now - printed >= SECONDS_PER_LINE:
                printed = now
                left = (total - done - count) * (now - began) / count / 60
                console.print(f"{title}: {done + count:,} of {total:,} {unit}, {rate}, {left:.0f} minutes left")


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """A spinner beside the title while something of unknown length is done; nothing away from a terminal."""
    console = Console(stderr=True)
    with console.status(title) if console.is_terminal else nullcontext():
        yield


class StageProgress:
    """The progress of one training stage: steps, time left, and a line now and then with an epoch's dev score."""

    def __init__(self, title: str, *, steps: int, epochs: int, silent: bool = False) -> None:
        self._console = Console(stderr=True, quiet=silent)
        self._bar = _bar(self._console, "steps")
        self._task = self._bar.add_task(title, total=steps)
        self._title, self._epochs = title, epochs
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def at(self, step: int) -> None:
        """Steps done so far, those of an interrupted run included."""
        self._bar.update(self._task, completed=step)

    def epoch_ended(self, epoch: int, dev: Mapping[str, float], *, best_before: float | None) -> None:
        """Prints the epoch's dev score and the best so far, unless a line was printed just before."""
        now, score = time.monotonic(), dev["dev_weighted_f1"]
        if epoch < self._epochs and now - self._printed < SECONDS_PER_EPOCH:
            return
        self._printed = now
        best = score if best_before is None else max(score, best_before)
        self._console.print(
            f"{self._title}: epoch {epoch} of {self._epochs}, dev weighted F1 {100 * score:.2f}, best {100 * best:.2f}",
            highlight=False,
        )


def _bar(console: Console, unit: str, *columns: TextColumn) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        *columns,
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
    )
