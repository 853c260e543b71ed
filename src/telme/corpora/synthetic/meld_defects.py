"""The defects of MELD, planted in a made-up one: an example or two of everything that its users reported.

Each plant changes the plan and yields what the doctor must then find, consequences included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

from telme.corpora.meld import CLIP_FOLDERS, CORRECTED
from telme.corpora.synthetic.meld import Plan, Row
from telme.corpora.synthetic.planted import planted
from telme.corpora.synthetic.recording import Fault
from telme.errors import TelMEError
from telme.findings import Finding, Severity

FEWEST_DIALOGUES = 24  # with fewer, a split has no room for its defects

_FAULTS: tuple[tuple[str, Fault, str, str], ...] = (
    ("train", "unreadable", "unreadable-clip", "the moov atom is missing"),
    ("dev", "missing", "missing-clip", "no such file"),
    ("train", "truncated", "truncated-clip", "cut at 60 % of its bytes"),
    ("test", "truncated", "truncated-clip", "cut at 60 % of its bytes"),
    ("train", "no-audio", "no-audio", "no audio stream"),
    ("dev", "silent", "silent-audio", "every sample is 0"),
    ("train", "clipped", "clipped-audio", "bursts beyond full scale"),
    ("train", "loud", "loud-disturbance", "a loud hum"),
    ("train", "loud", "loud-disturbance", "a loud hum"),
    ("train", "no-video", "no-video", "no video stream"),
    ("test", "split-screen", "split-screen", "two pictures side by side"),
)


class _Rows:
    """The rows of a plan to put defects on: every second, each given out once, so that those before are sound."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._rows = {split: self._odd(split) for split in plan.splits}

    def take(self, *splits: str) -> Iterator[Row]:
        """A row for each split named, whose clip has nothing else to be found."""
        for split in splits:
            row = next(self._rows[split])
            row.surround = False
            yield row

    def dialogue(self, row: Row) -> list[Row]:
        """The dialogue of a row."""
        return next(dialogue for dialogue in self.plan.splits[row.split] if row in dialogue)

    def before(self, row: Row) -> Row:
        """The turn before it."""
        dialogue = self.dialogue(row)
        return dialogue[dialogue.index(row) - 1]

    def stretch(self, row: Row, milliseconds: int) -> None:
        """Gives the turn another length; what follows in the episode moves."""
        longer = milliseconds - (row.end - row.start)
        row.turn = replace(row.turn, seconds=milliseconds / 1000)
        row.end += longer
        for other in chain.from_iterable(self.plan.splits[row.split]):
            if other.episode == row.episode and other.start > row.start:
                other.start += longer
                other.end += longer

    def _odd(self, split: str) -> Iterator[Row]:
        for dialogue in self.plan.splits[split]:
            yield from dialogue[1:4:2]


def plant_in_meld(plan: Plan) -> list[Finding]:
    """Plants everything; what the doctor must find in the corpus that is then written.

    Raises:
        TelMEError: The corpus is too small to hold it all.
    """
    dialogues = sum(map(len, plan.splits.values()))
    if dialogues < FEWEST_DIALOGUES:
        raise TelMEError(f"{dialogues} dialogues; defects need at least {FEWEST_DIALOGUES} dialogues to be planted in")
    rows = _Rows(plan)
    return [finding for plant in _PLANTS for finding in plant(rows)]


def _wrong_counts(rows: _Rows) -> Iterator[Finding]:
    for split in rows.plan.splits:
        yield planted("wrong-count", f"{split} is smaller than the published one")


def _id_gap(rows: _Rows) -> Iterator[Finding]:
    for row in rows.take("train"):
        _renumber(rows, row, by=2)
        yield planted("id-gap", "two numbers are skipped", severity="info", utterance=row.id)


def _duplicate_id(rows: _Rows) -> Iterator[Finding]:
    for row in rows.take("train"):
        twin = rows.before(row)
        rows.stretch(row, twin.end - twin.start)
        _renumber(rows, row, by=-1)
        row.fault, twin.surround = "missing", False  # the twin's clip is both's
        evidence = "two rows have these ids"
        yield planted("duplicate-id", evidence, utterance=row.id, file=f"{row.split}_sent_emo.csv")


def _renumber(rows: _Rows, row: Row, *, by: int) -> None:
    dialogue = rows.dialogue(row)
    for later in dialogue[dialogue.index(row) :]:
        later.utterance += by


def _over_long(rows: _Rows) -> Iterator[Finding]:
    for row in rows.take("train"):
        rows.stretch(row, 41_000)
        yield planted("over-long-span", "lasts 41 s", utterance=row.id)
        yield planted("over-long-clip", "lasts 41 s", utterance=row.id, file=row.clip)
    for row in rows.take("test"):
        row.turn = replace(row.turn, seconds=35)
        yield planted("over-long-clip", "lasts 35 s", utterance=row.id, file=row.clip)


def _too_short(rows: _Rows) -> Iterator[Finding]:
    for row in rows.take("train", "train", "dev"):
        rows.stretch(row, 84)
        yield planted("too-short-span", "lasts 0.084 s", utterance=row.id)
        yield planted("speech-rate", "several words in 0.084 s", utterance=row.id)
        yield planted("too-short-clip", "lasts 0.084 s", utterance=row.id, file=row.clip)


def _duration_mismatch(rows: _Rows) -> Iterator[Finding]:
    for row in rows.take("train"):
        row.turn = replace(row.turn, seconds=2 * row.turn.seconds + 1.5)
        yield planted("duration-mismatch", "more than twice as long as its span", utterance=row.id, file=row.clip)
    for row in rows.take("dev"):
        rows.stretch(row, 4_000)
        row.turn = replace(row.turn, seconds=1.2)
        yield planted("duration-mismatch", "less than a third of its span", utterance=row.id, file=row.clip)


def _speech_rate(rows: _Rows) -> Iterator[Finding]:
    for row in rows.take("train"):
        rows.stretch(row, round(1000 * len(row.text.split()) / 13))
        yield planted("speech-rate", "13 words a second", utterance=row.id)


def _duplicate_span(rows: _Rows) -> Iterator[Finding]:
    earlier, later = rows.plan.splits["train"][-2:]
    _move(later, onto=earlier[2])
    yield planted("duplicate-span", f"{earlier[2].id} has the same span", severity="info", utterance=later[0].id)


def _leaked_span(rows: _Rows) -> Iterator[Finding]:
    trained_on = rows.plan.splits["train"][0]
    for split, original in (("dev", trained_on[0]), ("test", trained_on[2])):
        dialogue = rows.plan.splits[split][-1]
        _move(dialogue, onto=original)
        row = dialogue[0]
        row.turn, row.text, row.speaker = original.turn, original.text, original.speaker
        yield planted("leaked-span", f"{original.id} has the same span", utterance=row.id)
        yield planted("text-in-train", f"{original.id} has the same text", severity="info", utterance=row.id)


def _move(dialogue: list[Row], *, onto: Row) -> None:
    """Moves a dialogue so that its first turn has the span of another turn."""
    first = dialogue[0]
    first.turn = replace(first.turn, seconds=(onto.end - onto.start) / 1000)
    by = onto.end - first.end
    first.start, first.end = onto.start - by, onto.end - by
    for row in dialogue:
        row.season, row.episode = onto.season, onto.episode
        row.start += by
        row.end += by


def _text_in_train(rows: _Rows) -> Iterator[Finding]:
    for row, original in zip(rows.take("dev", "test"), rows.plan.splits["train"][1][::2], strict=False):
        row.text = original.text
        row.turn = replace(row.turn, text=original.text)
        yield planted("text-in-train", f"{original.id} has the same text", severity="info", utterance=row.id)


def _inverted_span(rows: _Rows) -> Iterator[Finding]:
    for row in rows.take("train", "train"):
        row.start, row.end = row.end, row.start
        yield planted("inverted-span", "start and end are exchanged", utterance=row.id)


def _out_of_order(rows: _Rows) -> Iterator[Finding]:
    for row in rows.take("train"):
        _begin(row, rows.before(row).start - 500)
        yield planted("out-of-order", "starts 0.5 s before the turn before", utterance=row.id)
        yield planted("overlap", "starts before the turn before has ended", severity="info", utterance=row.id)


def _overlap(rows: _Rows) -> Iterator[Finding]:
    for row in rows.take("train", "train"):
        _begin(row, rows.before(row).end - 300)
        yield planted("overlap", "starts 0.3 s before the turn before has ended", severity="info", utterance=row.id)


def _begin(row: Row, start: int) -> None:
    row.start, row.end = start, row.end + start - row.start


def _text_encoding(rows: _Rows) -> Iterator[Finding]:
    for row, damage in zip(rows.take("train", "train"), ("\x93{}\x94", "{}\x85"), strict=True):
        row.text = damage.format(row.text)
        yield planted("text-encoding", "cp1252 bytes read as latin-1", utterance=row.id)


def _stage_direction(rows: _Rows) -> Iterator[Finding]:
    for row, text in zip(rows.take("train", "train"), ("{} (She laughs.)", "(Whispering) {}"), strict=True):
        row.text = text.format(row.text)
        yield planted("stage-direction", "a stage direction in brackets", severity="info", utterance=row.id)


def _several_speakers(rows: _Rows) -> Iterator[Finding]:
    for row, speaker in zip(rows.take("train", "train", "dev"), ("{} and Greta", "{}/Hugo", "All"), strict=True):
        row.speaker = speaker.format(row.speaker)
        yield planted("several-speakers", f"the speaker is {row.speaker}", severity="info", utterance=row.id)


def _faults(rows: _Rows) -> Iterator[Finding]:
    for split, fault, check, evidence in _FAULTS:
        for row in rows.take(split):
            row.fault = fault
            severity: Severity = "error" if fault in ("unreadable", "missing") else "warning"
            yield planted(check, evidence, severity=severity, utterance=row.id, file=row.clip)


def _corrected_clips(rows: _Rows) -> Iterator[Finding]:
    """A wrong scene under the usual name, as in 132 cases of MELD's test split, and the right one beside it."""
    for row in rows.take("test", "test"):
        wrong = replace(row, turn=rows.before(row).turn)
        corrected = f"{CLIP_FOLDERS['test']}/{CORRECTED}dia{row.dialogue}_utt{row.utterance}.mp4"
        row.fault = "missing"
        rows.plan.extras += [(row.clip, wrong), (corrected, replace(row, fault=None))]
        yield planted("corrected-clip", "there is a correction", severity="info", utterance=row.id, file=corrected)


def _extra_clips(rows: _Rows) -> Iterator[Finding]:
    for split, prefix in (("dev", ""), ("test", CORRECTED)):
        for row in rows.take(split):
            last = rows.dialogue(row)[-1]
            file = f"{CLIP_FOLDERS[split]}/{prefix}dia{row.dialogue}_utt{last.utterance + 1}.mp4"
            rows.plan.extras.append((file, row))
            yield planted("extra-clip", "no row names it", severity="info", file=file)


def _stubs(rows: _Rows) -> Iterator[Finding]:
    for name in ("._dia0_utt0.mp4", "._final_videos_testdia0_utt1.mp4", "dia0_utt99.mp4"):
        file = f"{CLIP_FOLDERS['test']}/{name}"
        rows.plan.stubs.append(file)
        yield planted("stub-file", "212 bytes of AppleDouble", severity="info", file=file)


def _surround_audio(rows: _Rows) -> Iterator[Finding]:
    for row in rows.plan.rows:
        if row.surround:
            yield planted("surround-audio", "6 channels", severity="info", utterance=row.id, file=row.clip)


# In this order: ids first, since findings name them, then lengths, which move what follows, then places in time.
_PLANTS: tuple[Callable[[_Rows], Iterator[Finding]], ...] = (
    _wrong_counts,
    _id_gap,
    _duplicate_id,
    _over_long,
    _too_short,
    _duration_mismatch,
    _speech_rate,
    _duplicate_span,
    _leaked_span,
    _text_in_train,
    _inverted_span,
    _out_of_order,
    _overlap,
    _text_encoding,
    _stage_direction,
    _several_speakers,
    _faults,
    _corrected_clips,
    _extra_clips,
    _stubs,
    _surround_audio,
)
