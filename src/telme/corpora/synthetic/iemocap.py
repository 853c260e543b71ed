"""A made-up IEMOCAP: five sessions of two actors, with transcripts, evaluations, recordings and separate voices."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from telme.corpora.iemocap import EMOTIONS, EVALUATIONS, RECORDINGS, TRANSCRIPTIONS, VOICES, read_iemocap
from telme.corpora.synthetic.dialogue import CAST, IEMOCAP_DECK, Person, Playwright, Turn
from telme.corpora.synthetic.recording import Fault, Scene
from telme.findings import Finding

SESSIONS = 5

_FIRST_LINE = 1.5  # seconds into the recording
_PAUSE = (0.15, 0.8)  # seconds between turns
_CODES = {emotion: code for code, emotion in EMOTIONS.items()}
_CATEGORIES = {
    "hap": "Happiness",
    "sad": "Sadness",
    "ang": "Anger",
    "exc": "Excited",
    "fru": "Frustration",
    "neu": "Neutral",
    "oth": "Other",
}
# Valence, activation and dominance, from 1 to 5.
_DIMENSIONS = {
    "hap": (4, 3, 2),
    "sad": (2, 2, 3),
    "ang": (2, 4, 3),
    "exc": (4, 4, 3),
    "fru": (2, 3, 3),
    "neu": (3, 2, 2),
}


@dataclass(slots=True)
class Line:
    """A turn with its place in the recording, in seconds."""

    name: str
    start: float
    end: float
    turn: Turn
    text: str
    label: str
    transcribed: bool = True
    evaluated: bool = True
    voice: bool = True


@dataclass(slots=True)
class Dialogue:
    """A recording with its lines; `strays` are lines of its transcript that are no turns."""

    session: int
    name: str
    left: Person
    right: Person
    lines: list[Line]
    strays: list[str] = field(default_factory=list)
    fault: Fault | None = None

    def path(self, folder: str, suffix: str, *, prefix: str = "") -> str:
        """Path in the corpus of the file in that folder of the session."""
        return f"Session{self.session}/{folder}/{prefix}{self.name}{suffix}"


@dataclass(slots=True)
class Plan:
    """What is to be written."""

    dialogues: list[Dialogue]
    stubs: list[str] = field(default_factory=list)


def plan_iemocap(*, dialogues: int, seed: int) -> Plan:
    """Dialogues divided over the sessions, each session with two actors of its own."""
    chance = random.Random(f"iemocap {seed}")
    playwright = Playwright(IEMOCAP_DECK, seed=seed)
    plan = Plan([])
    for session in range(1, SESSIONS + 1):
        playwright.shuffle()
        size = (dialogues + SESSIONS - session) // SESSIONS
        plan.dialogues += (
            _dialogue(session, name, playwright, chance) for name in itertools.islice(_names(session), size)
        )
    return plan


def _names(session: int) -> Iterator[str]:
    for number in itertools.count(1):
        for scenario in (f"impro{number:02}", f"script{number:02}_1", f"script{number:02}_1b"):
            for actor in "FM":
                yield f"Ses{session:02}{actor}_{scenario}"


def _dialogue(session: int, name: str, playwright: Playwright, chance: random.Random) -> Dialogue:
    actors = {"F": CAST[2 * session - 2], "M": CAST[2 * session - 1]}
    letters = {person: letter for letter, person in actors.items()}
    spoken: Counter[str] = Counter()
    clock, lines = _FIRST_LINE, []
    for turn in playwright.dialogue(list(actors.values())):
        letter = letters[turn.person]
        clock = round(clock + chance.uniform(*_PAUSE), 4)
        end = round(clock + turn.seconds, 4)
        lines.append(Line(f"{name}_{letter}{spoken[letter]:03}", clock, end, turn, turn.text, _CODES[turn.emotion]))
        spoken[letter] += 1
        clock = end
    left = name[5]
    return Dialogue(session, name, actors[left], actors["M" if left == "F" else "F"], lines)


def write_texts(plan: Plan, root: Path) -> None:
    """Writes transcripts and evaluations, and makes all folders."""
    for dialogue in plan.dialogues:
        transcript = [
            f"{line.name} [{line.start:08.4f}-{line.end:08.4f}]: {line.text}"
            for line in dialogue.lines
            if line.transcribed
        ]
        evaluation = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        evaluation += (_evaluation(line) for line in dialogue.lines if line.evaluated)
        for folder, lines in ((TRANSCRIPTIONS, transcript + dialogue.strays), (EVALUATIONS, evaluation)):
            path = root / dialogue.path(folder, ".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (root / dialogue.path(RECORDINGS, "")).parent.mkdir(parents=True, exist_ok=True)
        (root / dialogue.path(VOICES, "")).mkdir(parents=True)


def scenes(plan: Plan, root: Path) -> list[Scene]:
    """The recordings to write."""
    return [
        Scene(
            file=str(root / dialogue.path(RECORDINGS, ".avi")),
            left=dialogue.left,
            right=dialogue.right,
            turns=tuple((line.start, line.turn) for line in dialogue.lines),
            voices=tuple(
                str(root / dialogue.path(VOICES, "") / f"{line.name}.wav") if line.voice else None
                for line in dialogue.lines
            ),
            fault=dialogue.fault,
        )
        for dialogue in plan.dialogues
    ]


def with_splits(findings: Sequence[Finding], root: Path) -> list[Finding]:
    """The findings with the split before each utterance's name, as the reader divides what was written."""
    conversations = read_iemocap(root).conversations
    splits = {name: split for split, _, name in (conversation.id.partition("/") for conversation in conversations)}
    return [
        replace(finding, utterance=f"{splits[finding.utterance.rpartition('_')[0]]}/{finding.utterance}")
        if finding.utterance
        else finding
        for finding in findings
    ]


def _evaluation(line: Line) -> str:
    """The turn with what three annotators chose; where the label is xxx, three different things."""
    category = _CATEGORIES.get(line.label)
    choices = ["Neutral", "Anger", "Sadness"] if category is None else [category] * 3
    valence, activation, dominance = levels = _DIMENSIONS.get(line.label, (3, 3, 3))
    means = ", ".join(f"{level:.4f}" for level in levels)
    return "\n".join(
        [
            f"[{line.start:.4f} - {line.end:.4f}]\t{line.name}\t{line.label}\t[{means}]",
            *(f"C-E{number}:\t{choice};\t()" for number, choice in enumerate(choices, 2)),
            f"A-E3:\tval {valence}; act {activation}; dom  {dominance};\t()",
            "",
        ]
    )
