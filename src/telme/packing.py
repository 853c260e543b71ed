"""A clip as the store keeps it: sound in 16 bits and the frames as one JPEG strip, a tenth of the raw size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

if TYPE_CHECKING:
    from telme.media import Clip

FULL_SCALE = 32_767  # of 16-bit sound
JPEG_QUALITY = 90


def pack_waveform(waveform: NDArray[np.float32]) -> bytes:
    """16-bit little-endian samples of a (samples,) waveform in [-1, 1]; what is beyond is clipped."""
    return (np.clip(waveform, -1.0, 1.0) * FULL_SCALE).round().astype("<i2").tobytes()


def unpack_waveform(data: bytes) -> NDArray[np.float32]:
    """The (samples,) float32 waveform in [-1, 1], to 1/65,534 of what was packed."""
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(FULL_SCALE)


def pack_frames(frames: NDArray[np.uint8]) -> bytes:
    """One JPEG of (frames, height, width, 3) RGB pictures, one below the other."""
    count, height, width, channels = frames.shape
    strip = np.ascontiguousarray(frames).reshape(count * height, width, channels)
    data: bytes = simplejpeg.encode_jpeg(strip, quality=JPEG_QUALITY, colorsubsampling="420")
    return data


def unpack_frames(data: bytes) -> NDArray[np.uint8]:
    """The (frames, size, size, 3) RGB square pictures, a few levels of 255 from those that were packed."""
    strip = simplejpeg.decode_jpeg(memoryview(data).cast("B"))  # in two thirds of the time that Pillow takes
    size = strip.shape[1]
    frames: NDArray[np.uint8] = strip.reshape(-1, size, size, 3)
    return frames


def repacked(clip: Clip) -> Clip:
    """The clip as a store gives it back, so that what is read from a file is what is read from a store."""
    return replace(
        clip,
        waveform=None if clip.waveform is None else unpack_waveform(pack_waveform(clip.waveform)),
        frames=None if clip.frames is None else unpack_frames(pack_frames(clip.frames)),
    )
