"""IEMOCAP (Busso et al., 2008, doi 10.1007/s10579-008-9076-6): dialogues of two actors, from the full release.

Read are the turns with one of the six emotions that conversation work tells apart. Turns of other labels and turns
without one are left out, as in all published splits, and so are no context either.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from telme.conversation import IEMOCAP, Conversation, Utterance
from telme.corpora.corpus import Corpus, Size, extra_files
from telme.errors import TelMEError
from telme.findings import Finding
from telme.media import Source
from telme.transcripts.encoding import decode_utf8

# Published with 5,163, 647 and 1,623 utterances, under another label convention and with another draw of dev.
SIZES = {"train": Size(108, None), "dev": Size(12, None), "test": Size(31, None)}
EMOTIONS = {"hap": "happy", "sad": "sad", "ang": "angry", "exc": "excited", "fru": "frustrated", "neu": "neutral"}
OTHER_LABELS = ("xxx", "oth", "dis", "fea", "sur")  # xxx: no two annotators agree
TEST_SESSION = "Ses05"
SPLIT_SEED = 42

TRANSCRIPTIONS = "dialog/transcriptions"
EVALUATIONS = "dialog/EmoEvaluation"
RECORDINGS = "dialog/avi/DivX"  # both actors side by side, the one whom the file's name gives on the left
VOICES = "sentences/wav"  # a folder for each dialogue, a file for each turn

_PLACES = (".", "IEMOCAP_full_release", "IEMOCAP_full_release/IEMOCAP_full_release")
_DIALOGUE = re.compile(r"(?P<dialogue>Ses\d\d[FM]_\w+)\.txt")
_TURN = r"(?P<turn>(?P<dialogue>\w+)_(?P<speaker>[FM])[A-Z0-9]+)"
_SPAN = r"\[(?P<start>\d+(?:\.\d+)?)\s*-\s*(?P<end>\d+(?:\.\d+)?)\]"
_TRANSCRIPT = re.compile(rf"{_TURN}\s+{_SPAN}:\s*(?P<text>\S.*)")
_EVALUATION = re.compile(rf"{_SPAN}\s+{_TURN}\s+(?P<label>{'|'.join((*EMOTIONS, *OTHER_LABELS))})\s+\[.+\]")
_BESIDE_EVALUATIONS = re.compile(r"%|[CA]-\w+:")  # the header, and what single annotators chose


def read_iemocap(root: str | Path) -> Corpus:
    """IEMOCAP as far as `root`, the full release or its parent, holds it; recordings are not needed.

    Sessions 1 to 4 are `train` and `dev`, 5 is `test` (`split_dialogues`).

    Raises:
        TelMEError: No session there, or a file that is not UTF-8 text.
    """
    release = _release(Path(root))
    sessions = _dialogues(release)
    splits = {
        split: [_read_dialogue(f"{split}/{name}", sessions[name]) for name in names]
        for split, names in split_dialogues(sessions).items()
    }
    dialogues = [dialogue for split in splits.values() for dialogue in split]
    labels = Counter(label for dialogue in dialogues for label in dialogue.labels.values())
    clips = {split: str(release) for split, members in splits.items() if any(map(_has_media, members))}
    return Corpus(
        name="iemocap",
        root=str(release),
        labels=IEMOCAP,
        splits={split: _conversations(members) for split, members in splits.items() if members},
        sizes=SIZES,
        recordings={str(utterance.id): dialogue.name for dialogue in dialogues for utterance in dialogue.utterances},
        clips=clips,
        repairs=(
            *(finding for dialogue in dialogues for finding in dialogue.findings),
            _label_convention(labels),
            *_outside_label_set(labels),
        ),
        sources={key: source for split in clips for dialogue in splits[split] for key, source in _sources(dialogue)},
        extras=tuple(_extras(dialogues)),
    )


def split_dialogues(names: Iterable[str]) -> dict[str, list[str]]:
    """The dialogues of train, dev and test: session 5 is the test set, of the others one in ten is dev.

    The draw depends on the names and on SPLIT_SEED alone, and is the same in every version of Python.
    """
    names = sorted(names)
    others = [name for name in names if not name.startswith(TEST_SESSION)]
    drawn = sorted(others, key=lambda name: hashlib.sha256(f"{SPLIT_SEED} {name}".encode()).digest())
    dev = drawn[: max(1, round(len(others) / 10))]
    return {
        "train": [name for name in others if name not in dev],
        "dev": sorted(dev),
        "test": [name for name in names if name.startswith(TEST_SESSION)],
    }


def _release(root: Path) -> Path:
    for release in (root / place for place in _PLACES):
        if any(_sessions(release)):
            return release
    raise TelMEError(
        f"{root}: no IEMOCAP here; IEMOCAP_full_release has folders Session1 to Session5, each with {TRANSCRIPTIONS} "
        f"and {EVALUATIONS}"
    )


def _sessions(release: Path) -> Iterator[Path]:
    for session in sorted(release.glob("Session[1-5]")):
        if (session / TRANSCRIPTIONS).is_dir() and (session / EVALUATIONS).is_dir():
            yield session


def _dialogues(release: Path) -> dict[str, Path]:
    """Each dialogue, transcribed or evaluated, with the folder of its session."""
    return {
        name: session
        for session in _sessions(release)
        for folder in (TRANSCRIPTIONS, EVALUATIONS)
        for name in _names(session / folder)
    }


def _names(folder: Path) -> Iterator[str]:
    return (match["dialogue"] for path in folder.iterdir() if (match := _DIALOGUE.fullmatch(path.name)))


class _Dialogue(NamedTuple):
    """What the two files of a dialogue say."""

    key: str
    """Such as `train/Ses01F_impro01`."""
    session: Path
    utterances: tuple[Utterance, ...]
    labels: Mapping[str, str]
    """Each evaluated turn's label as it is written, the other labels included."""
    turns: frozenset[str]
    """Every turn that is transcribed or evaluated."""
    findings: tuple[Finding, ...]

    @property
    def name(self) -> str:
        return self.key.partition("/")[2]


def _read_dialogue(key: str, session: Path) -> _Dialogue:
    split, _, name = key.partition("/")
    transcript, unread = _read_lines(session / TRANSCRIPTIONS / f"{name}.txt", _TRANSCRIPT)
    evaluation, unread_too = _read_lines(session / EVALUATIONS / f"{name}.txt", _EVALUATION, beside=_BESIDE_EVALUATIONS)
    labels = {turn: line["label"] for turn, line in evaluation.items()}
    lines = sorted(transcript.values(), key=lambda line: float(line["start"]))
    return _Dialogue(
        key=key,
        session=session,
        utterances=tuple(
            _utterance(split, line, EMOTIONS[labels[line["turn"]]])
            for line in lines
            if labels.get(line["turn"]) in EMOTIONS
        ),
        labels=labels,
        turns=frozenset(transcript) | frozenset(evaluation),
        findings=(
            *unread,
            *unread_too,
            *(_unlabelled_turn(f"{split}/{turn}") for turn in transcript if turn not in evaluation),
            *(_untranscribed_turn(f"{split}/{turn}") for turn in evaluation if turn not in transcript),
        ),
    )


def _read_lines(
    path: Path, pattern: re.Pattern[str], *, beside: re.Pattern[str] | None = None
) -> tuple[dict[str, re.Match[str]], list[Finding]]:
    """Each turn's line in a file, nothing if there is no file; and findings for the lines that make no sense.

    Args:
        beside: What other lines begin with.
    """
    turns: dict[str, re.Match[str]] = {}
    findings: list[Finding] = []
    text = decode_utf8(path.read_bytes(), str(path)) if path.exists() else ""
    for number, line in enumerate(map(str.strip, text.split("\n")), start=1):
        match = pattern.fullmatch(line)
        if match and _makes_sense(match, path.stem) and match["turn"] not in turns:
            turns[match["turn"]] = match
        elif line and not (beside and beside.match(line)):
            findings.append(_unparsed_line(path, number, line))
    return turns, findings


def _makes_sense(line: re.Match[str], dialogue: str) -> bool:
    # The whole name, not its beginning: there are Ses05M_script01_1 and Ses05M_script01_1b.
    return line["dialogue"] == dialogue and float(line["start"]) <= float(line["end"])


def _utterance(split: str, line: re.Match[str], label: str) -> Utterance:
    return Utterance(
        speaker=f"{line['turn'][:5]}_{line['speaker']}",
        text=line["text"],
        start=float(line["start"]),
        end=float(line["end"]),
        label=label,
        id=f"{split}/{line['turn']}",
    )


def _conversations(dialogues: Iterable[_Dialogue]) -> tuple[Conversation, ...]:
    return tuple(Conversation(dialogue.key, dialogue.utterances) for dialogue in dialogues if dialogue.utterances)


def _has_media(dialogue: _Dialogue) -> bool:
    return (dialogue.session / RECORDINGS).is_dir() or (dialogue.session / VOICES).is_dir()


def _sources(dialogue: _Dialogue) -> Iterator[tuple[str, Source]]:
    """The speaker's half of the recording, and the voice from the turn's own file, which holds less of the other's."""
    session, name = dialogue.session, dialogue.name
    has_recordings, has_voices = (session / RECORDINGS).is_dir(), (session / VOICES).is_dir()
    for utterance in dialogue.utterances:
        key = str(utterance.id)
        voice = str(session / VOICES / name / f"{key.partition('/')[2]}.wav")
        if has_voices and not has_recordings:  # there is a release without videos
            yield key, Source(file=voice)
            continue
        yield (
            key,
            Source(
                file=str(session / RECORDINGS / f"{name}.avi"),
                start=utterance.start,
                end=utterance.end,
                half="left" if utterance.speaker[-1] == name[5] else "right",
                voice=voice if has_voices else None,
            ),
        )


def _extras(dialogues: Iterable[_Dialogue]) -> Iterator[str]:
    sessions: dict[Path, list[_Dialogue]] = {}
    for dialogue in dialogues:
        sessions.setdefault(dialogue.session, []).append(dialogue)
    for session, members in sorted(sessions.items()):
        for folder, suffix, known in (
            (TRANSCRIPTIONS, ".txt", {member.name for member in members}),
            (EVALUATIONS, ".txt", {member.name for member in members}),
            (RECORDINGS, ".avi", {member.name for member in members}),
            *((f"{VOICES}/{member.name}", ".wav", member.turns) for member in members),
        ):
            yield from extra_files(session / folder, suffix, {f"{name}{suffix}" for name in known})


def _label_convention(labels: Mapping[str, int]) -> Finding:
    count = sum(labels.get(label, 0) for label in EMOTIONS)
    return Finding(
        check="label-convention",
        severity="info",
        evidence=f"six emotions: {count:,} turns here, {labels.get('hap', 0):,} of them happy; the whole release has "
        "7,380 by the official consensus, the pickles of ERC work 7,433 (648 happy instead of 595)",
        action="the official consensus is followed",
    )


def _outside_label_set(labels: Mapping[str, int]) -> Iterator[Finding]:
    counts = {label: labels[label] for label in OTHER_LABELS if labels.get(label)}
    if counts:
        yield Finding(
            check="outside-label-set",
            severity="info",
            evidence=f"{sum(counts.values()):,} turns: " + ", ".join(f"{n:,} {label}" for label, n in counts.items()),
            action="left out",
        )


def _unparsed_line(path: Path, number: int, line: str) -> Finding:
    return Finding(
        check="unparsed-line",
        severity="warning",
        evidence=f"{path.name}:{number}: {line!r:.60}",
        action="left out",
        file=str(path),
    )


def _unlabelled_turn(key: str) -> Finding:
    return Finding(
        check="unlabelled-turn",
        severity="warning",
        evidence=f"in {TRANSCRIPTIONS}, not in {EVALUATIONS}",
        action="left out",
        utterance=key,
    )


def _untranscribed_turn(key: str) -> Finding:
    return Finding(
        check="untranscribed-turn",
        severity="warning",
        evidence=f"in {EVALUATIONS}, not in {TRANSCRIPTIONS}",
        action="left out",
        utterance=key,
    )
