"""A clip, or a span of a recording, as 16 kHz mono sound and eight RGB frames; bad media is a status, no error."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Generic, Literal, Self, TypeVar, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # Hz
FRAMES = 8
FRAME_SIZE = 224  # pixels
LONGEST_SECONDS = 25.0  # of a longer span the end is read: the feeling of a turn shows where it leads
SHORTEST_SECONDS = 0.25  # twelve steps of the voice encoder, more than any of its time masks
SHORTEST_SAMPLES = int(SHORTEST_SECONDS * SAMPLE_RATE)

LEAD_IN_SECONDS = 0.5  # decoded before a span and dropped: codecs and resampler have settled by then
LEAD_OUT_SECONDS = 0.02  # decoded after it, for the resampler's filter
KEY_FRAME_SECONDS = 10.0  # key frames are seldom further apart, so over a shorter way seeking saves nothing for sure
TOLERANCE_SECONDS = 0.5  # in healthy files, header and last packet disagree by less
GAP_SECONDS = 0.1  # sound is contiguous unless its time stamps jump by more; containers round them to milliseconds
MOST_PIXELS = 8192 * 4320  # decoders refuse larger pictures, which only damaged headers have
LEAST_HERTZ, MOST_HERTZ = 1_000, 768_000  # sampling rates of sound; others are damage
MICROSECOND = Fraction(1, 1_000_000)
LONGEST_EDGE = 16 * FRAME_SIZE  # of a scaled picture, whatever its aspect ratio

DECODER: Mapping[str, str | int | float] = MappingProxyType(
    {
        "backend": f"PyAV {av.__version__}",
        **{name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())},
        "interpolation": "bilinear",
        "downmix": "swresample, normalised",
        "sample_rate": SAMPLE_RATE,
        "frames": FRAMES,
        "frame_size": FRAME_SIZE,
        "longest_seconds": LONGEST_SECONDS,
        "shortest_seconds": SHORTEST_SECONDS,
    }
)
"""What decides the samples and pixels of a clip, for the manifest of whatever keeps them."""

Half = Literal["left", "right"]
Frame = TypeVar("Frame", bound=AudioFrame | VideoFrame)

# What PyAV raises for damaged media: mostly, but not only, its own errors.
DAMAGE = (av.error.FFmpegError, OSError, ValueError, ArithmeticError, LookupError, MemoryError)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a file's header says, for the doctor; nothing is decoded.

    Args:
        readable: Whether it is a media file with at least one stream that can be decoded.
        bytes: Size of the file.
        seconds: Duration, where the header tells.
        width: Pixels, as coded: before any rotation.
        height: Pixels, as coded.
        frame_rate: Average frames per second.
        channels: Of the sound.
        sample_rate: Hertz.
        has_audio: Whether there is a sound stream.
        has_video: Whether there is a picture stream; cover art is none.
    """

    readable: bool = False
    bytes: int = 0
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    channels: int | None = None
    sample_rate: int | None = None
    has_audio: bool = False
    has_video: bool = False


class Recording:
    """One media file held open (a context manager); spans in any order, cheapest in the order of time.

    Times are seconds from the file's beginning, that is from the earliest time stamp of its streams: where the sound
    begins later than the picture the waveform begins with silence, where the picture begins later its first frame
    stands for the time before. A frame is on screen from its own time stamp to the next one's, whatever the frame rate.
    A span holds the samples and frames of the whole, but for the noise that AAC leaves to the decoder: that is drawn in
    sequence, so a file opened anew and asked for the same spans in the same order gives the same bytes.

    Args:
        file: Any container and codecs that FFmpeg knows. A file that is missing or no media is no error: its clips
            tell.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._sound: _Sound | None = None
        self._picture: _Picture | None = None
        self._header_seconds = -math.inf  # what the header promises, if it does
        with suppress(*DAMAGE):
            with _open(self.file) as container:
                self._header_seconds = _in_seconds(container.duration, MICROSECOND) or -math.inf
                has_sound, has_picture = _audio(container) is not None, _video(container) is not None
            self._sound = _Sound(self.file) if has_sound else None
            self._picture = _Picture(self.file) if has_picture else None

    def clip(self, start: float | None = None, end: float | None = None, *, half: Half | None = None) -> Clip:
        """The clip from `start` to `end` in seconds; of the whole file without them.

        The waveform is mixed down from all channels by swresample's matrix, scaled so that it cannot overflow. The
        frames are those on screen at the middles of eight equal parts of the span: upright, the shortest edge scaled
        to 224 pixels, the centre cut out; with `half`, of that half of the picture.
        """
        if not self._tracks:
            return Clip(problems=(Problem.UNREADABLE if self.file.is_file() else Problem.MISSING,))
        try:
            return self._clip(start, end, half)
        except DAMAGE:
            return Clip(problems=(Problem.UNREADABLE,))

    def _clip(self, start: float | None, end: float | None, half: Half | None) -> Clip:
        begin = max(start or 0.0, 0.0)
        asked = math.inf if end is None else end
        stop = min(asked, self._seconds) if asked > self._header_seconds else asked
        if not begin < stop:
            return Clip(problems=(Problem.EMPTY_SPAN,))
        problems = set()
        if stop - begin > LONGEST_SECONDS:
            problems.add(Problem.CUT)
            begin = stop - LONGEST_SECONDS
        for track in self._tracks:
            track.damaged = False
        waveform = self._sound.waveform(begin, stop) if self._sound else None
        frames = self._picture.frames(begin, stop, half) if self._picture else []
        if self._is_truncated(asked):
            problems.add(Problem.TRUNCATED)
        if waveform is None:
            problems.add(Problem.NO_AUDIO)
        elif len(waveform) < SHORTEST_SAMPLES:
            problems.add(Problem.PADDED)
            waveform = np.pad(waveform, (0, SHORTEST_SAMPLES - len(waveform)))
        if not frames:
            problems.add(Problem.NO_VIDEO)
        return Clip(
            waveform=waveform,
            frames=np.stack([pixels for _, pixels in frames]) if frames else None,
            frame_times=tuple(time - begin for time, _ in frames),
            problems=_in_order(problems),
        )

    @property
    def _tracks(self) -> list[_Sound | _Picture]:
        return [track for track in (self._sound, self._picture) if track is not None]

    @property
    def _seconds(self) -> float:
        """The duration, whatever the header says."""
        return max(track.measured_end for track in self._tracks)

    def _is_truncated(self, end: float) -> bool:
        """Whether the clip just read, which was to reach until `end`, lacks what was asked for or promised."""
        asked = self._header_seconds if math.isinf(end) else end
        return (
            any(track.damaged or track.is_void for track in self._tracks)
            or any(track.ended_at < min(end, track.header_end) - TOLERANCE_SECONDS for track in self._tracks)
            or max(track.ended_at for track in self._tracks) < asked - TOLERANCE_SECONDS
        )

    def close(self) -> None:
        """Closes the file."""
        for track in self._tracks:
            track.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Recordings:
    """Reads clips one after the other; sources of the same file share one open recording (a context manager)."""

    def __init__(self) -> None:
        self._recording: Recording | None = None

    def clip(self, source: Source) -> Clip:
        """The clip of a source; never an error, whatever is in the files."""
        if source.voice is None:
            return self._open(source.file).clip(source.start, source.end, half=source.half)
        with Recording(source.voice) as recording:
            voice = recording.clip()
        face = self._open(source.file).clip(source.start, source.end, half=source.half)
        return _joined(voice, face)

    def _open(self, file: str) -> Recording:
        if self._recording is None or self._recording.file != Path(file):
            self.close()
            self._recording = Recording(file)
        return self._recording

    def close(self) -> None:
        """Closes the open recording; reading on opens one again."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_clip(source: Source) -> Clip:
    """The clip of one source; for many sources of the same files, `Recordings` is faster."""
    with Recordings() as recordings:
        return recordings.clip(source)


def probe(file: str | Path) -> Probe:
    """What the header of a file says; `readable` is false where there is no file or no media in it."""
    path = Path(file)
    size = path.stat().st_size if path.is_file() else 0
    try:
        with _open(path) as container:
            audio, video = _audio(container), _video(container)
            return Probe(
                readable=audio is not None or video is not None,
                bytes=size,
                seconds=_in_seconds(container.duration, MICROSECOND) or None,
                width=video.width if video else None,
                height=video.height if video else None,
                frame_rate=float(video.average_rate) if video and video.average_rate else None,
                channels=audio.channels if audio else None,
                sample_rate=audio.sample_rate if audio else None,
                has_audio=audio is not None,
                has_video=video is not None,
            )
    except DAMAGE:
        return Probe(bytes=size)


@dataclass(frozen=True, slots=True)
class _Timed(Generic[Frame]):
    """A decoded frame and when it begins and ends, in seconds from the file's beginning."""

    start: float
    end: float
    frame: Frame


class _Track(ABC, Generic[Frame]):
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
        self.now: _Timed[Frame] | None
        self.next: _Timed[Frame] | None
        self.damaged = False
        self._file = file
        self._first = self._first_end = 0.0
        self.stamps: list[int] = []
        self.wanted: set[int] = set()
        self._reopen()
        if self.next is not None:
            self._first, self._first_end = self.next.start, self.next.end
        duration = _in_seconds(self._stream.duration, self._unit)
        self.header_end = self._time(self._stream.start_time or 0) + duration if duration else -math.inf

    @cached_property
    def measured_end(self) -> float:
        """Where the last packet ends, found in a reading of its own; nothing is decoded."""
        end = 0.0
        with _open(self._file) as container:
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
        self._origin = _in_seconds(self._container.start_time, MICROSECOND)
        for other in self._container.streams:
            other.discard = Discard.default if other is self._stream else Discard.all
        self._stream.codec_context.thread_count = 1  # the least work; whoever has many clips runs many processes
        self._begin()

    def _begin(self) -> None:
        self._frames = self._decoded()
        self.now, self.next = None, next(self._frames, None)

    def _decoded(self) -> Iterator[_Timed[Frame]]:
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
                yield _Timed(start, end, frame)

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


class _Sound(_Track[AudioFrame]):
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
        return _open(file)

    def _choose(self, container: InputContainer) -> AudioStream:
        stream = _audio(container)
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

    def _between(self, start: float, end: float) -> Iterator[_Timed[AudioFrame]]:
        self.move(start)
        if self.now is None and self.next is not None:
            self.step()
        while self.now is not None and self.now.start < end:
            yield self.now
            if self.next is None:
                return
            self.step()

    def _exact(self, timed: _Timed[AudioFrame]) -> float:
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


class _Picture(_Track[VideoFrame]):
    """The moving picture of a file."""

    def __init__(self, file: Path) -> None:
        self._scaler = VideoReformatter()
        super().__init__(file)

    def frames(self, start: float, end: float, half: Half | None) -> list[tuple[float, NDArray[np.uint8]]]:
        """Time stamps and (224, 224, 3) RGB of the eight frames on screen; empty where there is nothing to see."""
        frames: list[tuple[float, NDArray[np.uint8]]] = []
        shown: _Timed[VideoFrame] | None = None
        times = [start + (part + 0.5) * (end - start) / FRAMES for part in range(FRAMES)]
        has_skipped = bool(self.wanted)
        self.wanted = {self._stamp_on_screen(time) for time in times} if self.stamps else set()
        if has_skipped:  # what was not wanted then may be now
            self._seek(times[0])
        for time in times:
            self.move(time)
            frame = self.now or self.next
            if frame is None:
                return []
            pixels = frames[-1][1] if frame is shown else self._pixels(frame.frame, half)
            frames.append((frame.start, pixels))
            shown = frame
        return frames

    def _open(self, file: Path) -> InputContainer:
        container = _open(file)
        if "mp4" in container.format.name:  # its index tells how far pictures are out of order
            return container
        container.close()
        return _open(file, look=True)

    def _choose(self, container: InputContainer) -> VideoStream:
        stream = _video(container)
        assert stream is not None
        return stream

    def _stamp_on_screen(self, time: float) -> int:
        return self.stamps[max(bisect_right(self.stamps, time, key=self._time) - 1, 0)]

    def _pixels(self, frame: VideoFrame, half: Half | None) -> NDArray[np.uint8]:
        """(224, 224, 3) RGB: upright, the speaker's half, the shortest edge scaled to 224, the centre."""
        quarters = round(frame.rotation / 90)
        height, width = (frame.width, frame.height) if quarters % 2 else (frame.height, frame.width)
        parts = 1 if half is None else 2
        scale = FRAME_SIZE / min(height, width / parts)
        height = min(max(round(height * scale), FRAME_SIZE), LONGEST_EDGE)
        width = min(max(round(width * scale / parts), FRAME_SIZE), LONGEST_EDGE) * parts
        small = self._scaler.reformat(
            frame,
            width=height if quarters % 2 else width,
            height=width if quarters % 2 else height,
            format="rgb24",
            interpolation=Interpolation.BILINEAR,  # swscale widens the filter when it shrinks: no aliasing
            threads=1,
        )
        pixels = np.rot90(small.to_ndarray(), quarters)
        top = (height - FRAME_SIZE) // 2
        left = (width // parts - FRAME_SIZE) // 2 + (width // 2 if half == "right" else 0)
        return np.ascontiguousarray(pixels[top : top + FRAME_SIZE, left : left + FRAME_SIZE])


def _open(file: Path, *, look: bool = False) -> InputContainer:
    """The file, opened; unless told to, without a look at its pictures, which costs a tenth of decoding a clip."""
    options = {"protocol_whitelist": "file", "max_pixels": str(MOST_PIXELS), "skip_frame": "default" if look else "all"}
    # With "file:" before it, a name with a colon is no network address.
    container = av.open(f"file:{file}", options=options, metadata_errors="replace")
    if container.format.name == "tty":
        container.close()
        raise ValueError(f"{file}: a text file, which FFmpeg would show on a screen")
    return container


def _audio(container: InputContainer) -> AudioStream | None:
    """The first sound whose sampling rate can be true."""
    for stream in container.streams.audio:
        if stream.codec_context is not None and LEAST_HERTZ <= stream.sample_rate <= MOST_HERTZ:
            return stream
    return None


def _video(container: InputContainer) -> VideoStream | None:
    """The first moving picture; cover art is none."""
    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _in_seconds(duration: int | None, unit: Fraction | None) -> float:
    """A time of a header in seconds; 0 where it does not say."""
    return float(duration * unit) if duration and unit else 0.0


def _length(frame: AudioFrame | VideoFrame) -> float:
    if isinstance(frame, AudioFrame):
        return frame.samples / frame.sample_rate
    return _in_seconds(frame.duration, frame.time_base)


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    return cast(NDArray[np.float32], frame.to_ndarray()[0])


def _in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(problem for problem in Problem if problem in set(problems))


def _joined(voice: Clip, face: Clip) -> Clip:
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
        problems=_in_order(problems),
    )
