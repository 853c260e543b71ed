"""Media files made on the spot, whose sound and pictures are known: a tone, and one colour after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from heapq import merge
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TICK = Fraction(1, 90_000)  # seconds


def record(
    file: str | Path,
    *,
    seconds: float = 3.0,
    tone: float | None = 440.0,
    colours: Sequence[str] | None = ("red", "green", "blue"),
    sound: NDArray[np.float32] | None = None,
    audio_codec: str = "aac",
    audio_rate: int = 44_100,
    layout: str = "stereo",
    video_codec: str = "libx264",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (320, 240),
    frame_rate: int = 24,
    frame_times: Sequence[float] | None = None,
    rotation: int = 0,
    audio_delay: float = 0.0,
    video_delay: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes a media file and returns its path; the ending of `file` decides the container.

    Args:
        file: Where.
        seconds: Duration.
        tone: Pitch in hertz, the same in every channel; none: no sound.
        colours: Shown for equal parts of the duration, `red|blue` side by side; none: no picture.
        sound: (channels, samples) instead of the tone.
        audio_codec: An encoder that FFmpeg knows.
        audio_rate: Hertz.
        layout: FFmpeg's name of the channel layout, such as `mono` or `5.1`.
        video_codec: An encoder that FFmpeg knows.
        pixel_format: That the encoder takes.
        size: Width and height in pixels.
        frame_rate: Frames per second.
        frame_times: When each frame comes on screen, in seconds, instead of evenly.
        rotation: Degrees counter-clockwise by which a player must turn the picture.
        audio_delay: Seconds from the file's beginning to the sound's.
        video_delay: Seconds from the file's beginning to the picture's.
        options: For the video encoder.
    """
    path = Path(file)
    with av.open(str(path), "w") as container:
        streams = []
        if colours is not None:
            video = cast(VideoStream, container.add_stream(video_codec, rate=frame_rate, options=options or {}))
            video.width, video.height = size
            video.pix_fmt = pixel_format
            if rotation:
                video.set_display_rotation(rotation)
            video.codec_context.time_base = TICK if frame_times else Fraction(1, frame_rate)
            times = frame_times or [frame / frame_rate for frame in range(round(seconds * frame_rate))]
            streams.append(_pictures(video, times, colours, seconds, video_delay))
        if tone is not None or sound is not None:
            audio = cast(AudioStream, container.add_stream(audio_codec, rate=audio_rate))
            audio.layout = layout
            if sound is None:
                wave = 0.5 * np.sin(2 * np.pi * cast(float, tone) * np.arange(round(seconds * audio_rate)) / audio_rate)
                sound = np.tile(wave.astype(np.float32), (len(audio.layout.channels), 1))
            streams.append(_sounds(audio, sound, audio_delay))
        for packet in merge(*streams, key=lambda packet: cast(int, packet.dts) * packet.time_base):
            container.mux(packet)
    return path


def _pictures(
    stream: VideoStream, times: Sequence[float], colours: Sequence[str], seconds: float, delay: float
) -> Iterator[Packet[Stream]]:
    for time in times:
        part = min(int((time + 1e-6) / seconds * len(colours)), len(colours) - 1)
        halves = [COLOURS[name] for name in colours[part].split("|")]
        row = np.repeat(np.array(halves, np.uint8), stream.width // len(halves), axis=0)
        frame = VideoFrame.from_ndarray(np.tile(row, (stream.height, 1, 1)), format="rgb24")
        frame.time_base = stream.codec_context.time_base
        frame.pts = round((time + delay) / frame.time_base)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _sounds(stream: AudioStream, sound: NDArray[np.float32], delay: float) -> Iterator[Packet[Stream]]:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=stream.layout.name)
    frame.sample_rate = stream.rate
    frame.time_base = Fraction(1, stream.rate)
    frame.pts = round(delay * stream.rate)
    resampler = AudioResampler(format=stream.format, layout=stream.layout, rate=stream.rate, frame_size=1024)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        yield from stream.encode(part)
    yield from stream.encode(None)
