"""Clips and spans: the right samples and frames, a status for all that is bad, and no more work than needed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from recordings import record

from telme.media import (
    DECODER,
    FRAMES,
    LONGEST_SECONDS,
    SAMPLE_RATE,
    SHORTEST_SECONDS,
    Clip,
    Probe,
    Problem,
    Recording,
    Recordings,
    Source,
    probe,
    read_clip,
)
from telme.media.picture import Picture


def sweep(seconds: float, rate: int = 44_100) -> NDArray[np.float32]:
    """(1, samples) a tone that rises from 200 to 2,000 Hz, so that every moment sounds different."""
    times = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 + 900 * times / seconds) * times)).astype(np.float32)[None]


def pitch(waveform: NDArray[np.float32] | None) -> float:
    """The loudest frequency in hertz."""
    assert waveform is not None
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 8 * len(waveform)))
    return float(spectrum.argmax()) * SAMPLE_RATE / (8 * len(waveform))


def colours(clip: Clip) -> str:
    """The initial of each frame's colour."""
    assert clip.frames is not None
    return "".join("rgb"[channel] for channel in clip.frames.mean(axis=(1, 2)).argmax(axis=1))


def read(file: Path, start: float | None = None, end: float | None = None) -> Clip:
    return read_clip(Source(file=str(file), start=start, end=end))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of 440 Hz, one second each of red, green and blue."""
    return record(tmp_path_factory.mktemp("media") / "film.mp4")


@pytest.fixture(scope="module", params=["meeting.mp4", "meeting.mkv"])
def meeting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds whose every moment sounds different, red, green and blue by turns, key frames 2 s apart."""
    return record(
        tmp_path_factory.mktemp("media") / request.param,
        seconds=20,
        sound=sweep(20),
        layout="mono",
        colours=("red", "green", "blue", "red", "green"),
        size=(64, 48),
        options={"g": "48"},
    )


def test_a_clip_is_its_sound_and_eight_frames_at_the_middles_of_eight_equal_parts(film: Path) -> None:
    clip = read(film)
    assert clip.status == "ok"
    assert clip.waveform is not None
    assert clip.waveform.dtype == np.float32
    assert len(clip.waveform) == pytest.approx(3 * SAMPLE_RATE, abs=0.03 * SAMPLE_RATE)
    assert pitch(clip.waveform) == pytest.approx(440, rel=0.01)
    assert clip.frames is not None
    assert clip.frames.shape == (8, 224, 224, 3)
    assert clip.frames.dtype == np.uint8
    assert colours(clip) == "rrrggbbb"
    for frame, time in enumerate(clip.frame_times):
        assert 0 <= (frame + 0.5) * 3 / FRAMES - time < 1 / 24


def test_a_span_holds_the_samples_and_frames_of_the_whole(meeting: Path) -> None:
    whole = read(meeting).waveform
    assert whole is not None
    spans = [(0, 1), (1, 2.5), (2.2, 4.7), (2.2, 2.9), (8.003, 9), (16.0001, 19.5), (5, 6), (0, 0.5)]  # any order
    with Recording(meeting) as recording:
        for start, end in spans:
            clip = recording.clip(start, end)
            assert clip.status == "ok"
            assert clip.waveform is not None
            first = round(start * SAMPLE_RATE)
            np.testing.assert_allclose(clip.waveform, whole[first : first + len(clip.waveform)], atol=1e-3)
            assert len(clip.waveform) == round(end * SAMPLE_RATE) - first
            wanted = [start + (frame + 0.5) * (end - start) / FRAMES for frame in range(FRAMES)]
            assert all(
                0 <= time - start - shown < 1 / 24 + 1e-6 for time, shown in zip(wanted, clip.frame_times, strict=True)
            )
            assert colours(clip) == "".join("rgbrg"[int(start + shown + 0.002) // 4] for shown in clip.frame_times)


@pytest.mark.parametrize("spans", [5, 40])
def test_spans_in_the_order_of_time_share_one_open_file(
    meeting: Path, monkeypatch: pytest.MonkeyPatch, spans: int
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(av, "open", counting(opened, av.open))
    with Recordings() as recordings:
        for start in np.linspace(0, 18, spans):
            recordings.clip(Source(file=str(meeting), start=float(start), end=float(start) + 1.5))
    assert len(opened) <= 4  # the header, the sound, the picture without and with a look at it


def test_only_the_wanted_frames_are_converted_and_nothing_is_decoded_after_them(
    meeting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[object] = []
    decoded: list[object] = []
    monkeypatch.setattr(Picture, "_pixels", counting(converted, Picture._pixels))
    monkeypatch.setattr(Picture, "step", counting(decoded, Picture.step))
    with Recording(meeting) as recording:
        recording.clip(7.9, 8.9)
    assert len(converted) == 8
    from_key_frame = 6 if meeting.suffix == ".mp4" else 0  # an index at the end is not read for so short a way
    assert len(decoded) <= (8.9 - from_key_frame) * 24
    converted.clear()
    with Recording(meeting) as recording:
        recording.clip(7.9, 7.95)
    assert len(converted) <= 2  # two frames are on screen in so short a time


def test_the_same_spans_give_the_same_bytes(meeting: Path) -> None:
    with Recording(meeting) as one, Recording(meeting) as other:
        for start in (1, 4, 7):
            clip, again = one.clip(start, start + 2), other.clip(start, start + 2)
            np.testing.assert_array_equal(clip.waveform, again.waveform)
            np.testing.assert_array_equal(clip.frames, again.frames)


def test_what_was_read_before_changes_nothing(film: Path) -> None:
    spans = [(None, None), (0.1, 0.4), (0.41, 0.8), (0.85, 1.3), (2.9, 99), (2.95, 3.0), (None, None), (0.0, 3.0)]
    with Recording(film) as recording:
        for start, end in spans:
            clip, fresh = recording.clip(start, end), read(film, start, end)
            assert (clip.status, clip.frame_times) == (fresh.status, fresh.frame_times)
            np.testing.assert_array_equal(clip.frames, fresh.frames)
    # Of a whole file only the wanted frames are decoded, and those that others refer to.
    np.testing.assert_array_equal(read(film).frames, read(film, 0, 3).frames)


def test_a_frame_is_shown_from_its_own_time_on_however_the_times_vary(tmp_path: Path) -> None:
    times = [0, 0.1, 0.15, 0.9, 1.0, 1.5, 1.55, 2.2, 2.9]
    clip = read(record(tmp_path / "vfr.mp4", frame_times=times, tone=None), 0, 3)
    on_screen = [max(time for time in times if time <= (frame + 0.5) * 3 / 8) for frame in range(FRAMES)]
    assert clip.frame_times == pytest.approx(on_screen, abs=1e-4)


def test_all_channels_are_heard_the_centre_alone_too(tmp_path: Path) -> None:
    for channel in (0, 2, 4):  # of FL FR FC LFE SL SR
        sound = np.zeros((6, 44_100), np.float32)
        sound[channel] = sweep(1)[0]
        waveform = read(record(tmp_path / f"{channel}.mp4", sound=sound, layout="5.1", colours=None)).waveform
        assert waveform is not None
        assert 0.05 < np.abs(waveform).max() <= 1
    loud = np.ones((6, 44_100), np.float32)
    waveform = read(
        record(tmp_path / "loud.wav", sound=loud, layout="5.1", colours=None, audio_codec="pcm_s16le")
    ).waveform
    assert waveform is not None
    assert waveform[1000:-1000] == pytest.approx(1, abs=1e-3)  # scaled, so that the sum of all does not clip


def test_channels_without_a_layout_are_heard(tmp_path: Path) -> None:
    file = record(
        tmp_path / "film.wav", sound=np.repeat(sweep(1), 4, axis=0), layout="4.0", colours=None, audio_codec="pcm_s16le"
    )
    content = bytearray(file.read_bytes())
    mask = content.index(b"fmt ") + 8 + 20
    content[mask : mask + 4] = bytes(4)
    file.write_bytes(content)
    waveform = read(file).waveform
    assert waveform is not None
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=0.05)


def test_sound_that_begins_later_begins_with_silence(tmp_path: Path) -> None:
    clip = read(record(tmp_path / "late.mp4", seconds=2, audio_delay=1.0))
    assert clip.waveform is not None
    assert np.abs(clip.waveform[: int(0.97 * SAMPLE_RATE)]).max() < 1e-3
    assert pitch(clip.waveform[SAMPLE_RATE:]) == pytest.approx(440, rel=0.01)


def test_until_the_picture_begins_its_first_frame_stands_for_it(tmp_path: Path) -> None:
    clip = read(record(tmp_path / "late.mkv", seconds=2, video_delay=1.0, colours=("red", "blue")), 0, 2)
    assert colours(clip) == "rrrrrrrr"
    assert clip.frame_times[:4] == pytest.approx([1.0] * 4, abs=0.01)
    assert pitch(clip.waveform) == pytest.approx(440, rel=0.01)


def test_a_half_is_taken_before_the_centre(tmp_path: Path) -> None:
    with Recording(record(tmp_path / "split.mp4", colours=("red|blue",), size=(320, 120), seconds=1)) as recording:
        assert colours(recording.clip(half="left")) == "rrrrrrrr"
        assert colours(recording.clip(half="right")) == "bbbbbbbb"
        both = recording.clip().frames
    assert both is not None
    assert both[0, :, :112].mean(axis=(0, 1)).argmax() == 0
    assert both[0, :, 112:].mean(axis=(0, 1)).argmax() == 2


def test_the_voice_may_stand_in_a_file_of_its_own(film: Path, tmp_path: Path) -> None:
    voice = str(record(tmp_path / "voice.wav", seconds=1, tone=880, colours=None, audio_codec="pcm_s16le"))
    clip = read_clip(Source(file=str(film), start=1, end=2, voice=voice))
    assert clip.status == "ok"
    assert pitch(clip.waveform) == pytest.approx(880, rel=0.01)
    assert colours(clip) == "gggggggg"
    no_voice = read_clip(Source(file=str(film), start=1, end=2, voice=str(tmp_path / "none.wav")))
    assert (no_voice.status, colours(no_voice)) == ("no-audio", "gggggggg")
    no_face = read_clip(Source(file=str(tmp_path / "none.mp4"), voice=voice))
    assert (no_face.status, no_face.frames) == ("no-video", None)
    assert read_clip(Source(file="none.mp4", voice="none.wav")).status == "missing"


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    silent = read(record(tmp_path / "silent.mp4", tone=None))
    assert (silent.status, silent.waveform, colours(silent)) == ("no-audio", None, "rrrggbbb")
    blind = read(record(tmp_path / "blind.m4a", colours=None))
    assert (blind.status, blind.frames, blind.frame_times) == ("no-video", None, ())
    assert pitch(blind.waveform) == pytest.approx(440, rel=0.01)


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    file = tmp_path / "song.mp3"
    with av.open(str(record(tmp_path / "song.wav", colours=None, audio_codec="pcm_s16le"))) as source:
        sound = np.concatenate([frame.to_ndarray() for frame in source.decode(audio=0)], axis=1)
    with av.open(str(file), "w") as container:
        audio = container.add_stream("libmp3lame", rate=44_100, layout="stereo")
        cover = container.add_stream("png", width=64, height=64, pix_fmt="rgb24")
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="stereo")
        frame.sample_rate = 44_100
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
        container.mux(cover.encode(av.VideoFrame(64, 64, "rgb24")))
        container.mux(cover.encode(None))
    with av.open(str(file)) as container:
        assert len(container.streams.video) == 1
    clip = read(file)
    assert clip.status == "no-video"
    assert pitch(clip.waveform) == pytest.approx(440, rel=0.01)
    assert not probe(file).has_video


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("empty.mp4", b"", "unreadable"),
        ("text.mp4", b"It is not a film.\n" * 100, "unreadable"),
        ("text.txt", b"It is not a film.\n" * 100, "unreadable"),
        ("._film.mp4", b"\x00\x05\x16\x07" + bytes(208), "unreadable"),
        (
            "moov atom missing.mp4",
            b"\x00\x00\x00\x18ftypmp42" + bytes(12) + b"\x00\x00\xff\xffmdat" + bytes(999),
            "unreadable",
        ),
    ],
)
def test_what_is_no_media_is_unreadable(tmp_path: Path, name: str, content: bytes, status: str) -> None:
    (tmp_path / name).write_bytes(content)
    clip = read(tmp_path / name)
    assert (clip.status, clip.waveform, clip.frames) == (status, None, None)
    assert probe(tmp_path / name) == Probe(readable=False, bytes=len(content))


def test_no_file_is_missing(tmp_path: Path) -> None:
    assert read(tmp_path / "none.mp4").status == "missing"
    assert read(tmp_path).status == "missing"
    assert read(Path("http://localhost:1/film.mp4")).status == "missing"
    assert probe(tmp_path / "none.mp4") == Probe()


@pytest.mark.parametrize("span", [(1, 1), (2, 1), (99, 100), (99, None), (float("nan"), float("nan")), (3.1, 3.2)])
def test_a_span_of_nothing_is_empty(film: Path, span: tuple[float, float | None]) -> None:
    clip = read(film, *span)
    assert (clip.status, clip.waveform, clip.frames) == ("empty-span", None, None)


def test_a_span_beyond_the_end_is_what_there_is(film: Path) -> None:
    clip = read(film, 2, 5)
    assert clip.problems == (Problem.TRUNCATED,)
    assert clip.waveform is not None
    assert len(clip.waveform) == pytest.approx(SAMPLE_RATE, abs=0.03 * SAMPLE_RATE)
    assert colours(clip) == "bbbbbbbb"
    assert len(set(clip.frame_times)) == 8  # evenly over what there is
    assert read(film, 2, 3.1).status == "ok"  # annotations often end a little late


def test_a_very_short_clip_is_padded_with_silence(tmp_path: Path, film: Path) -> None:
    file = record(tmp_path / "short.avi", seconds=0.084, video_codec="mpeg4", audio_codec="pcm_s16le")
    for clip, seconds in ((read(file), 0.084), (read(film, 1, 1.084), 0.084), (read(film, 1, 1.001), 0.001)):
        assert clip.problems == (Problem.PADDED,)
        assert clip.waveform is not None
        assert len(clip.waveform) == SHORTEST_SECONDS * SAMPLE_RATE
        assert np.abs(clip.waveform[: round(seconds * SAMPLE_RATE)]).max() > 0.1
        assert not clip.waveform[round(seconds * SAMPLE_RATE) + 1 :].any()
        assert clip.frames is not None


def test_of_a_long_clip_the_end_is_read(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros((1, 280 * 16_000), np.float32), sweep(25, 16_000)], axis=1)
    file = record(
        tmp_path / "long.mp4",
        seconds=305,
        frame_rate=2,
        size=(64, 48),
        sound=sound,
        audio_rate=16_000,
        layout="mono",
        colours=("red",) * 60 + ("blue",),
    )
    clip = read(file)
    assert clip.problems == (Problem.CUT,)
    assert clip.waveform is not None
    assert len(clip.waveform) == pytest.approx(LONGEST_SECONDS * SAMPLE_RATE, abs=0.07 * SAMPLE_RATE)
    assert np.abs(clip.waveform).max() > 0.4
    assert colours(clip) == "rrrrrrbb"
    assert read(file, 270, 300).problems == (Problem.CUT,)


def test_a_cut_off_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    for name, video_codec, audio_codec in (("film.mkv", "libx264", "aac"), ("film.avi", "mpeg4", "pcm_s16le")):
        file = record(tmp_path / name, seconds=6, video_codec=video_codec, audio_codec=audio_codec)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        clip = read(file)
        assert Problem.TRUNCATED in clip.problems
        assert clip.waveform is not None
        assert 1.5 < len(clip.waveform) / SAMPLE_RATE < 4.5
        assert pitch(clip.waveform) == pytest.approx(440, rel=0.01)
        assert colours(clip).startswith("rrr")
        assert Problem.TRUNCATED in read(file, 1, 5.5).problems
        assert read(file, 0.2, 1.0).status == "ok"


@pytest.mark.parametrize("claimed", [0.5, 20.0])
def test_a_header_that_lies_about_the_duration_is_not_believed(tmp_path: Path, claimed: float) -> None:
    file = record(tmp_path / "film.mkv")
    content = file.read_bytes()
    at = content.index(b"\x44\x89\x88") + 3  # Matroska's Duration, in milliseconds
    file.write_bytes(content[:at] + struct.pack(">d", 1000 * claimed) + content[at + 8 :])
    assert probe(file).seconds == claimed
    clip = read(file)
    assert clip.waveform is not None
    assert len(clip.waveform) == pytest.approx(3 * SAMPLE_RATE, abs=0.05 * SAMPLE_RATE)
    assert colours(clip) == "rrrggbbb"
    assert (Problem.TRUNCATED in clip.problems) == (claimed > 3)


def test_sound_that_is_no_number_is_silence(tmp_path: Path) -> None:
    sound = sweep(1)
    sound[:, 20_000:20_010] = np.nan
    waveform = read(
        record(tmp_path / "film.wav", sound=sound, layout="mono", colours=None, audio_codec="pcm_f32le")
    ).waveform
    assert waveform is not None
    assert np.isfinite(waveform).all()


def test_a_file_that_goes_away_is_no_error(film: Path, tmp_path: Path) -> None:
    file = tmp_path / "film.mp4"
    file.write_bytes(film.read_bytes())
    with Recording(file) as recording:
        file.unlink()
        assert recording.clip().status == "unreadable"


def test_the_header_alone_tells_what_there_is(film: Path) -> None:
    assert probe(film) == Probe(
        readable=True,
        bytes=film.stat().st_size,
        seconds=3.0,
        width=320,
        height=240,
        frame_rate=24.0,
        channels=2,
        sample_rate=44_100,
        has_audio=True,
        has_video=True,
    )


def test_what_decides_the_result_can_be_written_down() -> None:
    assert json.loads(json.dumps(dict(DECODER)))["backend"] == f"PyAV {av.__version__}"


def counting(calls: list[object], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, noting each of its calls."""

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return function(*arguments, **options)

    return counted
