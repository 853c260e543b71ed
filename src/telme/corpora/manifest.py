"""A corpus of one's own: a manifest, which is a JSONL file with a conversation on each line.

    {"labels": ["calm", "cross"]}
    {"id": "standup", "split": "train", "media": "standup.mp4", "utterances": [{"speaker": "Ann", "text": "No!", ...}]}

- The first line above is optional: the labels, in the order of every probability and confusion matrix. Without it they
  are those that occur, sorted.
- A conversation is as in Conversation JSON, with a `split`: `train`, `dev` or `test`. Where no conversation has one,
  all are `test`, the split that `telme evaluate` scores.
- Ids of conversations and of utterances are unique within a split; without an id, the third utterance of `standup` is
  `standup_utt2`.
- Paths of media are relative to the manifest's folder. Times are seconds within the conversation's `media`. An
  utterance's own `media` is a clip of it alone and read whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from telme.conversation import Conversation, LabelSet, Utterance
from telme.corpora.corpus import Corpus
from telme.errors import TelMEError
from telme.findings import Finding
from telme.media import Source
from telme.sources import sources_of
from telme.strict import parse_json
from telme.transcripts.encoding import decode_utf8

FILE = "manifest.jsonl"
SPLITS = ("train", "dev", "test")


def read_manifest(root: str | Path) -> Corpus:
    """The conversations of a manifest: a JSONL file, or a folder with `manifest.jsonl`.

    Raises:
        TelMEError: No manifest there, or a line that cannot be used; the message names the file and the line.
    """
    path = Path(root) / FILE if Path(root).is_dir() else Path(root)
    labels, entries = _read(path)
    splits: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    for split, conversation in _conversations(path, labels, entries):
        splits[split].append(conversation)
    places = list(_places(path.parent, [*chain.from_iterable(splits.values())]))
    sources = {place.key: place.source for place in places if place.source}
    return Corpus(
        name="manifest",
        root=str(path.parent),
        labels=labels,
        splits={split: tuple(members) for split, members in splits.items() if members},
        sizes={},
        recordings={place.key: place.recording for place in places},
        clips={key.partition("/")[0]: str(path.parent) for key in sources},
        repairs=tuple(_untimed_turn(place) for place in places if place.file and not place.source),
        sources=sources,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """The optional first line."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """Any other line: a conversation and its split."""

    id: str
    utterances: tuple[Utterance, ...]
    media: str | None = None
    split: Literal["train", "dev", "test"] | None = None


def _read(path: Path) -> tuple[LabelSet, dict[int, _Entry]]:
    """The labels, and the conversation on each line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TelMEError(f"{path} cannot be read: {error.strerror}; give a JSONL file or its folder") from error
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    lines = enumerate(decode_utf8(content, str(path)).split("\n"), start=1)
    written = {number: line for number, line in lines if line.strip()}
    first = min(written, default=0)
    header = None
    if written and _is_header(written[first]):
        header = parse_json(_Header, written.pop(first), f"{path}:{first}")
    if not written:
        raise TelMEError(f"{path} holds no conversation; it needs at least one")
    entries = {number: parse_json(_Entry, line, f"{path}:{number}") for number, line in written.items()}
    return _labels(path, header, entries), entries


def _is_header(line: str) -> bool:
    try:
        document = json.loads(line)
    except ValueError:
        return False
    return isinstance(document, dict) and "labels" in document


def _labels(path: Path, header: _Header | None, entries: Mapping[int, _Entry]) -> LabelSet:
    utterances = (utterance for entry in entries.values() for utterance in entry.utterances)
    labels = header.labels if header else sorted({u.label for u in utterances if u.label is not None})
    try:
        return LabelSet("manifest", tuple(labels))
    except TelMEError as error:
        advice = "" if header else '; name those that do not occur in a first line {"labels": [...]}'
        raise TelMEError(f"{path}: {error}{advice}") from error


def _conversations(path: Path, labels: LabelSet, entries: Mapping[int, _Entry]) -> Iterator[tuple[str, Conversation]]:
    """Each conversation with its split; ids are keys, unique throughout the corpus."""
    any_split = any(entry.split for entry in entries.values())
    lines: dict[tuple[str, str | None], int] = {}
    for line, entry in entries.items():
        try:
            if any_split and entry.split is None:
                raise TelMEError(f"split is missing though others have one; valid are {', '.join(SPLITS)}")
            split = entry.split or "test"
            conversation = _conversation(split, entry)
            for kind, key in (("conversation", conversation.id), *(("utterance", u.id) for u in conversation)):
                if (kind, key) in lines:
                    raise TelMEError(f"{kind} {key} is on line {lines[kind, key]} too; ids are unique within a split")
                lines[kind, key] = line
            for utterance in conversation:
                if utterance.label is not None:
                    labels.index(utterance.label)
        except TelMEError as error:
            raise TelMEError(f"{path}:{line}: {error}") from error
        yield split, conversation


def _conversation(split: str, entry: _Entry) -> Conversation:
    # An id that comes out of a store begins with the split.
    name = entry.id.removeprefix(f"{split}/")
    ids = (utterance.id or f"{name}_utt{turn}" for turn, utterance in enumerate(entry.utterances))
    return Conversation(
        f"{split}/{name}",
        tuple(
            replace(utterance, id=f"{split}/{key.removeprefix(f'{split}/')}")
            for utterance, key in zip(entry.utterances, ids, strict=True)
        ),
        media=entry.media,
    )


class _Place(NamedTuple):
    """Where an utterance was recorded."""

    key: str
    recording: str
    """What its times index."""
    file: str | None
    source: Source | None
    """None where there is no file, or no telling where in it."""


def _places(folder: Path, conversations: Sequence[Conversation]) -> Iterator[_Place]:
    for conversation in conversations:
        for utterance, source in zip(conversation, sources_of(conversation), strict=True):
            yield _Place(
                str(utterance.id),
                recording=conversation.media or conversation.id,
                file=utterance.media or conversation.media,
                source=None if source is None else replace(source, file=str(folder / source.file)),
            )


def _untimed_turn(place: _Place) -> Finding:
    return Finding(
        check="untimed-turn",
        severity="warning",
        evidence=f"somewhere in {place.file}: without a start and an end, nobody knows where",
        action="text only",
        utterance=place.key,
    )
