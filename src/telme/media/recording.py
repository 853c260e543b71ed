"""A media file held open, and clips of any span of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import av
import numpy as np

from telme.media.clip import (
    FRAME_SIZE,
    FRAMES,
    LONGEST_SECONDS,
    SAMPLE_RATE,
    SHORTEST_SAMPLES,
    SHORTEST_SECONDS,
    Clip,
    Half,
    Problem,
    Source,
    in_order,
    joined,
)
from telme.media.container import DAMAGE, MICROSECOND, audio_stream, in_seconds, open_media, video_stream
from telme.media.picture import Picture
from telme.media.sound import Sound

TOLERANCE_SECONDS = 0.5  # in healthy files, header and last packet disagree by less

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
        self._sound: Sound | None = None
        self._picture: Picture | None = None
        self._header_seconds = -math.inf  # what the header promises, if it does
        with suppress(*DAMAGE):
            with open_media(self.file) as container:
                self._header_seconds = in_seconds(container.duration, MICROSECOND) or -math.inf
                has_sound, has_picture = audio_stream(container) is not None, video_stream(container) is not None
            self._sound = Sound(self.file) if has_sound else None
            self._picture = Picture(self.file) if has_picture else None

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
            problems=in_order(problems),
        )

    @property
    def _tracks(self) -> list[Sound | Picture]:
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
        return joined(voice, face)

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
