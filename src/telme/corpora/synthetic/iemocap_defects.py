"""The defects of IEMOCAP, planted in a made-up one: an example or two of everything that its users reported.

Each plant changes the plan and yields what the doctor must then find, consequences included. Utterances are named
without their split, which the reader draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from telme.corpora.iemocap import EVALUATIONS, RECORDINGS, TRANSCRIPTIONS, VOICES
from telme.corpora.synthetic.iemocap import SESSIONS, Dialogue, Line, Plan
from telme.corpora.synthetic.planted import planted
from telme.errors import TelMEError
from telme.findings import Finding

FEWEST_DIALOGUES = 2 * SESSIONS  # with fewer, a session has no room for its defects


class _Lines:
    """The lines of a plan to put defects on: every second, each given out once, so that those before are sound."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._lines = {session: self._odd(session) for session in range(1, SESSIONS + 1)}

    def take(self, *sessions: int) -> Iterator[tuple[Dialogue, Line]]:
        """A line for each session named, with its dialogue."""
        return (next(self._lines[session]) for session in sessions)

    def dialogue(self, session: int, number: int = 0) -> Dialogue:
        """A dialogue of the session."""
        return [dialogue for dialogue in self.plan.dialogues if dialogue.session == session][number]

    def _odd(self, session: int) -> Iterator[tuple[Dialogue, Line]]:
        for dialogue in self.plan.dialogues:
            if dialogue.session == session:
                yield from ((dialogue, line) for line in dialogue.lines[1:4:2])


def plant_in_iemocap(plan: Plan) -> list[Finding]:
    """Plants everything; what the doctor must find in the corpus that is then written.

    Raises:
        TelMEError: The corpus is too small to hold it all.
    """
    if len(plan.dialogues) < FEWEST_DIALOGUES:
        raise TelMEError(
            f"{len(plan.dialogues)} dialogues; defects need at least {FEWEST_DIALOGUES} dialogues to be planted in"
        )
    lines = _Lines(plan)
    return [finding for plant in _PLANTS for finding in plant(lines)]


def _unavoidable(_: _Lines) -> Iterator[Finding]:
    for split in ("train", "dev", "test"):
        yield planted("wrong-count", f"{split} is smaller than the published one")
    yield planted("label-convention", "the official consensus", severity="info")


def _missing_recording(lines: _Lines) -> Iterator[Finding]:
    """Of one of its lines the voice is missing, too: that one is lost."""
    dialogue = lines.dialogue(2)
    recording, lost = dialogue.path(RECORDINGS, ".avi"), dialogue.lines[1]
    dialogue.fault, lost.voice = "missing", False
    yield planted("missing-clip", "no such file; the voices are there", file=recording)
    for file in (recording, _voice(dialogue, lost)):
        yield planted("missing-clip", "no such file", severity="error", utterance=lost.name, file=file)


def _missing_voice(lines: _Lines) -> Iterator[Finding]:
    for dialogue, line in lines.take(5):
        line.voice = False
        yield planted("missing-clip", "no such file", utterance=line.name, file=_voice(dialogue, line))


def _voice(dialogue: Dialogue, line: Line) -> str:
    return f"{dialogue.path(VOICES, '')}/{line.name}.wav"


def _single_picture(lines: _Lines) -> Iterator[Finding]:
    dialogue = lines.dialogue(3)
    dialogue.fault = "split-screen"
    yield planted("split-screen", "one picture instead of two", file=dialogue.path(RECORDINGS, ".avi"))


def _unparsed_lines(lines: _Lines) -> Iterator[Finding]:
    for number, stray in enumerate(("[GARBAGE]", "F000 [003.1000-?]: Maybe.")):
        dialogue = lines.dialogue(1, number)
        dialogue.strays.append(stray)
        yield planted("unparsed-line", repr(stray), file=dialogue.path(TRANSCRIPTIONS, ".txt"))


def _unlabelled_turns(lines: _Lines) -> Iterator[Finding]:
    for (dialogue, line), suffix in zip(lines.take(1, 5), (None, "XX0"), strict=True):
        line.evaluated = False
        if suffix:
            line.name = f"{line.name[:-3]}{suffix}"
        yield planted("unlabelled-turn", f"transcribed in {dialogue.name}, not evaluated", utterance=line.name)


def _untranscribed_turn(lines: _Lines) -> Iterator[Finding]:
    for dialogue, line in lines.take(1):
        line.transcribed = False
        yield planted("untranscribed-turn", f"evaluated in {dialogue.name}, not transcribed", utterance=line.name)


def _tags(lines: _Lines) -> Iterator[Finding]:
    for (_, line), text in zip(lines.take(1, 4), ("[LAUGHTER] {}", "{} [BREATHING]"), strict=True):
        line.text = text.format(line.text)
        yield planted("tag-in-text", repr(line.text), severity="info", utterance=line.name)


def _other_labels(lines: _Lines) -> Iterator[Finding]:
    for (_, line), label in zip(lines.take(4, 4, 5), ("xxx", "oth", "xxx"), strict=True):
        line.label = label
    yield planted("outside-label-set", "3 turns: 2 xxx, 1 oth", severity="info")


def _overlaps(lines: _Lines) -> Iterator[Finding]:
    for dialogue, line in lines.take(4, 5):
        before = dialogue.lines[dialogue.lines.index(line) - 1]
        earlier = line.start - (before.end - 0.3)
        line.start, line.end = round(line.start - earlier, 4), round(line.end - earlier, 4)
        yield planted("overlap", f"starts 0.3 s before {before.name} ends", severity="info", utterance=line.name)


def _stubs(lines: _Lines) -> Iterator[Finding]:
    for folder, suffix in ((RECORDINGS, ".avi"), (TRANSCRIPTIONS, ".txt"), (EVALUATIONS, ".txt")):
        file = lines.dialogue(1).path(folder, suffix, prefix="._")
        lines.plan.stubs.append(file)
        yield planted("stub-file", "212 bytes of AppleDouble", severity="info", file=file)


_PLANTS: tuple[Callable[[_Lines], Iterator[Finding]], ...] = (
    _unavoidable,
    _missing_recording,
    _missing_voice,
    _single_picture,
    _unparsed_lines,
    _unlabelled_turns,
    _untranscribed_turn,
    _tags,
    _other_labels,
    _overlaps,
    _stubs,
)
