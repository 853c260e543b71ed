"""The sound of a file, at 16 kHz, mono."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from telme.media.clip import SAMPLE_RATE
from telme.media.container import LEAST_HERTZ, MOST_HERTZ, audio_stream, open_media
from telme.media.track import LEAD_IN_SECONDS, Timed, Track

LEAD_OUT_SECONDS = 0.02  # decoded after it, for the resampler's filter
GAP_SECONDS = 0.1  # sound is contiguous unless its time stamps jump by more; containers round them to milliseconds


class Sound(Track[AudioFrame]):
    """The sound of a file."""

    def waveform(self, start: float, end: float) -> NDArray[np.float32] | None:
        """(samples,) float32 from `start` until `end` or the last sound; none where there is nothing to hear.

        The first sample is `start` rounded to 1/16000 s, so that a span holds the very samples of the whole.
        """
        first = round(start * SAMPLE_RATE)
        waveform = np.zeros(max(round(end * SAMPLE_RATE) - first, 1), np.float32)
        length = 0
        for run in self._runs(start - LEAD_IN_SECONDS, end + LEAD_OUT_SECONDS):
            place, samples = run.resampled()
            place -= first
            until = min(place + len(samples), len(waveform))
            if until > max(place, 0):
                waveform[max(place, 0) : until] = samples[max(-place, 0) : until - place]
                length = max(length, until)
        return waveform[:length] if length else None

    def _open(self, file: Path) -> InputContainer:
        return open_media(file)

    def _choose(self, container: InputContainer) -> AudioStream:
        stream = audio_stream(container)
        assert stream is not None
        return stream

    def _runs(self, start: float, end: float) -> Iterator[_Run]:
        run: _Run | None = None
        for timed in self._between(start, end):
            frame = timed.frame
            form = frame.format.name, frame.layout.name, frame.sample_rate
            is_before_all = timed.start + timed.end < 2 * self._first  # with what a decoder starts, unheard
            if is_before_all or not LEAST_HERTZ <= frame.sample_rate <= MOST_HERTZ:
                continue
            if run is None or run.form != form or abs(timed.start - run.end) > GAP_SECONDS:
                if run is not None:
                    yield run
                run = _Run(self._exact(timed), form)
            run.add(frame)
        if run is not None:
            yield run

    def _between(self, start: float, end: float) -> Iterator[Timed[AudioFrame]]:
        self.move(start)
        if self.now is None and self.next is not None:
            self.step()
        while self.now is not None and self.now.start < end:
            yield self.now
            if self.next is None:
                return
            self.step()

    def _exact(self, timed: Timed[AudioFrame]) -> float:
        """When a frame begins, without the rounding of its container, where all frames are of one length."""
        length = timed.end - timed.start
        exact = self._first_end + round((timed.start - self._first_end) / length) * length
        return exact if abs(exact - timed.start) <= self._unit else timed.start


class _Run:
    """Sound without a gap, mixed down at its own rate; `end` in seconds from the file's beginning."""

    def __init__(self, start: float, form: tuple[str, str, int]) -> None:
        self.start = self.end = start
        self.form = form
        self._samples: list[NDArray[np.float32]] = []
        self._mixer = AudioResampler(format="flt", layout="mono", options={"rematrix_maxval": "1.0"})

    def add(self, frame: AudioFrame) -> None:
        """Appends a frame of the run's own form."""
        self._samples += [_samples(mixed) for mixed in self._mixer.resample(frame)]
        self.end += frame.samples / frame.sample_rate

    def resampled(self) -> tuple[int, NDArray[np.float32]]:
        """The place of its first sample, counted at 16 kHz from the file's beginning, and its (samples,) float32.

        Wherever a run begins it is resampled on the same grid: silence before it fills up the last common multiple of
        the two sampling intervals.
        """
        rate = self.form[-1]
        first = round(self.start * rate)
        silence = np.zeros(first % (rate // math.gcd(rate, SAMPLE_RATE)), np.float32)
        frame = AudioFrame.from_ndarray(np.concatenate([silence, *self._samples])[None], format="flt", layout="mono")
        frame.sample_rate = rate
        resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        samples = np.concatenate([_samples(part) for end in (frame, None) for part in resampler.resample(end)])
        return (first - len(silence)) * SAMPLE_RATE // rate, np.clip(np.nan_to_num(samples), -1.0, 1.0)


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    return cast(NDArray[np.float32], frame.to_ndarray()[0])
