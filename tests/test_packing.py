"""Packed clips: what comes out is what went in, as far as 16 bits and JPEG allow, and always the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from telme.packing import pack_frames, pack_waveform, unpack_frames, unpack_waveform


def pictures() -> NDArray[np.uint8]:
    """(8, 224, 224, 3) gentle slopes, another hue in every picture."""
    slope = np.linspace(0, 255, 224)
    frames = np.empty((8, 224, 224, 3))
    frames[..., 0] = slope[:, None]
    frames[..., 1] = slope[None, :]
    frames[..., 2] = np.linspace(0, 255, 8)[:, None, None]
    return frames.astype(np.uint8)


@given(arrays.arrays(np.float32, st.integers(0, 50), elements=st.floats(-1, 1, width=32)))
def test_a_waveform_comes_back_to_half_a_step_of_16_bits(waveform: NDArray[np.float32]) -> None:
    back = unpack_waveform(pack_waveform(waveform))
    assert back.dtype == np.float32
    assert back == pytest.approx(waveform, abs=0.5 / 32_767 + 1e-7)
    assert pack_waveform(back) == pack_waveform(waveform)


def test_what_is_too_loud_is_clipped() -> None:
    assert unpack_waveform(pack_waveform(np.array([-1.5, 1.5, 0], np.float32))).tolist() == [-1, 1, 0]


def test_the_samples_are_little_endian() -> None:
    assert pack_waveform(np.array([1 / 32_767, -1], np.float32)) == b"\x01\x00\x01\x80"


def test_frames_come_back_nearly_the_same_and_in_order() -> None:
    frames = pictures()
    packed = pack_frames(frames)
    back = unpack_frames(packed)
    assert back.shape == frames.shape
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - frames).mean() < 2
    assert len(packed) < frames.nbytes / 10
    assert pack_frames(frames) == packed


def test_colours_are_red_green_blue() -> None:
    frames = np.zeros((8, 224, 224, 3), np.uint8)
    frames[..., 0] = 255
    assert unpack_frames(pack_frames(frames)).mean(axis=(0, 1, 2)) == pytest.approx([255, 0, 0], abs=2)


def test_a_frame_does_not_leak_into_the_next() -> None:
    frames = np.zeros((8, 224, 224, 3), np.uint8)
    frames[3] = 255
    back = unpack_frames(pack_frames(frames)).astype(int)
    assert back[3].min() > 250
    assert np.delete(back, 3, axis=0).max() < 5
