"""Containers and codecs of real life, each made on the spot: pitch, order of colours and frame times must be right."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from recordings import record

from telme.media import FRAMES, SAMPLE_RATE, Recording, Source, read_clip

SECONDS = 3.0
FRAME_RATE = 24
TONE = 523.25  # Hz


@dataclass(frozen=True)
class Format:
    """A file name, what `record` is asked for, and what can be read from the result."""

    name: str
    how: dict[str, Any] = field(default_factory=dict)
    sound: bool = True
    picture: bool = True


FORMATS = [
    Format("film.mp4"),
    Format("film.mkv"),
    Format("film.mov", {"video_codec": "mpeg4"}),
    Format("rotated.mov", {"rotation": 90}),
    Format("film.webm", {"video_codec": "libvpx-vp9", "audio_codec": "libopus", "audio_rate": 48_000}),
    Format("film.avi", {"video_codec": "mpeg4", "audio_codec": "libmp3lame"}),
    Format("no index.avi", {"video_codec": "mpeg4", "audio_codec": "pcm_s16le"}),
    Format("film.ts"),
    Format("film.flv", {"video_codec": "flv", "audio_codec": "libmp3lame"}),
    Format("hevc.mp4", {"video_codec": "libx265", "options": {"x265-params": "log-level=none"}}),
    Format("surround.mp4", {"layout": "5.1", "audio_rate": 48_000}),
    Format("vfr.mp4", {"frame_times": [0, 0.1, 0.15, 0.9, 1.0, 1.1, 1.55, 2.0, 2.2, 2.5, 2.9]}),
    Format("b-frames.mp4", {"options": {"bf": "4", "g": "12"}}),
    Format("long name: with ünïcode? 100%.mp4"),
    Format("sound.mp3", {"audio_codec": "libmp3lame"}, picture=False),
    Format("sound.flac", {"audio_codec": "flac"}, picture=False),
    Format("sound.m4a", picture=False),
    Format("sound.ogg", {"audio_codec": "libopus", "audio_rate": 48_000}, picture=False),
    Format("sound 8 bit.wav", {"audio_codec": "pcm_u8", "audio_rate": 11_025, "layout": "mono"}, picture=False),
    Format("sound 24 bit.wav", {"audio_codec": "pcm_s24le", "audio_rate": 96_000}, picture=False),
    Format("silent.mp4", sound=False),
]


@pytest.fixture(params=FORMATS, ids=lambda form: form.name)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Format, Path]:
    """A file of a format: a tone, and a second each of red, green and blue."""
    form: Format = request.param
    how = {} if form.picture else {"colours": None}
    how |= {} if form.sound else {"tone": None}
    file = record(tmp_path / form.name, seconds=SECONDS, **{"tone": TONE, "frame_rate": FRAME_RATE, **form.how, **how})
    if form.name.startswith("no index"):
        without_index(file)
    return form, file


def test_pitch_colours_and_times_are_right(made: tuple[Format, Path]) -> None:
    form, file = made
    clip = read_clip(Source(file=str(file)))
    assert (
        clip.status
        == {(True, True): "ok", (True, False): "no-video", (False, True): "no-audio"}[form.sound, form.picture]
    )
    if form.sound:
        assert clip.waveform is not None
        assert len(clip.waveform) == pytest.approx(SECONDS * SAMPLE_RATE, abs=0.06 * SAMPLE_RATE)
        assert pitch(clip.waveform) == pytest.approx(TONE, rel=0.01)
    if form.picture:
        assert "".join(dict.fromkeys(colours(clip.frames))) == "rgb"
        assert sorted(clip.frame_times) == list(clip.frame_times)
        assert clip.frame_times[0] < 0.2
        assert 2.7 < clip.frame_times[-1] < SECONDS


def test_spans_are_right(made: tuple[Format, Path]) -> None:
    form, file = made
    stamps = np.array(form.how.get("frame_times") or np.arange(SECONDS * FRAME_RATE) / FRAME_RATE)
    with Recording(file) as recording:
        for start, end in ((0.5, 1.5), (1.5, 2.9), (1.2, 2.4), (0.0, 0.9)):
            clip = recording.clip(start, end)
            if form.sound:
                assert clip.waveform is not None
                assert len(clip.waveform) == pytest.approx((end - start) * SAMPLE_RATE, abs=1)
                assert pitch(clip.waveform) == pytest.approx(TONE, rel=0.01)
            if form.picture:
                wanted = start + (np.arange(FRAMES) + 0.5) * (end - start) / FRAMES
                on_screen = stamps[np.searchsorted(stamps, wanted + 1e-6, side="right") - 1]
                shown = np.array(clip.frame_times) + start
                assert np.abs(shown - on_screen).max() < 1.01 / FRAME_RATE  # some containers round, some drop a frame
                away_from_cuts = np.abs(wanted[:, None] - (1, 2)).min(axis=1) > 2 / FRAME_RATE
                expected = "".join("rgb"[int(time)] for time in on_screen)
                assert [a for a, sure in zip(colours(clip.frames), away_from_cuts, strict=True) if sure] == [
                    b for b, sure in zip(expected, away_from_cuts, strict=True) if sure
                ]


@pytest.mark.parametrize(("degrees", "red_is"), [(0, "left"), (90, "bottom"), (180, "right"), (-90, "top")])
def test_a_rotated_picture_is_shown_upright(tmp_path: Path, degrees: int, red_is: str) -> None:
    file = record(tmp_path / "phone.mov", seconds=1, colours=("red|blue",), rotation=degrees, size=(320, 240))
    frames = read_clip(Source(file=str(file))).frames
    assert frames is not None
    first = frames[0].astype(int)
    edges = {"left": first[:, :40], "right": first[:, -40:], "top": first[:40], "bottom": first[-40:]}
    red = [name for name, edge in edges.items() if edge[..., 0].mean() > 240 and edge[..., 2].mean() < 15]
    assert red == [red_is]


@pytest.mark.parametrize("size", [(1280, 720), (240, 320), (224, 224), (64, 48), (16, 800), (3200, 32)])
def test_any_shape_of_picture_becomes_a_square(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = read_clip(Source(file=str(record(tmp_path / "film.mp4", seconds=1, size=size))))
    assert clip.status == "ok"
    assert colours(clip.frames) == "rrrggbbb"


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv420p10le", "gray"])
def test_any_kind_of_pixel_becomes_rgb(tmp_path: Path, pixels: str) -> None:
    file = record(tmp_path / "film.mkv", seconds=1, video_codec="ffv1", pixel_format=pixels)
    frames = read_clip(Source(file=str(file))).frames
    assert frames is not None
    assert colours(frames) == "rrrggbbb" if pixels != "gray" else frames[0].mean() == pytest.approx(76, abs=5)


def pitch(waveform: NDArray[np.float32]) -> float:
    """The loudest frequency in hertz."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 8 * len(waveform)))
    return float(spectrum.argmax()) * SAMPLE_RATE / (8 * len(waveform))


def colours(frames: NDArray[np.uint8] | None) -> str:
    """The initial of each frame's colour."""
    assert frames is not None
    return "".join("rgb"[channel] for channel in frames.mean(axis=(1, 2)).argmax(axis=1))


def without_index(file: Path) -> None:
    """Takes the index out of an AVI, as a recorder does that was switched off."""
    content = bytearray(file.read_bytes())
    index = content.rindex(b"idx1")
    (length,) = struct.unpack_from("<I", content, index + 4)
    del content[index : index + 8 + length]
    flags = content.index(b"avih") + 8 + 12
    has_index = 0x10
    struct.pack_into("<I", content, flags, struct.unpack_from("<I", content, flags)[0] & ~has_index)
    struct.pack_into("<I", content, 4, len(content) - 8)
    file.write_bytes(content)
