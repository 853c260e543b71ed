"""What the header of a file says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from telme.media.container import DAMAGE, MICROSECOND, audio_stream, in_seconds, open_media, video_stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a file's header says, for the doctor; nothing is decoded.

    Args:
        readable: Whether it is a media file with at least one stream that can be decoded.
        bytes: Size of the file.
        seconds: Duration, where the header tells.
        width: Pixels, as coded: before any rotation.
        height: Pixels, as coded.
        frame_rate: Average frames per second.
        channels: Of the sound.
        sample_rate: Hertz.
        has_audio: Whether there is a sound stream.
        has_video: Whether there is a picture stream; cover art is none.
    """

    readable: bool = False
    bytes: int = 0
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    channels: int | None = None
    sample_rate: int | None = None
    has_audio: bool = False
    has_video: bool = False


def probe(file: str | Path) -> Probe:
    """What the header of a file says; `readable` is false where there is no file or no media in it."""
    path = Path(file)
    size = path.stat().st_size if path.is_file() else 0
    try:
        with open_media(path) as container:
            audio, video = audio_stream(container), video_stream(container)
            return Probe(
                readable=audio is not None or video is not None,
                bytes=size,
                seconds=in_seconds(container.duration, MICROSECOND) or None,
                width=video.width if video else None,
                height=video.height if video else None,
                frame_rate=float(video.average_rate) if video and video.average_rate else None,
                channels=audio.channels if audio else None,
                sample_rate=audio.sample_rate if audio else None,
                has_audio=audio is not None,
                has_video=video is not None,
            )
    except DAMAGE:
        return Probe(bytes=size)
