"""Turns -> media files, written by PyAV: MELD's clips, IEMOCAP's recordings of two people and their separate voices.

The same turns give the same bytes: one thread an encoder, no times of writing in the files.
"""

from __future__ import annotations

import wave
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from telme.corpora.synthetic.dialogue import Person, Turn
from telme.corpora.synthetic.face import draw, openings
from telme.corpora.synthetic.voice import Sound, speak

FPS = 12  # half of MELD's: nobody in it moves fast, and it halves the time of writing and reading
CLIP_SIZE, CLIP_RATE = (1280, 720), 48_000
RECORDING_SIZE, RECORDING_RATE = (720, 480), 16_000

INTERLEAVED = {"max_interleave_delta": "0"}  # however long: all pictures are handed over before the sound

Fault = Literal[
    "unreadable", "truncated", "no-audio", "silent", "clipped", "loud", "no-video", "split-screen", "missing"
]
CUT_AT = 0.6  # of a truncated file's bytes
STUB = bytes.fromhex("00051607000200004d6163204f5320582020202020202020").ljust(212, b"\0")  # AppleDouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One turn in a file of its own, as MELD has them.

    Args:
        file: Where to write it.
        turn: What is heard and seen.
        surround: Six channels with the voice in the centre, instead of two.
        fault: What is wrong with it.
    """

    file: str
    turn: Turn
    surround: bool = False
    fault: Fault | None = None

    def write(self) -> None:
        """Writes H.264 and AAC in MP4."""
        # The index is at the end, as FFmpeg leaves it by default; a file cut in the middle can be read in part only
        # where it is in front.
        options = {"movflags": "faststart"} if self.fault == "truncated" else {}
        with av.open(self.file, "w", format="mp4", options=INTERLEAVED | options) as container:
            video = None if self.fault == "no-video" else _add_h264(container)
            audio = None if self.fault == "no-audio" else _add_aac(container, "5.1" if self.surround else "stereo")
            if video:
                _write_frames(container, video, self._frames())
            if audio:
                _write_sound(container, audio, self._channels())
        if self.fault in ("unreadable", "truncated"):
            path = Path(self.file)
            path.write_bytes(path.read_bytes()[: int(CUT_AT * path.stat().st_size)])

    def _frames(self) -> Iterator[av.VideoFrame]:
        turn, (width, height) = self.turn, CLIP_SIZE

        @cache
        def frame(opening: int) -> av.VideoFrame:
            # Drawn at half the size: nothing in it is finer, and it takes a quarter of the time.
            image = draw(turn.person, turn.face, opening=opening, size=(width // 2, height // 2), seed=turn.seed)
            if self.fault == "split-screen":
                half = image.resize((width // 4, height // 2))
                image.paste(half)
                image.paste(half, (width // 4, 0))
            picture: av.VideoFrame = av.VideoFrame.from_image(image).reformat(width, height, "yuv420p")
            return picture

        return map(frame, openings(turn, fps=FPS))

    def _channels(self) -> Sound:
        """float32 (channels, samples)."""
        voice = _spoil(speak(self.turn, rate=CLIP_RATE), self.fault)
        if not self.surround:
            return np.stack([voice, voice])
        channels = np.random.default_rng(self.turn.seed).standard_normal((6, len(voice))).astype(np.float32) * 1e-3
        channels[2] = voice  # front left, front right, front centre, low frequencies, back left, back right
        return channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A dialogue of two people side by side in one recording, and each turn's voice in a file of its own, as IEMOCAP.

    Args:
        file: Where to write the recording.
        left: Who sits in the left half.
        right: Who sits in the right half.
        turns: What is said, with its start in seconds.
        voices: Where to write each turn's voice; none is not written.
        fault: What is wrong with it: one picture instead of two, or no recording at all.
    """

    file: str
    left: Person
    right: Person
    turns: tuple[tuple[float, Turn], ...]
    voices: tuple[str | None, ...]
    fault: Fault | None = None

    def write(self) -> None:
        """Writes MPEG-4 video (tag DIVX) and PCM in AVI, a channel for each person, and the voices as WAV."""
        sounds = [speak(turn, rate=RECORDING_RATE) for _, turn in self.turns]
        for voice, sound in zip(self.voices, sounds, strict=True):
            if voice:
                _write_wav(Path(voice), sound)
        if self.fault == "missing":
            return
        with av.open(self.file, "w", format="avi", options=INTERLEAVED) as container:
            video, audio = _add_divx(container), _add_pcm(container)
            _write_frames(container, video, self._frames())
            _write_sound(container, audio, self._channels(sounds))

    @property
    def seconds(self) -> float:
        """From the beginning to a second after the last word."""
        return max(start + turn.seconds for start, turn in self.turns) + 1.0

    def _frames(self) -> Iterator[av.VideoFrame]:
        """Who speaks shows it; who listens has a still and neutral face."""
        frames = round(self.seconds * FPS)
        seed = self.turns[0][1].seed  # one take
        looks = {person: [("neutral", 0)] * frames for person in (self.left, self.right)}
        for start, turn in self.turns:
            first = round(start * FPS)
            for frame, opening in enumerate(openings(turn, fps=FPS), first):
                looks[turn.person][frame] = turn.face, opening
        width, height = RECORDING_SIZE

        @cache
        def half(person: Person, emotion: str, opening: int) -> NDArray[np.uint8]:
            size = (width // (1 if self.fault == "split-screen" else 2), height)
            return np.asarray(draw(person, emotion, opening=opening, size=size, seed=seed))

        @cache
        def picture(left: tuple[str, int], right: tuple[str, int]) -> av.VideoFrame:
            halves = [half(self.left, *left)]
            if self.fault != "split-screen":
                halves.append(half(self.right, *right))
            return av.VideoFrame.from_ndarray(np.hstack(halves), format="rgb24").reformat(format="yuv420p")

        return map(picture, looks[self.left], looks[self.right])

    def _channels(self, sounds: Sequence[Sound]) -> Sound:
        """float32 (2, samples)."""
        channels = np.zeros((2, round(self.seconds * RECORDING_RATE)), np.float32)
        for (start, turn), sound in zip(self.turns, sounds, strict=True):
            first = round(start * RECORDING_RATE)
            channels[int(turn.person != self.left), first : first + len(sound)] += sound
        return channels


def write_stub(file: Path) -> None:
    """Writes what macOS's tar leaves beside a file: 212 bytes of AppleDouble."""
    file.write_bytes(STUB)


def _spoil(voice: Sound, fault: Fault | None) -> Sound:
    time = np.arange(len(voice)) / CLIP_RATE
    if fault == "silent":
        return np.zeros_like(voice)
    if fault == "clipped":
        # Short bursts: too loud for the microphone, not for the listener.
        voice = np.where(time % 0.5 < 0.03, np.sign(voice), voice)
    if fault == "loud":
        voice = 0.75 * np.tanh(4 * np.sin(2 * np.pi * 90 * time)) + 0.1 * voice
    return voice.astype(np.float32)


def _add_h264(container: OutputContainer) -> VideoStream:
    # zerolatency switches off the look-ahead, which costs more than the coding of such still pictures.
    options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "30"}
    return _one_thread(container.add_stream("libx264", rate=FPS, options=options), CLIP_SIZE)


def _add_divx(container: OutputContainer) -> VideoStream:
    stream = _one_thread(container.add_stream("mpeg4", rate=FPS, options={"qscale": "6", "g": "60"}), RECORDING_SIZE)
    stream.codec_context.codec_tag = "DIVX"
    return stream


def _one_thread(stream: VideoStream, size: tuple[int, int]) -> VideoStream:
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1  # more would divide the pictures, and change the bytes
    return stream


def _add_aac(container: OutputContainer, layout: str) -> AudioStream:
    bits_per_second = 160_000 if layout == "5.1" else 96_000
    return container.add_stream(
        "aac", rate=CLIP_RATE, layout=layout, options={"b": str(bits_per_second), "aac_coder": "fast"}
    )


def _add_pcm(container: OutputContainer) -> AudioStream:
    return container.add_stream("pcm_s16le", rate=RECORDING_RATE, layout="stereo")


def _write_frames(container: OutputContainer, stream: VideoStream, frames: Iterable[av.VideoFrame]) -> None:
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index, Fraction(1, FPS)  # a picture may be written several times
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _write_sound(container: OutputContainer, stream: AudioStream, channels: Sound) -> None:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=stream.layout.name)
    frame.sample_rate, frame.pts = stream.rate, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _write_wav(file: Path, sound: Sound) -> None:
    with wave.open(str(file), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(RECORDING_RATE)
        wav.writeframes(np.round(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
