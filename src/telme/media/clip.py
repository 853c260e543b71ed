"""The voice and face of one utterance: where they are, what was read of them, and what was wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # Hz
FRAMES = 8
FRAME_SIZE = 224  # pixels
LONGEST_SECONDS = 25.0  # of a longer span the end is read: the feeling of a turn shows where it leads
SHORTEST_SECONDS = 0.25  # twelve steps of the voice encoder, more than any of its time masks
SHORTEST_SAMPLES = int(SHORTEST_SECONDS * SAMPLE_RATE)

Half = Literal["left", "right"]


class Problem(StrEnum):
    """What is missing from a clip, or was done to it."""

    NO_MEDIA = "no-media"
    """The corpus has no media for the utterance."""
    MISSING = "missing"
    """There is no such file."""
    UNREADABLE = "unreadable"
    """The file is no media file, or is damaged beyond use."""
    EMPTY_SPAN = "empty-span"
    """The span has no length, or begins after the recording's end."""
    TRUNCATED = "truncated"
    """The media ends before it should, or a part of it does not decode; the clip is what could be decoded."""
    NO_AUDIO = "no-audio"
    """There is no sound to be had."""
    NO_VIDEO = "no-video"
    """There is no picture to be had."""
    PADDED = "padded"
    """Silence was added up to `SHORTEST_SECONDS`."""
    CUT = "cut"
    """Of more than `LONGEST_SECONDS` only the end was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an utterance's voice and face are.

    Args:
        file: A clip, or a recording of which `start` to `end` is the utterance.
        start: Seconds from the recording's beginning; none: from there.
        end: Seconds from the recording's beginning; none: to its end.
        half: The speaker's half of a split screen.
        voice: A file with the voice alone, read whole, instead of the sound of `file`.
    """

    file: str
    start: float | None = None
    end: float | None = None
    half: Half | None = None
    voice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """The voice and face of one utterance, as far as they could be read.

    Args:
        waveform: (samples,) float32 at 16 kHz, mono; none where there is no sound.
        frames: (8, 224, 224, 3) uint8, RGB; none where there is no picture.
        frame_times: When each frame came on screen, in seconds from the span's start; at most a little negative.
        problems: In the order of `Problem`.
    """

    waveform: NDArray[np.float32] | None = None
    frames: NDArray[np.uint8] | None = None
    frame_times: tuple[float, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def status(self) -> str:
        """The problems in one line, such as `padded, no-video`; `ok` where there are none."""
        return ", ".join(self.problems) or "ok"


def joined(voice: Clip, face: Clip) -> Clip:
    """The sound of one clip with the picture of another."""
    problems = {*voice.problems, *face.problems}
    if voice.waveform is not None or face.frames is not None:
        problems -= {Problem.MISSING, Problem.UNREADABLE, Problem.NO_AUDIO, Problem.NO_VIDEO, Problem.PADDED}
        problems |= {Problem.NO_AUDIO} if voice.waveform is None else {Problem.PADDED} & {*voice.problems}
        problems |= {Problem.NO_VIDEO} if face.frames is None else set()
    return Clip(
        waveform=voice.waveform,
        frames=face.frames,
        frame_times=face.frame_times,
        problems=in_order(problems),
    )


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The problems, each once, in the order of `Problem`."""
    return tuple(problem for problem in Problem if problem in set(problems))
