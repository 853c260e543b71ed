"""Corpus -> store: every clip is decoded once; killed at any moment, the same call goes on after the last whole row."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from rich.table import Table

from telme.conversation import Utterance
from telme.corpora import Corpus
from telme.errors import TelMEError
from telme.files import write_json, write_whole
from telme.progress import counted
from telme.store import (
    MANIFEST,
    OUTPUTS,
    PLAN,
    SCHEMA,
    STORE_VERSION,
    Manifest,
    Shard,
    Store,
    digests,
    read_manifest,
    sha256,
)

if TYPE_CHECKING:
    from telme.decoding import Packed
    from telme.media import Source

ROWS_PER_SHARD = 100_000  # of transcripts alone: some 20 MB
CLIPS_PER_SHARD = 64  # some 16 MB, and what one process decodes in turn

MEANINGS: Mapping[str, str] = {
    "no-media": "the corpus has no media for it; text only",
    "missing": "no such file; text only",
    "unreadable": "no media file, or damaged beyond use; text only",
    "empty-span": "the span has no length, or begins after the recording's end; text only",
    "truncated": "the media ends early, or a part of it does not decode; kept as far as it goes",
    "no-audio": "no sound; without a voice",
    "no-video": "no picture; without a face",
    "padded": "too short; silence added",
    "cut": "too long; only the end is kept",
}

_OURS = re.compile(r"((plan|manifest)\.json|.+-\d{5}-of-\d{5}\.arrow)(\.unfinished)?")
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # as Arrow's stream format has it


def prepare(corpus: Corpus, out: str | Path, *, workers: int | None = None) -> Store:
    """Writes a corpus as a store and opens it.

    What an interrupted call has written is kept, a finished store of the same corpus is left as it is, and any other
    store is replaced. The bytes of a store depend on the corpus and the decoder alone, whatever happened on the way.

    Args:
        workers: Processes that decode; as many as there are processors without it. Without media there are none.

    Raises:
        TelMEError: `out` is a folder with other things in it, or another process is preparing a store there.
    """
    folder = Path(out)
    if store := find_prepared(corpus, folder):
        return store
    if folder.exists() and (not folder.is_dir() or not _is_ours(folder)):
        raise TelMEError(f"{out}: exists and is not a store; name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _begin(folder, _plan(corpus))
        shards = _shards(corpus, folder)
        for shard in shards:
            if not shard.has_media and not shard.file.exists():
                shard.write([shard.row(position) for position in range(len(shard.utterances))])
        _decode([shard for shard in shards if shard.has_media], workers=workers)
        write_json(folder / MANIFEST, asdict(_manifest(corpus, shards)))
    return Store(folder)


def find_prepared(corpus: Corpus, out: str | Path) -> Store | None:
    """The store in the folder if it is the corpus's, finished and whole, so that nothing is left to do."""
    folder = Path(out)
    if not (folder / MANIFEST).is_file() or _planned(folder) != _plan(corpus):
        return None
    try:
        store = Store(folder)
    except TelMEError:
        return None
    return store if store.manifest.root == str(_root(corpus)) else None


def problems_table(problems: Mapping[str, Sequence[str]]) -> Table:
    """What became of voices and faces, from `Store.problems`: how often, where for example, and what it means."""
    table = Table("problem", "utterances", "such as", "meaning")
    for problem, ids in problems.items():
        table.add_row(problem, f"{len(ids):,}", ids[0], MEANINGS[problem])
    return table


class _Turn(NamedTuple):
    """An utterance with its place in the corpus."""

    split: str
    conversation: str
    turn: int
    utterance: Utterance
    source: Source | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """A shard to be written: beside its final name first, and renamed when it is whole."""

    file: Path
    root: Path
    utterances: Sequence[_Turn]
    has_media: bool

    @property
    def unfinished(self) -> Path:
        return self.file.with_name(f"{self.file.name}.unfinished")

    def row(self, position: int, packed: Packed | None = None) -> dict[str, Any]:
        """A row as the store keeps it."""
        split, conversation, turn, utterance, source = self.utterances[position]
        waveform, frames, status = packed or (None, None, "no-media")
        return {
            "id": utterance.id,
            "split": split,
            "conversation": conversation,
            "turn": turn,
            "speaker": utterance.speaker,
            "text": utterance.text,
            "start": utterance.start,
            "end": utterance.end,
            "label": utterance.label,
            "status": status,
            "media": None if source is None else _relative(source.file, self.root),
            "waveform": waveform,
            "frames": frames,
        }

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Adds rows as one record batch."""
        with self.unfinished.open("ab") as stream:
            if stream.tell() == 0:
                stream.write(SCHEMA.serialize())
            stream.write(pa.RecordBatch.from_pylist(rows, schema=SCHEMA).serialize())

    def finish(self) -> None:
        """Gives the shard its name."""
        with self.unfinished.open("ab") as stream:
            stream.write(_END_OF_STREAM)
        self.unfinished.replace(self.file)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Writes all rows at once."""
        self.unfinished.unlink(missing_ok=True)
        self.append(rows)
        self.finish()

    def keep(self) -> int:
        """Number of record batches that an interrupted call left whole; what is torn after them is cut off."""
        if not self.unfinished.exists():
            return 0
        stream = pa.BufferReader(self.unfinished.read_bytes())
        messages = whole = 0
        with suppress(EOFError, pa.ArrowInvalid, OSError):
            while pa.ipc.read_message(stream):
                messages, whole = messages + 1, stream.tell()
        os.truncate(self.unfinished, whole)
        return max(0, messages - 1)  # the first is the schema


def _decode(shards: Sequence[_Shard], *, workers: int | None) -> None:
    """Writes the shards that are not finished, a batch a clip."""
    written = [len(shard.utterances) if shard.file.exists() else shard.keep() for shard in shards]
    for shard, done in zip(shards, written, strict=True):
        if done == len(shard.utterances) and not shard.file.exists():
            shard.finish()
    left = [number for number, shard in enumerate(shards) if not shard.file.exists()]
    if not left:
        return
    from telme.decoding import Job, decode, usable_cpus

    jobs = [Job(number, [turn.source for turn in shards[number].utterances[written[number] :]]) for number in left]
    total = sum(len(shard.utterances) for shard in shards)
    with closing(decode(jobs, workers=workers or usable_cpus())) as clips:
        for number, packed in counted(clips, title="preparing", unit="clips", total=total, done=sum(written)):
            shard = shards[number]
            shard.append([shard.row(written[number], packed)])
            written[number] += 1
            if written[number] == len(shard.utterances):
                shard.finish()


def _shards(corpus: Corpus, folder: Path) -> list[_Shard]:
    shards = []
    for split, conversations in corpus.splits.items():
        turns = [
            _Turn(split, conversation.id, turn, utterance, _source(corpus, utterance))
            for conversation in conversations
            for turn, utterance in enumerate(conversation)
        ]
        has_media = any(turn.source for turn in turns)
        size = CLIPS_PER_SHARD if has_media else ROWS_PER_SHARD
        starts = range(0, len(turns), size)
        shards += [
            _Shard(
                file=folder / f"{split}-{number:05d}-of-{len(starts):05d}.arrow",
                root=_root(corpus),
                utterances=turns[start : start + size],
                has_media=has_media,
            )
            for number, start in enumerate(starts)
        ]
    return shards


def _manifest(corpus: Corpus, shards: Sequence[_Shard]) -> Manifest:
    hashes = sha256([shard.file for shard in shards])
    return Manifest(
        version=STORE_VERSION,
        corpus=corpus.name,
        root=str(_root(corpus)),
        label_set=corpus.labels.name,
        labels=corpus.labels.labels,
        decoder=_decoder(corpus),
        shards=tuple(
            Shard(file=shard.file.name, split=shard.utterances[0].split, rows=len(shard.utterances), sha256=digest)
            for shard, digest in zip(shards, hashes, strict=True)
        ),
    )


def _plan(corpus: Corpus) -> str:
    """What is prepared, as JSON: equal exactly for corpora of equal content, decoded in the same way."""
    content = hashlib.sha256()
    for split, conversations in corpus.splits.items():
        for conversation in conversations:
            for utterance in conversation:
                said = [utterance.speaker, utterance.text, utterance.start, utterance.end, utterance.label]
                seen = _facts(corpus, _source(corpus, utterance))
                content.update(json.dumps([split, conversation.id, utterance.id, said, seen]).encode())
    plan = {
        "version": STORE_VERSION,
        "corpus": corpus.name,
        "label_set": corpus.labels.name,
        "labels": corpus.labels.labels,
        "decoder": _decoder(corpus),
        "content": content.hexdigest(),  # texts, labels, times, and each clip's name, span and size
    }
    return json.dumps(plan, indent=2) + "\n"


def _planned(folder: Path) -> str | None:
    with suppress(OSError):
        return (folder / PLAN).read_text(encoding="utf-8")
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second process from writing there; the lock ends with this one, however it ends."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TelMEError(
                    f"{folder}: another process is preparing a store here; wait for it or end it"
                ) from None
        yield
    finally:
        os.close(lock)


def _begin(folder: Path, plan: str) -> None:
    """Leaves in the folder what the plan can go on with, and the plan; the manifest is gone."""
    if _planned(folder) == plan and _drop_damaged(folder):
        return
    (folder / MANIFEST).unlink(missing_ok=True)  # first: from here on unfinished
    shutil.rmtree(folder / OUTPUTS, ignore_errors=True)
    for old in folder.glob("*.arrow*"):
        old.unlink()
    write_whole(folder / PLAN, plan)


def _drop_damaged(folder: Path) -> bool:
    """Removes a finished store's damaged shards and its manifest; false if the manifest cannot tell which they are."""
    if not (folder / MANIFEST).is_file():
        return True
    try:
        manifest = read_manifest(folder)
    except TelMEError:
        return False
    for shard, digest in zip(manifest.shards, digests(folder, manifest), strict=True):
        if digest != shard.sha256:
            (folder / shard.file).unlink(missing_ok=True)
    (folder / MANIFEST).unlink()
    return True


def _is_ours(folder: Path) -> bool:
    names = {file.name for file in folder.iterdir()}
    if PLAN in names:
        names.discard(OUTPUTS)
    return all(map(_OURS.fullmatch, names))


def _decoder(corpus: Corpus) -> dict[str, str | int | float]:
    if not corpus.sources:
        return {}
    from telme.media import DECODER

    return dict(DECODER)


def _source(corpus: Corpus, utterance: Utterance) -> Source | None:
    return None if utterance.id is None else corpus.sources.get(utterance.id)


def _facts(corpus: Corpus, source: Source | None) -> list[Any]:
    """What a clip's content depends on; a corpus that was moved is still the same."""
    if source is None:
        return []
    root = _root(corpus)
    files = [file for file in (source.file, source.voice) if file]
    return [[_relative(file, root), _size(file)] for file in files] + [source.start, source.end, source.half]


def _size(file: str) -> int | None:
    with suppress(OSError):
        return Path(file).stat().st_size
    return None


def _root(corpus: Corpus) -> Path:
    return Path(corpus.root).absolute()


def _relative(file: str, root: Path) -> str:
    path = Path(file).absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
