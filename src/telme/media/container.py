"""A media file, opened, and the streams in it that can be used."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

MOST_PIXELS = 8192 * 4320  # decoders refuse larger pictures, which only damaged headers have
LEAST_HERTZ, MOST_HERTZ = 1_000, 768_000  # sampling rates of sound; others are damage
MICROSECOND = Fraction(1, 1_000_000)

# What PyAV raises for damaged media: mostly, but not only, its own errors.
DAMAGE = (av.error.FFmpegError, OSError, ValueError, ArithmeticError, LookupError, MemoryError)


def open_media(file: Path, *, look: bool = False) -> InputContainer:
    """The file, opened; unless told to, without a look at its pictures, which costs a tenth of decoding a clip."""
    options = {"protocol_whitelist": "file", "max_pixels": str(MOST_PIXELS), "skip_frame": "default" if look else "all"}
    # With "file:" before it, a name with a colon is no network address.
    container = av.open(f"file:{file}", options=options, metadata_errors="replace")
    if container.format.name == "tty":
        container.close()
        raise ValueError(f"{file}: a text file, which FFmpeg would show on a screen")
    return container


def audio_stream(container: InputContainer) -> AudioStream | None:
    """The first sound whose sampling rate can be true."""
    for stream in container.streams.audio:
        if stream.codec_context is not None and LEAST_HERTZ <= stream.sample_rate <= MOST_HERTZ:
            return stream
    return None


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first moving picture; cover art is none."""
    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def in_seconds(duration: int | None, unit: Fraction | None) -> float:
    """A time of a header in seconds; 0 where it does not say."""
    return float(duration * unit) if duration and unit else 0.0
