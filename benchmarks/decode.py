"""Prints what decoding costs: our clip against the released code's calls, a packed row, and a 90-minute recording.

Run from the repository: python benchmarks/decode.py
CPU time is user and system, child processes included. All ways take turns in this process on the same made-up files,
and medians are shown, so the ratios hold where the absolute times of a shared machine do not.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import VideoMAEImageProcessorPil

from telme.media import Recording, Source, read_clip
from telme.packing import pack_frames, pack_waveform, unpack_frames, unpack_waveform

try:
    import cv2
    import librosa
except ImportError:
    sys.exit('the released path needs two more packages: pip install -c constraints.txt -e ".[bench]"')

FRAMES_PER_CLIP = 62  # at 24 frames a second; the mean of MELD
MINUTES = 90
SPAN_SECONDS = 3.0


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20, help="MELD-like clips to decode")
    parser.add_argument("--spans", type=int, default=1_000, help="spans of the 90-minute recording")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # librosa announces that it will stop reading videos
    with tempfile.TemporaryDirectory() as folder:
        rows = [*clips(Path(folder), arguments.clips), *recording(Path(folder), arguments.spans)]
    print(f"Commit {commit()}, {date.today()}; {hardware()}; PyAV {av.__version__}.\n")
    print("| what | CPU ms each | ratio |\n| --- | --: | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def clips(folder: Path, count: int) -> list[tuple[str, str, str]]:
    """Rows of the table about short clips: the released way, ours, and reading what ours packed."""
    files = [film(folder / f"{seed}.mp4", (1280, 720), 24, FRAMES_PER_CLIP, seed=seed) for seed in range(count)]
    processor = VideoMAEImageProcessorPil()
    released(files[0], processor)
    packed: list[tuple[bytes, bytes]] = []

    def decode_and_pack(file: Path) -> None:
        clip = read_clip(Source(file=str(file)))
        assert clip.waveform is not None
        assert clip.frames is not None
        packed.append((pack_waveform(clip.waveform), pack_frames(clip.frames)))

    theirs, ours = [], []
    for file in files:  # by turns, as a shared machine is not equally busy all the time
        theirs.append(cpu_ms(released, file, processor))
        ours.append(cpu_ms(decode_and_pack, file))
    table = folder / "packed.arrow"
    columns = pa.table({"waveform": [row[0] for row in packed], "frames": [row[1] for row in packed]})
    with pa.OSFile(str(table), "wb") as sink, pa.ipc.new_file(sink, columns.schema) as writer:
        writer.write_table(columns)
    stored = pa.ipc.open_file(pa.memory_map(str(table))).read_all()

    def read(row: int) -> None:
        unpack_waveform(stored["waveform"][row].as_py())
        unpack_frames(stored["frames"][row].as_py())

    reading = [cpu_ms(read, row) for row in [*range(count)] * 20]
    slow, fast, least = (float(np.median(times)) for times in (theirs, ours, reading))
    size = np.mean([len(waveform) + len(frames) for waveform, frames in packed]) / 1000
    megabytes = np.mean([file.stat().st_size for file in files]) / 1e6
    return [
        (f"a clip (720p, {FRAMES_PER_CLIP} frames, {megabytes:.1f} MB), the released calls", f"{slow:.0f}", "1"),
        ("the same clip, `read_clip` and packing", f"{fast:.0f}", f"{fast / slow:.2f} of the released"),
        (f"the same clip, read as packed ({size:.0f} KB)", f"{least:.2f}", f"1/{fast / least:.0f} of decoding"),
    ]


def recording(folder: Path, most: int) -> list[tuple[str, str, str]]:
    """Rows of the table about spans of one long recording, in the order of time."""
    file = repeated(film(folder / "minute.mp4", (320, 240), 10, 600, seed=0), folder / "long.mp4", MINUTES)
    rows = []
    first = 0.0
    for count in (most // 4, most // 2, most):
        with Recording(file) as opened:
            opened.clip(0, SPAN_SECONDS)
            before = resident_mb()
            total = cpu_ms(read_spans, opened, np.linspace(0, MINUTES * 60 - SPAN_SECONDS, count))
            grown = resident_mb() - before
        each = total / count
        first = first or each
        what = f"{count} spans of {SPAN_SECONDS:.0f} s from {MINUTES} minutes (240p)"
        rows.append((what, f"{each:.1f}", f"{each / first:.2f} of {most // 4} spans; memory {grown:+.0f} MB"))
    return rows


def read_spans(opened: Recording, starts: NDArray[np.float64]) -> None:
    """Reads spans, one after the other."""
    for start in starts:
        opened.clip(float(start), float(start) + SPAN_SECONDS)


def released(file: Path, processor: VideoMAEImageProcessorPil) -> None:
    """What the released code calls for one sample: the sound twice, all frames, the processor on eight of them."""
    librosa.load(str(file))
    librosa.load(str(file))
    capture = cv2.VideoCapture(str(file))
    frames = []
    while True:
        more, frame = capture.read()
        if not more:
            break
        frames.append(frame)
    step = len(frames) // 8
    processor(frames[step - 1 :: step][:8], return_tensors="pt")


def film(file: Path, size: tuple[int, int], frame_rate: int, frames: int, *, seed: int) -> Path:
    """Writes a panning, grainy picture and a tone in noise: H.264 and AAC, as in MELD."""
    random = np.random.default_rng(seed)
    width, height = size
    audio_rate = 48_000 if height > 480 else 16_000
    scene = backdrop(random, width * 5 // 4, height * 5 // 4)
    pictures = [view(scene, size, number) for number in range(min(frames, 100))]
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=frame_rate, options={"preset": "veryfast", "crf": "23"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=audio_rate, layout="stereo")
        for number in range(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pictures[number % 100], format="rgb24")))
            container.mux(audio.encode(sound(random, number, frame_rate, audio_rate)))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return file


def view(scene: NDArray[np.uint8], size: tuple[int, int], number: int) -> NDArray[np.uint8]:
    """What the camera sees of the scene: it wanders, and every 40 frames there is a cut."""
    width, height = size
    left = int((0.5 + 0.5 * np.sin(0.05 * number + number // 40)) * (width // 4))
    top = int((0.5 + 0.5 * np.cos(0.03 * number)) * (height // 4))
    return np.ascontiguousarray(scene[top : top + height, left : left + width])


def repeated(minute: Path, file: Path, times: int) -> Path:
    """Writes a film of a minute many times over, without encoding it anew."""
    with av.open(str(file), "w") as container:
        for number in range(times):
            with av.open(str(minute)) as source:
                if not number:
                    streams = [container.add_stream_from_template(stream) for stream in source.streams]
                for packet in source.demux():
                    if packet.dts is not None and packet.pts is not None and not packet.is_discard:
                        shift = number * round(60 / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = streams[packet.stream_index]
                        container.mux(packet)
    return file


def backdrop(random: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) RGB with large, middling and fine structures."""
    scene = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((5, 120), (40, 60), (300, 40), (1200, 15)):
        coarse = random.random((min(cells, height), min(cells, width), 3), dtype=np.float32)
        scene += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return scene.clip(0, 255).astype(np.uint8)


def sound(random: np.random.Generator, number: int, frame_rate: int, audio_rate: int) -> av.AudioFrame:
    """The stereo sound of one frame of the film."""
    first, last = (audio_rate * frame // frame_rate for frame in (number, number + 1))
    hum = 0.3 * np.sin(2 * np.pi * 220 * np.arange(first, last) / audio_rate)
    wave = hum + 0.05 * random.standard_normal(last - first)
    frame = av.AudioFrame.from_ndarray(np.tile(wave.astype(np.float32), (2, 1)), format="fltp", layout="stereo")
    frame.sample_rate, frame.time_base, frame.pts = audio_rate, Fraction(1, audio_rate), first
    return frame


def cpu_ms(work: Callable[..., object], *arguments: object) -> float:
    """Milliseconds of CPU time, child processes included."""
    before = cpu_seconds()
    work(*arguments)
    return 1000 * (cpu_seconds() - before)


def cpu_seconds() -> float:
    """CPU time so far, of the system too, of this process and its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def resident_mb() -> float:
    """Memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def hardware() -> str:
    """The processor and the number of its cores."""
    names = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    name = names[0].split(":")[1].strip() if names else platform.processor()
    return f"{name}, {os.cpu_count()} cores"


def commit() -> str:
    """Short hash of the checked-out commit."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
