"""Decoding processes that fail, in place of `telme.decoding`'s; a file of their own, as they have to begin quickly."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import telme.decoding
from telme.media import Clip, Recordings, Source


def work_on_traps(connection: Connection) -> None:
    """Decodes, but crashes at 3.mp4, is killed once at 5.mp4, hangs at 7.mp4 and raises at 9.mp4."""
    read = Recordings.clip

    def clip(recordings: Recordings, source: Source) -> Clip:
        trap = Path(source.file)
        if trap.name == "3.mp4":
            os.kill(os.getpid(), signal.SIGSEGV)
        if trap.name == "5.mp4" and not trap.with_name("tried").exists():
            trap.with_name("tried").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if trap.name == "7.mp4":
            time.sleep(60)
        if trap.name == "9.mp4":
            raise AttributeError("a bug of ours")
        return read(recordings, source)

    Recordings.clip = clip  # type: ignore[assignment, method-assign]
    telme.decoding._work(connection)


def end_at_once(_: Connection) -> None:
    """Ends before it has said anything."""
