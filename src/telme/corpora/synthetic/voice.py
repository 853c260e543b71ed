"""A turn -> its sound: a sawtooth for the vocal folds, vowel resonances for the mouth (source-filter synthesis)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telme.corpora.synthetic.dialogue import Turn

Sound = NDArray[np.float32]
Wave = NDArray[np.float64]

ROOM_NOISE = 10 ** (-58 / 20)  # RMS; what stays audible of a low voice after normalisation
LIMIT = 0.6  # of the peaks, relative to full scale: room for what mixing down and coding add
BEFORE, AFTER = 0.08, 0.15  # seconds of room noise around the voice

# The first three resonances of five vowels, in hertz (Peterson and Barney, 1952).
VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
BANDWIDTHS = (90, 120, 180)


class Style(NamedTuple):
    """How an emotion sounds.

    Args:
        pitch: Relative to the speaker's.
        slope: Of the pitch over the turn, in octaves.
        swing: Of the pitch within each syllable, in octaves.
        tremor: Of the pitch at 7 Hz, in octaves.
        level: RMS in dBFS.
        dark: How steeply high frequencies fall, as an exponent.
        breath: Part of noise in the source, 0 to 1.
        creak: Depth of a roughness at 30 Hz, 0 to 1.
    """

    pitch: float
    slope: float = -0.15
    swing: float = 0.0
    tremor: float = 0.0
    level: float = -24
    dark: float = 1.2
    breath: float = 0.03
    creak: float = 0.0


_JOY = Style(1.4, slope=0.1, swing=0.35, level=-22, dark=0.8)
_ANGER = Style(1.2, slope=-0.05, level=-18, dark=0.15, breath=0.12, creak=0.3)
_SADNESS = Style(0.78, slope=-0.5, level=-29, dark=2.2, breath=0.1)
STYLES = {
    "neutral": Style(1.0),
    "joy": _JOY,
    "happy": _JOY,
    "anger": _ANGER,
    "angry": _ANGER,
    "sadness": _SADNESS,
    "sad": _SADNESS,
    "surprise": Style(1.65, slope=0.9, level=-21, dark=0.9),
    "fear": Style(1.55, tremor=0.25, level=-26, dark=1.0, breath=0.5),
    "disgust": Style(0.85, slope=-0.4, level=-24, dark=1.0, creak=0.95),
    "excited": Style(1.7, slope=0.3, swing=0.4, level=-19, dark=0.5),
    "frustrated": Style(0.95, slope=-0.3, level=-21, dark=0.5, breath=0.25, creak=0.5),
}


def speak(turn: Turn, *, rate: int) -> Sound:
    """The turn's sound, float32 (samples,) in -1 to 1 at `rate` hertz."""
    random = np.random.default_rng(turn.seed)
    style = STYLES[turn.voice]
    samples = round(turn.seconds * rate)
    sound = np.zeros(samples)
    first = round(min(BEFORE, turn.seconds / 10) * rate)
    last = samples - round(min(AFTER, turn.seconds / 5) * rate)
    source = _vocal_folds(turn, style, last - first, rate, random)
    edges = np.linspace(0, len(source), turn.syllables + 1).astype(int)
    for start, end in pairwise(edges):
        vowel = VOWELS[random.integers(len(VOWELS))]
        syllable = _mouth(source[start:end], vowel, turn.person.tract, style.dark, rate)
        sound[first + start : first + end] = syllable * np.sin(np.linspace(0, np.pi, end - start)) ** 0.6
    loudness = float(np.sqrt(np.mean(sound**2))) or 1.0
    sound *= 10 ** (style.level / 20) / loudness
    sound += ROOM_NOISE * random.standard_normal(samples)
    return (LIMIT * np.tanh(sound / LIMIT)).astype(np.float32)


def _vocal_folds(turn: Turn, style: Style, samples: int, rate: int, random: np.random.Generator) -> Wave:
    time = np.arange(samples) / rate
    progress = np.linspace(0, 1, samples)
    octaves = (
        style.slope * (progress - 0.5)
        + style.swing * np.sin(2 * np.pi * turn.syllables * progress)
        + style.tremor * np.sin(2 * np.pi * 7 * time)
    )
    cycles = np.cumsum(turn.person.pitch * style.pitch * 2**octaves) / rate
    buzz = 2 * (cycles % 1) - 1
    creak = 1 - style.creak * (np.sin(2 * np.pi * 30 * time) > 0)
    return (1 - style.breath) * buzz * creak + style.breath * random.standard_normal(samples)


def _mouth(source: Wave, vowel: tuple[int, ...], tract: float, dark: float, rate: int) -> Wave:
    if not len(source):
        return source
    hertz = np.fft.rfftfreq(len(source), 1 / rate)
    resonances = sum(
        1 / (1 + ((hertz - tract * centre) / width) ** 2) for centre, width in zip(vowel, BANDWIDTHS, strict=True)
    )
    response = (0.03 + resonances) * (1 + hertz / 400) ** -dark
    return np.fft.irfft(np.fft.rfft(source) * response, len(source))
