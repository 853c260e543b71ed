"""A clip, or a span of a recording, as 16 kHz mono sound and eight RGB frames; bad media is a status, no error."""

from telme.media.clip import (
    FRAME_SIZE,
    FRAMES,
    LONGEST_SECONDS,
    SAMPLE_RATE,
    SHORTEST_SAMPLES,
    SHORTEST_SECONDS,
    Clip,
    Half,
    Problem,
    Source,
)
from telme.media.header import Probe, probe
from telme.media.recording import DECODER, Recording, Recordings, read_clip

__all__ = [
    "DECODER",
    "FRAMES",
    "FRAME_SIZE",
    "LONGEST_SECONDS",
    "SAMPLE_RATE",
    "SHORTEST_SAMPLES",
    "SHORTEST_SECONDS",
    "Clip",
    "Half",
    "Probe",
    "Problem",
    "Recording",
    "Recordings",
    "Source",
    "probe",
    "read_clip",
]
