"""Damaged files of every kind: never an exception, a hang, a crash or gigabytes of memory.

TELME_FUZZ is the number of damaged files, 300 by default. A process of its own reads them, so that a crash inside
FFmpeg is a failed test, with the number of the file, and not the end of all tests.
"""

from __future__ import annotations

import os
import random
import signal
import struct
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from recordings import record

from telme.media import FRAMES, LONGEST_SECONDS, SAMPLE_RATE, SHORTEST_SECONDS, Clip, Problem, Recording, probe

FILES = int(os.environ.get("TELME_FUZZ", "300"))
MOST_SECONDS = 10  # for one file
MOST_MEGABYTES = 1_000  # of the process, more than half of it libraries
SPANS = ((None, None), (0.5, 60.0), (0.2, 0.7))
EXTREMES = (0, 1, 0x7F, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small file of each kind."""
    folder = tmp_path_factory.mktemp("healthy")

    def film(name: str, **how: object) -> Path:
        return record(folder / name, **{"seconds": 1.0, "size": (64, 48), "options": {"g": "8"}, **how})  # type: ignore[arg-type]

    return [
        film("a.mp4"),
        film("b.mkv"),
        film("c.webm", video_codec="libvpx-vp9", audio_codec="libopus", audio_rate=48_000),
        film("d.avi", video_codec="mpeg4", audio_codec="libmp3lame"),
        film("e.ts"),
        film("f.mov", video_codec="mjpeg", pixel_format="yuvj420p", layout="5.1", rotation=90),
        film("g.flv", video_codec="flv", audio_codec="libmp3lame"),
        film("h.wav", colours=None, audio_codec="pcm_s16le"),
        film("i.mp3", colours=None, audio_codec="libmp3lame"),
        film("j.flac", colours=None, audio_codec="flac"),
        film("k.ogg", colours=None, audio_codec="libopus", audio_rate=48_000),
    ]


def test_no_damage_does_harm(healthy: list[Path], tmp_path: Path) -> None:
    numbers, harm = list(range(FILES)), []
    while numbers:
        log = tmp_path / "log"
        process = get_context("spawn").Process(target=read_damaged_files, args=(healthy, numbers, log))
        process.start()
        process.join()
        lines = log.read_text(encoding="utf-8").splitlines()
        harm += [line for line in lines if not line.isdigit()]
        last = int(lines[-1].split()[0])
        if process.exitcode:
            harm.append(f"{last} ended the process: {process.exitcode}")
        numbers = [number for number in numbers if number > last]
    assert not harm


def read_damaged_files(healthy: Sequence[Path], numbers: Sequence[int], log: Path) -> None:
    """Writes the number of each file before it is read, and what harm it did."""
    with log.open("w", encoding="utf-8", buffering=1) as lines:
        for number in numbers:
            lines.write(f"{number}\n")
            source = healthy[number % len(healthy)]
            file = log.with_suffix(source.suffix)
            other = healthy[number * 7 % len(healthy)]
            file.write_bytes(damaged(source.read_bytes(), other.read_bytes(), random.Random(number)))
            signal.alarm(MOST_SECONDS)  # which ends the process: FFmpeg does not listen to Python
            try:
                read(file)
            except Exception as error:
                lines.write(f"{number} {source.name}: {error!r}\n")
            signal.alarm(0)
            megabytes = peak_megabytes()
            if megabytes > MOST_MEGABYTES:
                lines.write(f"{number} {source.name}: {megabytes:.0f} MB\n")
                return


def peak_megabytes() -> float:
    """The most memory this process has held; `getrusage` would count what the process that started it held."""
    status = Path("/proc/self/status")
    if not status.is_file():  # not Linux
        return 0.0
    return float(status.read_text().split("VmHWM:")[1].split()[0]) / 1000


def read(file: Path) -> None:
    """Reads whatever can be read and checks the form of it."""
    probe(file)
    with Recording(file) as recording:
        for start, end in SPANS:
            check(recording.clip(start, end))


def check(clip: Clip) -> None:
    """A clip is as its type says, and its status says what is lacking."""
    assert list(clip.problems) == [problem for problem in Problem if problem in clip.problems]
    nothing = {Problem.UNREADABLE, Problem.EMPTY_SPAN} & {*clip.problems}
    assert (clip.waveform is None) == bool(nothing or Problem.NO_AUDIO in clip.problems)
    assert (clip.frames is None) == bool(nothing or Problem.NO_VIDEO in clip.problems)
    if clip.waveform is not None:
        assert clip.waveform.dtype == np.float32
        assert SHORTEST_SECONDS <= len(clip.waveform) / SAMPLE_RATE <= LONGEST_SECONDS + 0.001
        assert np.abs(clip.waveform).max() <= 1
    if clip.frames is not None:
        assert clip.frames.shape == (FRAMES, 224, 224, 3)
    assert len(clip.frame_times) == (0 if clip.frames is None else FRAMES)


def damaged(content: bytes, other: bytes, dice: random.Random) -> bytes:
    """The content of a file after one to three accidents."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 3)):
        # Headers stand at either end, and damage there is the more dangerous.
        at = int(len(data) * dice.choice((dice.random(), dice.random() ** 4, 1 - dice.random() ** 4 / 8)))
        length = dice.randint(1, 1 + len(data) // 4)
        match dice.randrange(7):
            case 0:
                for _ in range(dice.randint(1, 30)):
                    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            case 1:
                data[at:] = b""
            case 2:
                del data[at : at + length]
            case 3:
                data[at : at + length] = other[: length * 2]
            case 4:
                data[at : at + length] = bytes(min(length, len(data) - at))
            case 5:
                data[at : at + 4] = struct.pack(dice.choice("<>") + "I", dice.choice(EXTREMES))
            case 6:
                data[at:at] = data[at : at + length] * dice.randint(1, 3)
        data = data or bytearray(b"\0")
    return bytes(data)


def test_a_picture_of_absurd_size_is_refused(tmp_path: Path) -> None:
    file = record(tmp_path / "film.avi", video_codec="mjpeg", pixel_format="yuvj420p", audio_codec="pcm_s16le")
    content = bytearray(file.read_bytes())
    start_of_frame = b"\xff\xc0\x00\x11\x08"
    at = content.find(start_of_frame)
    while at > 0:
        struct.pack_into(">HH", content, at + 5, 16_384, 16_384)
        at = content.find(start_of_frame, at + 1)
    file.write_bytes(content)
    before = peak_megabytes()
    with Recording(file) as recording:
        clip = recording.clip()
    assert {Problem.NO_VIDEO, Problem.TRUNCATED} <= {*clip.problems}
    assert clip.waveform is not None
    assert peak_megabytes() - before < 100


@pytest.mark.parametrize(("at", "absurd"), [(24, 0xFFFF_FFFF), (24, 0x7FFF_FFFF), (24, 1), (24, 0), (40, 0xFFFF_FFFE)])
def test_absurd_sound_is_harmless(tmp_path: Path, at: int, absurd: int) -> None:
    file = record(tmp_path / "sound.wav", colours=None, audio_codec="pcm_s16le")
    content = bytearray(file.read_bytes())
    struct.pack_into("<I", content, at, absurd)  # the rate at 24, the length at 40 or a little later
    file.write_bytes(content)
    read(file)
