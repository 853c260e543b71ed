"""One stream of a file, decoded from any moment on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar, cast

from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from telme.media.container import DAMAGE, MICROSECOND, in_seconds, open_media

LEAD_IN_SECONDS = 0.5  # decoded before a span and dropped: codecs and resampler have settled by then
KEY_FRAME_SECONDS = 10.0  # key frames are seldom further apart, so over a shorter way seeking saves nothing for sure

Frame = TypeVar("Frame", bound=AudioFrame | VideoFrame)


@dataclass(frozen=True, slots=True)
class Timed(Generic[Frame]):
    """A decoded frame and when it begins and ends, in seconds from the file's beginning."""

    start: float
    end: float
    frame: Frame


class Track(ABC, Generic[Frame]):
    """One stream of a file with a decoder of its own, at a position that moves forward or, where shorter, seeks.

    Args:
        file: Holds such a stream.

    Attributes:
        now: The frame at the position; none before the first.
        next: The frame after it; none after the last.
        damaged: Whether anything did not decode since this was last set to false.
        stamps: Of all packets in the order of time, once the end is measured.
        wanted: Stamps of the frames that must be decoded even if no other refers to them; empty: all.
        header_end: Where the header says that the stream ends; -infinity where it does not say.
    """

    def __init__(self, file: Path) -> None:
        self.now: Timed[Frame] | None
        self.next: Timed[Frame] | None
        self.damaged = False
        self._file = file
        self._first = self._first_end = 0.0
        self.stamps: list[int] = []
        self.wanted: set[int] = set()
        self._reopen()
        if self.next is not None:
            self._first, self._first_end = self.next.start, self.next.end
        duration = in_seconds(self._stream.duration, self._unit)
        self.header_end = self._time(self._stream.start_time or 0) + duration if duration else -math.inf

    @cached_property
    def measured_end(self) -> float:
        """Where the last packet ends, found in a reading of its own; nothing is decoded."""
        end = 0.0
        with open_media(self._file) as container:
            for packet in self._packets(container, self._choose(container)):
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is not None and not packet.is_discard:
                    self.stamps.append(stamp)
                    end = max(end, self._time(stamp + (packet.duration or 0)))
        self.stamps.sort()
        return end

    @property
    def is_void(self) -> bool:
        """Whether nothing decodes here."""
        return self.now is None and self.next is None

    @property
    def ended_at(self) -> float:
        """Where the stream turned out to end; infinity while that is not known."""
        if "measured_end" in self.__dict__:
            return self.measured_end
        if self.next is not None:
            return math.inf
        return self.now.end if self.now else 0.0

    def move(self, time: float) -> None:
        """Makes `now` the last frame that begins at or before `time`; none where all begin later."""
        if not self._is_on_the_way(time):
            self._seek(time)
        while self.next is not None and self.next.start <= time:
            self.step()

    def step(self) -> None:
        """Moves on by one frame."""
        self.now, self.next = self.next, next(self._frames, None)

    def close(self) -> None:
        """Closes the file."""
        self._container.close()

    @abstractmethod
    def _open(self, file: Path) -> InputContainer:
        """The file, opened for decoding."""

    @abstractmethod
    def _choose(self, container: InputContainer) -> AudioStream | VideoStream:
        """The stream in a file just opened."""

    def _is_on_the_way(self, time: float) -> bool:
        """Whether decoding on from here reaches `time`, with no more work than from the key frame before it."""
        here = self.now or self.next
        if here is None:
            return True
        if here.start > max(time, self._first):
            return False
        index = self._stream.index_entries
        entry = index.search_timestamp(self._stamp(time))
        if entry >= 0 and self._time(index[entry].timestamp) > here.start:
            return False
        return time - here.start < KEY_FRAME_SECONDS

    def _seek(self, time: float) -> None:
        """Goes to the key frame before `time`, or to the beginning where the file cannot be searched."""
        if time > self._first:
            targets = time, time - KEY_FRAME_SECONDS  # the second where the first lands too late
        else:
            targets = self._first - LEAD_IN_SECONDS, self._first  # sound decoders start with what is not heard
        for target in targets:
            try:
                self._container.seek(self._stamp(target), stream=self._stream)
            except DAMAGE:
                continue
            self._begin()
            if self.next is not None and self.next.start <= max(time, self._first):
                return
        self.close()
        self._reopen()

    def _reopen(self) -> None:
        self._container = self._open(self._file)
        self._stream = self._choose(self._container)
        self._unit = cast(Fraction, self._stream.time_base)
        self._origin = in_seconds(self._container.start_time, MICROSECOND)
        for other in self._container.streams:
            other.discard = Discard.default if other is self._stream else Discard.all
        self._stream.codec_context.thread_count = 1  # the least work; whoever has many clips runs many processes
        self._begin()

    def _begin(self) -> None:
        self._frames = self._decoded()
        self.now, self.next = None, next(self._frames, None)

    def _decoded(self) -> Iterator[Timed[Frame]]:
        """The frames from where the file stands, in the order of presentation; what does not decode is left out."""
        end = self._first
        for packet in self._packets(self._container, self._stream):
            needed = not self.wanted or packet.pts is None or packet.pts in self.wanted
            self._stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
            try:
                frames = packet.decode()
            except DAMAGE:
                self.damaged = True
                continue
            for frame in cast(list[Frame], frames):
                start = end if frame.pts is None else self._time(frame.pts)
                end = start + _length(frame)
                yield Timed(start, end, frame)

    def _packets(self, container: InputContainer, stream: AudioStream | VideoStream) -> Iterator[Packet[Stream]]:
        packets: Iterator[Packet[Stream]] = container.demux((stream,))
        while True:
            try:
                packet = next(packets, None)
            except DAMAGE:
                self.damaged = True
                return
            if packet is None:
                return
            self.damaged |= packet.is_corrupt
            yield packet

    def _time(self, stamp: int) -> float:
        return stamp * self._unit.numerator / self._unit.denominator - self._origin

    def _stamp(self, time: float) -> int:
        return int((time + self._origin) / self._unit)


def _length(frame: AudioFrame | VideoFrame) -> float:
    if isinstance(frame, AudioFrame):
        return frame.samples / frame.sample_rate
    return in_seconds(frame.duration, frame.time_base)
