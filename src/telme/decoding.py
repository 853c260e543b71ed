"""Clips decoded and packed by processes of their own: one that crashes or hangs costs one clip and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from telme.errors import TelMEError
from telme.media import Problem, Recordings, Source
from telme.packing import pack_frames, pack_waveform

SECONDS_PER_CLIP = 300.0  # without an answer for so long, a process is taken to hang
CLIPS_PER_PROCESS = 512  # then a fresh one goes on: what FFmpeg frees leaves holes in the heap (docs/benchmarks.md)
TRIES = 2  # the first death may have other causes than the clip, such as memory

_SPAWN = multiprocessing.get_context("spawn")


class Packed(NamedTuple):
    """A clip as the store keeps it."""

    waveform: bytes | None
    frames: bytes | None
    status: str


class Job(NamedTuple):
    """Sources for one process, which opens a recording once for all that follow each other; none has no media."""

    number: int
    sources: Sequence[Source | None]


def decode(jobs: Iterable[Job], *, workers: int) -> Generator[tuple[int, Packed]]:
    """Each job's number with its next clip, as clips become ready; those of one job come in its order.

    A clip on which its process dies, or gives no answer for SECONDS_PER_CLIP, TRIES times is `unreadable`.
    """
    waiting = deque(jobs)
    crew = [_Worker(waiting.popleft()) for _ in range(min(workers, len(waiting)))]
    try:
        while crew:
            ready = wait([worker.connection for worker in crew], timeout=1.0)
            for worker in list(crew):
                if worker.connection not in ready:
                    worker.end_if_it_hangs()
                    continue
                number = worker.job.number
                if packed := worker.take():
                    yield number, packed
                if worker.left:
                    continue
                if waiting:
                    worker.begin(waiting.popleft())
                else:
                    crew.remove(worker)
                    worker.end()
    finally:
        for worker in crew:
            worker.end()


def usable_cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A decoding process with the job it has; a fresh process takes over where one dies."""

    def __init__(self, job: Job) -> None:
        self.job, self.left, self._deaths = job, deque(job.sources), 0
        self._start()

    def begin(self, job: Job) -> None:
        """Gives it the next job."""
        self.job, self.left, self._deaths = job, deque(job.sources), 0
        if self._decoded >= CLIPS_PER_PROCESS:
            self.end()
            self._start()
        elif self._is_up:
            self._give()

    def take(self) -> Packed | None:
        """The next clip of the job; none if the process had only to say that it is up, or died and is tried again.

        Raises:
            TelMEError: The process ended before it had anything to do with a clip.
        """
        try:
            packed: Packed | None = self.connection.recv()
        except (EOFError, OSError):
            return self._replace()
        self._heard = time.monotonic()
        if packed is None:
            self._is_up = True
            self._give()
            return None
        self.left.popleft()
        self._deaths = 0
        self._decoded += 1
        return packed

    def end_if_it_hangs(self) -> None:
        """Kills a process that has given no answer for too long; what `take` finds next is its death."""
        if self._is_up and time.monotonic() - self._heard > SECONDS_PER_CLIP:
            self._process.kill()

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _start(self) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._heard, self._is_up, self._decoded = time.monotonic(), False, 0

    def _give(self) -> None:
        with suppress(BrokenPipeError):  # if it died, `take` finds out
            self.connection.send(list(self.left))

    def _replace(self) -> Packed | None:
        self._process.join(1.0)  # its end may be a little later than that of its pipe
        self.end()
        if not self._is_up:
            raise TelMEError(
                f"a decoding process ended as it began, with exit code {self._process.exitcode}; a script of your own "
                'must call prepare under: if __name__ == "__main__":'
            )
        self._start()
        self._deaths += 1
        if self._deaths < TRIES:
            return None
        self.left.popleft()
        self._deaths = 0
        return Packed(None, None, Problem.UNREADABLE)


def _work(connection: Connection) -> None:
    """Answers lists of sources with their clips, one by one, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the asking process's business
    connection.send(None)
    recordings = Recordings()
    while True:
        try:
            sources = connection.recv()
        except EOFError:
            return
        for source in sources:
            packed = _pack(source, recordings)
            try:
                connection.send(packed)
            except BrokenPipeError:
                return


def _pack(source: Source | None, recordings: Recordings) -> Packed:
    if source is None:
        return Packed(None, None, Problem.NO_MEDIA)
    try:
        clip = recordings.clip(source)
    except Exception:  # a bug, to be seen; but a corpus is not lost for one clip
        sys.stderr.write(f"{source.file}: {traceback.format_exc()}")
        return Packed(None, None, Problem.UNREADABLE)
    return Packed(
        None if clip.waveform is None else pack_waveform(clip.waveform),
        None if clip.frames is None else pack_frames(clip.frames),
        clip.status,
    )
