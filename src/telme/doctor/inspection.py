"""A corpus's media -> what each utterance's clip is like; every file is read once, by a thread for each core.

Sound is decoded, since only samples tell silence from speech. Of the pictures one is decoded; the others are passed by.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from telme.conversation import Utterance
from telme.corpora import Corpus
from telme.doctor.transcripts import OVER_LONG_SECONDS, TOO_SHORT_SECONDS
from telme.media import Probe, Source, probe
from telme.progress import track

TOLERANCE_SECONDS = 0.5  # headers and last packets disagree by less than this in sound files
BLOCK_SECONDS = 0.01
FRAMES_AT_ONCE = 500  # some ten seconds: few enough for memory, many enough for numpy
FULL_SCALE = 0.999  # of the largest sample there is: a decoder's rounding may miss it by a little
UNKNOWN_BYTES = 0x7FFF0000  # programs that write to a pipe announce this much or more
BLACK = 24  # of 255: a row no brighter is a black bar
STEP = 8  # of 255: neighbouring cells of one picture rarely differ by more
STEEP = 0.9  # a seam is among the steepest tenth of its row's steps
PIXELS = 4  # edge of the cells that pictures are compared in: finer is noise of the codec

DAMAGE = (av.FFmpegError, OSError, ValueError)

Blocks: TypeAlias = NDArray[np.float32]  # (blocks, 4): start and length in seconds, mean square, share at full scale
NO_SOUND: Blocks = np.empty((0, 4), np.float32)
Gray: TypeAlias = NDArray[np.uint8]  # (height, width)


class Sound(NamedTuple):
    """What a stretch of sound is like.

    Attributes:
        seconds: How much of it there is.
        level: RMS over all channels in dBFS, minus infinity where every sample is 0.
        clipped: Share of it, 0 to 1, in which some channel is at full scale.
    """

    seconds: float
    level: float
    clipped: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileFacts:
    """What one media file is like.

    Args:
        file: Its path.
        probe: What its header says; none where there is no such file.
        blocks: Its sound, as far as it can be decoded, in stretches of 10 ms or less.
        reach: Where its last picture or sound ends, in seconds.
        missing_bytes: How many more its header announces; known of AVI and WAV, whose durations FFmpeg adjusts.
        pictures: Whether a picture could be decoded.
        seam: Share of the picture's height, 0 to 1, in which it breaks at its middle column; none without a picture,
            or if that is dark.
    """

    file: str
    probe: Probe | None
    blocks: Blocks = field(default_factory=NO_SOUND.copy)
    reach: float = 0.0
    missing_bytes: int = 0
    pictures: bool = False
    seam: float | None = None

    @property
    def reads(self) -> bool:
        """Whether anything in it can be decoded."""
        return self.pictures or self.blocks.size > 0

    @property
    def seconds(self) -> float:
        """How long it should last: by its header, or else by what is in it."""
        return (self.probe and self.probe.seconds) or self.reach

    @property
    def truncated(self) -> bool:
        """Whether it ends before its header says."""
        return self.reads and (self.missing_bytes > 0 or self.seconds - self.reach > TOLERANCE_SECONDS)

    def sound(self, start: float | None = None, end: float | None = None) -> Sound | None:
        """The sound between two times, from the beginning and to the end where they are none; none if there is none."""
        middles = self.blocks[:, 0] + self.blocks[:, 1] / 2
        inside = (middles >= (start or 0.0)) & (middles < (math.inf if end is None else end))
        _, lengths, squares, clipped = self.blocks[inside].T
        seconds = float(lengths.sum())
        if not seconds:
            return None
        power = float(lengths @ squares) / seconds
        return Sound(seconds, 10 * math.log10(power) if power else -math.inf, float(lengths @ clipped) / seconds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipFacts:
    """What one utterance's voice and face are like.

    Args:
        utterance: Whose they are.
        source: Where they should be.
        face: The file with the face.
        voice: The file with the voice; the same one, unless the source names another.
        sound: The voice.
    """

    utterance: Utterance
    source: Source
    face: FileFacts
    voice: FileFacts
    sound: Sound | None

    @property
    def outside(self) -> bool:
        """Whether its span has no length or begins after the recording's end."""
        start, end = self.source.start or 0.0, self.source.end
        return start >= self.face.reach or (end is not None and start >= end)

    @property
    def has_face(self) -> bool:
        """Whether there are pictures in its span."""
        return self.face.pictures and not self.outside

    @property
    def lost(self) -> bool:
        """Whether the text is all that is left."""
        return self.sound is None and not self.has_face

    @property
    def seconds(self) -> float | None:
        """How long it lasts, where there is anything of it."""
        if self.lost or not self.voice.reads:
            return None
        if self.source.voice is not None:
            return self.voice.seconds
        return min(self.source.end or math.inf, self.voice.seconds) - (self.source.start or 0.0)

    @property
    def over_long(self) -> bool:
        """Whether it is longer than 30 s."""
        return self.seconds is not None and self.seconds > OVER_LONG_SECONDS

    @property
    def too_short(self) -> bool:
        """Whether it is shorter than 0.15 s."""
        return self.seconds is not None and self.seconds < TOO_SHORT_SECONDS


def inspect_clips(corpus: Corpus) -> list[ClipFacts]:
    """The facts of every utterance that ought to have media, in the corpus's order."""
    sources = [
        (utterance, corpus.sources[key])
        for utterance in corpus.utterances
        if (key := utterance.id or "") in corpus.sources
    ]
    files = inspect_files(file for _, source in sources for file in (source.file, source.voice) if file)
    return [_clip(utterance, source, files) for utterance, source in sources]


def _clip(utterance: Utterance, source: Source, files: Mapping[str, FileFacts]) -> ClipFacts:
    face = files[source.file]
    if source.voice is None:
        voice, sound = face, face.sound(source.start, source.end)
    else:
        voice = files[source.voice]
        sound = voice.sound()
    return ClipFacts(utterance=utterance, source=source, face=face, voice=voice, sound=sound)


def inspect_files(files: Iterable[str]) -> dict[str, FileFacts]:
    """The facts of every file, which is read once however often it is named."""
    pool = ThreadPoolExecutor(os.cpu_count())  # FFmpeg decodes without holding Python's lock
    try:
        pending = [pool.submit(inspect_file, file) for file in dict.fromkeys(files)]
        return {
            facts.file: facts for facts in (future.result() for future in track(pending, title="listening to clips"))
        }
    finally:
        pool.shutdown(cancel_futures=True)


def inspect_file(file: str) -> FileFacts:
    """The facts of one file; damage shows in them and is no error."""
    header = probe(file) if Path(file).is_file() else None
    if header is None or not header.readable:
        return FileFacts(file=file, probe=header)
    reading = _Reading()
    # To open a film, FFmpeg would decode some of it, which takes longer than all that follows.
    skip = {"skip_frame": "all"}
    with suppress(*DAMAGE), av.open(f"file:{file}", options=skip, metadata_errors="replace") as container:
        reading.read(container, _streams(container))
    return FileFacts(
        file=file,
        probe=header,
        blocks=np.concatenate([NO_SOUND, *reading.blocks]),
        reach=reading.reach,
        missing_bytes=_missing_bytes(file, header.bytes),
        pictures=reading.picture is not None,
        seam=None if reading.picture is None else seam(reading.picture),
    )


def _missing_bytes(file: str, size: int) -> int:
    """How much of a RIFF file is not there; 0 of other files, and of those that were written without knowing."""
    with Path(file).open("rb") as stream:
        magic, announced = stream.read(4), int.from_bytes(stream.read(4), "little")
    return max(0, announced + 8 - size) if magic == b"RIFF" and announced < UNKNOWN_BYTES else 0


def _streams(container: InputContainer) -> list[Stream]:
    """The first pictures and the first sound that can be decoded; a picture on the cover is none."""
    films = [s for s in container.streams.video if s.codec_context and not s.disposition & Disposition.attached_pic]
    sounds = [s for s in container.streams.audio if s.codec_context]
    return [*films[:1], *sounds[:1]]


class _Reading:
    """One pass over a file: all of its sound, and the last key frame of its first half."""

    def __init__(self) -> None:
        self.blocks: list[Blocks] = []
        self.reach = 0.0
        self.picture: Gray | None = None
        # Whatever the format, full scale becomes 1. Packed, since PyAV crashes on more than eight planes.
        self._resampler = AudioResampler(format="flt")
        self._frames: list[AudioFrame] = []

    def read(self, container: InputContainer, streams: Sequence[Stream]) -> None:
        """Reads all that can be read; what was read stays when the rest raises."""
        offset = (container.start_time or 0) / av.time_base
        middle = (container.duration or 0) / av.time_base / 2
        key: Packet[VideoStream] | None = None
        try:
            for packet in container.demux(*streams):
                start = _seconds(packet, packet.pts) - offset
                if packet.size and not packet.is_corrupt:
                    self.reach = max(self.reach, start + _seconds(packet, packet.duration))
                if isinstance(packet.stream, AudioStream):
                    self._hear(cast("Packet[AudioStream]", packet))
                    if len(self._frames) >= FRAMES_AT_ONCE:
                        self._measure(offset)
                elif packet.is_keyframe and (key is None or start <= middle):
                    key = cast("Packet[VideoStream]", packet)
        finally:
            self._measure(offset)
            if key is not None:
                self._see(key)

    def _hear(self, packet: Packet[AudioStream]) -> None:
        with suppress(*DAMAGE):  # the packets after a damaged one may be good
            self._frames += [part for frame in packet.decode() for part in self._resampler.resample(frame)]

    def _measure(self, offset: float) -> None:
        if self._frames:
            self.blocks.append(_blocks(self._frames, offset))
        self._frames = []

    def _see(self, key: Packet[VideoStream]) -> None:
        codec = key.stream.codec_context
        for frame in (*codec.decode(key), *codec.decode(None)):
            self.picture = frame.reformat(format="gray").to_ndarray().astype(np.uint8, copy=False)


def _seconds(packet: Packet[Stream], ticks: int | None) -> float:
    return float((ticks or 0) * packet.time_base)


def _blocks(frames: Sequence[AudioFrame], offset: float) -> Blocks:
    rate, channels = frames[0].sample_rate, frames[0].layout.nb_channels
    samples = np.concatenate([frame.to_ndarray().reshape(-1, channels) for frame in frames])
    step = max(1, round(BLOCK_SECONDS * rate))
    parts = [np.arange(0, frame.samples, step) for frame in frames]
    begins = np.cumsum([0, *(frame.samples for frame in frames)])
    firsts = np.concatenate([begin + part for begin, part in zip(begins, parts, strict=False)])
    starts = np.concatenate(
        [(frame.time or 0.0) - offset + part / rate for frame, part in zip(frames, parts, strict=True)]
    )
    lengths = np.diff(firsts, append=len(samples))
    power = np.add.reduceat(np.einsum("sc,sc->s", samples, samples), firsts) / channels
    clipped = np.add.reduceat((np.abs(samples) >= FULL_SCALE).any(axis=1), firsts, dtype=np.int64)
    return np.stack([starts, lengths / rate, power / lengths, clipped / lengths], axis=1).astype(np.float32)


def seam(picture: Gray) -> float | None:
    """The share of a picture's height, 0 to 1, in which it breaks at its middle column as nowhere else in the row.

    Two pictures side by side break nearly everywhere, a door frame in the middle of one does not. Black bars are
    left out; none if hardly a row is left, or of a picture too small to tell.
    """
    height, width = picture.shape
    half, rows = width // 2 // PIXELS * PIXELS, height // PIXELS * PIXELS
    if not half or not rows:
        return None
    centred = picture[:rows, width // 2 - half : width // 2 + half]
    cells = centred.reshape(rows // PIXELS, PIXELS, 2 * half // PIXELS, PIXELS).mean(axis=(1, 3))
    cells = cells[cells.max(axis=1) > BLACK]
    if len(cells) < rows / PIXELS / 4:
        return None
    steps = np.abs(np.diff(cells, axis=1))
    middle = steps[:, half // PIXELS - 1]
    return float(((middle > STEP) & (middle >= np.quantile(steps, STEEP, axis=1))).mean())
