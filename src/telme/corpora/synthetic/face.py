"""A turn -> its pictures: one drawn scene, a person in it whose brows, eyes, mouth and light show the emotion."""

from __future__ import annotations

import math
from typing import NamedTuple

from PIL import Image, ImageColor, ImageDraw

from telme.corpora.synthetic.dialogue import Person, Turn

OPENINGS = 3  # of the mouth: closed, half open, open

Colour = tuple[int, int, int]


class Style(NamedTuple):
    """How an emotion looks.

    Args:
        light: Colour of the wall behind the person.
        mouth: Corners up (1) to down (-1).
        brows: Inner ends up (1) to down (-1).
        eyes: How far open, 1 is normal.
        gape: How much wider the mouth opens than in calm speech.
        flush: Colour that the skin turns towards.
    """

    light: Colour
    mouth: float = 0.0
    brows: float = 0.0
    eyes: float = 1.0
    gape: float = 1.0
    flush: Colour | None = None


_JOY = Style((196, 168, 70), mouth=1.0, brows=0.2, eyes=0.8)
_ANGER = Style((150, 46, 40), mouth=-0.6, brows=-1.0, eyes=0.7, gape=1.6, flush=(200, 40, 30))
_SADNESS = Style((44, 62, 128), mouth=-0.9, brows=0.9, eyes=0.5, gape=0.6, flush=(150, 160, 190))
STYLES = {
    "neutral": Style((110, 110, 108)),
    "joy": _JOY,
    "happy": _JOY,
    "anger": _ANGER,
    "angry": _ANGER,
    "sadness": _SADNESS,
    "sad": _SADNESS,
    "surprise": Style((96, 186, 200), brows=0.4, eyes=1.9, gape=2.4),
    "fear": Style((84, 48, 110), mouth=-0.4, brows=1.0, eyes=1.7, gape=1.4, flush=(235, 235, 235)),
    "disgust": Style((74, 118, 44), mouth=-1.0, brows=-0.6, eyes=0.45, flush=(130, 160, 70)),
    "excited": Style((232, 120, 150), mouth=1.0, brows=0.5, eyes=1.6, gape=2.0),
    "frustrated": Style((130, 84, 50), mouth=-0.5, brows=-0.8, eyes=0.9, flush=(190, 110, 70)),
}


def openings(turn: Turn, *, fps: int) -> list[int]:
    """How far the mouth is open in each frame of the turn, from 0 to OPENINGS - 1: once a syllable."""
    frames = max(1, round(turn.seconds * fps))
    swings = (abs(math.sin(math.pi * turn.syllables * (frame + 0.5) / frames)) for frame in range(frames))
    return [min(int(OPENINGS * swing), OPENINGS - 1) for swing in swings]


def draw(person: Person, emotion: str, *, opening: int, size: tuple[int, int], seed: int) -> Image.Image:
    """The person before a wall; `seed` moves the light and the head a little, as from take to take."""
    style = STYLES[emotion]
    width, height = size
    unit = min(1.25 * width, height) / 100
    x, y = width / 2 + (seed % 7 - 3) * unit, height * 0.46 + (seed // 7 % 5 - 2) * unit
    skin = _blend(ImageColor.getrgb(person.skin)[:3], style.flush, 0.4)
    image = Image.new("RGB", size, tuple(min(255, value + seed // 35 % 21) for value in style.light))
    pen = ImageDraw.Draw(image)

    def ellipse(cx: float, cy: float, rx: float, ry: float, fill: str | Colour) -> None:
        pen.ellipse((x + (cx - rx) * unit, y + (cy - ry) * unit, x + (cx + rx) * unit, y + (cy + ry) * unit), fill=fill)

    ellipse(0, 62, 44, 30, person.shirt)
    ellipse(0, -6, 31, 36, person.hair)
    ellipse(0, 0, 27, 34, skin)
    for side in (-1, 1):
        ellipse(side * 11, -6, 6, 4.5 * style.eyes, "white")
        ellipse(side * 11, -6, 2.5, min(2.5, 4.5 * style.eyes), "black")
        lift = 3 * (style.eyes - 1)
        inner, outer = -14 - lift - 4 * style.brows, -14 - lift + 4 * style.brows
        pen.line(
            [(x + side * 4 * unit, y + inner * unit), (x + side * 19 * unit, y + outer * unit)],
            fill=person.hair,
            width=max(2, round(2.6 * unit)),
        )
    _draw_mouth(pen, x, y + 18 * unit, unit, style, opening)
    pen.rectangle((width - 8 * unit, 0, width, height), fill=(40, 34, 30))  # a door frame
    pen.rectangle((0, height - 6 * unit, width, height), fill=(84, 58, 40))  # the table
    return image


def _draw_mouth(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float, style: Style, opening: int) -> None:
    """Two arcs between the corners of the mouth; the lower one sinks as it opens."""
    gap = 1.5 + 2.5 * style.gape * opening
    steps = [step / 8 for step in range(-8, 9)]
    upper = [(x + 14 * step * unit, y - 6 * style.mouth * (step**2 - 0.5) * unit) for step in steps]
    lower = [(px, py + gap * (1 - step**2) * unit) for (px, py), step in zip(upper, steps, strict=True)]
    pen.polygon([*upper, *reversed(lower)], fill=(110, 20, 28))
    pen.line(upper, fill=(150, 50, 50), width=max(1, round(1.5 * unit)))


def _blend(colour: tuple[int, ...], towards: Colour | None, part: float) -> Colour:
    red, green, blue = (
        round(a + part * (b - a)) for a, b in zip(colour, colour if towards is None else towards, strict=True)
    )
    return red, green, blue
