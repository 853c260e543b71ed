"""The prepared store: a corpus as Arrow files, one row an utterance, complete only once its manifest is written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from telme.conversation import Conversation, LabelSet, Utterance
from telme.corpora import Corpus
from telme.errors import TelMEError
from telme.files import write_json
from telme.strict import parse_json

STORE_VERSION = 1
MANIFEST = "manifest.json"
SHARD_NAME = re.compile(r".+-\d{5}-of-\d{5}\.arrow")
ROWS_PER_SHARD = 100_000  # transcripts alone: some 20 MB

_COLUMNS = pa.schema(
    [
        ("id", pa.string()),  # train/dia0_utt3
        ("split", pa.string()),
        ("conversation", pa.string()),  # train/dia0
        ("turn", pa.int32()),  # 0-based place within the conversation, as it is stored
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("start", pa.float64()),  # seconds within the recording
        ("end", pa.float64()),
        ("label", pa.string()),
        ("status", pa.string()),  # what there is beside the text: "no-media"
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One Arrow file of the store."""

    file: str
    split: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a store holds and how to tell that it is whole; the last file that `prepare` writes."""

    version: int
    corpus: str
    label_set: str
    labels: tuple[str, ...]
    shards: tuple[Shard, ...]


class Store:
    """A finished store, opened for reading.

    Args:
        path: Folder that `prepare` wrote.

    Raises:
        TelMEError: No store, an unfinished one, one of another version, or a shard that is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            raise TelMEError(
                f"{path}: no finished store here (no {MANIFEST}); make one with: telme prepare meld ROOT --out {path}"
            )
        text = manifest.read_bytes()
        self.manifest = _parse_manifest(text, str(manifest))
        self.fingerprint = hashlib.sha256(text).hexdigest()[:16]
        for shard in self.manifest.shards:
            file = self.path / shard.file
            if not file.is_file():
                raise TelMEError(f"{file}: this shard is missing; run telme prepare again")
            if _sha256(file) != shard.sha256:
                raise TelMEError(f"{file}: this shard is damaged (its SHA-256 differs); run telme prepare again")

    @property
    def name(self) -> str:
        """Corpus and fingerprint, as results cite the store."""
        return f"{self.manifest.corpus}@{self.fingerprint}"

    @cached_property
    def labels(self) -> LabelSet:
        """The emotions the corpus is annotated with."""
        return LabelSet(self.manifest.label_set, self.manifest.labels)

    @property
    def splits(self) -> list[str]:
        """The splits there are, in the corpus's order."""
        return list(dict.fromkeys(shard.split for shard in self.manifest.shards))

    def rows(self, split: str) -> Dataset:
        """The utterances of a split as a Hugging Face dataset, memory-mapped.

        Raises:
            TelMEError: No such split.
        """
        files = [self.path / shard.file for shard in self.manifest.shards if shard.split == split]
        if not files:
            raise TelMEError(f"{self.path}: no split {split!r}; this store has {', '.join(self.splits)}")
        return concatenate_datasets([Dataset.from_file(str(file)) for file in files])

    def conversations(self, split: str) -> list[Conversation]:
        """The split's conversations, in the corpus's order."""
        return [
            Conversation(key, tuple(_utterance(row) for row in rows))
            for key, rows in groupby(self.rows(split).to_list(), key=lambda row: str(row["conversation"]))
        ]


def prepare(corpus: Corpus, out: str | Path) -> Store:
    """Writes a corpus as a store and opens it; a finished store of the same corpus is replaced.

    Raises:
        TelMEError: `out` is a folder with other things in it.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or not _is_ours(folder)):
        raise TelMEError(f"{out}: exists and is not a store; name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / MANIFEST, *sorted(folder.glob("*.arrow"))):  # the manifest first: from here on unfinished
        old.unlink(missing_ok=True)
    shards: list[Shard] = []
    for split, conversations in corpus.splits.items():
        rows = [row for conversation in conversations for row in _rows(split, conversation)]
        starts = range(0, len(rows), ROWS_PER_SHARD)
        for number, start in enumerate(starts):
            file = folder / f"{split}-{number:05d}-of-{len(starts):05d}.arrow"
            chunk = rows[start : start + ROWS_PER_SHARD]
            _write_arrow(file, chunk)
            shards.append(Shard(file=file.name, split=split, rows=len(chunk), sha256=_sha256(file)))
    manifest = Manifest(
        version=STORE_VERSION,
        corpus=corpus.name,
        label_set=corpus.labels.name,
        labels=corpus.labels.labels,
        shards=tuple(shards),
    )
    write_json(folder / MANIFEST, asdict(manifest))
    return Store(folder)


def _parse_manifest(text: bytes, where: str) -> Manifest:
    try:
        version = json.loads(text)["version"]
    except (ValueError, KeyError, TypeError):
        raise TelMEError(f"{where}: not a store's manifest; run telme prepare again") from None
    if version != STORE_VERSION:
        raise TelMEError(f"{where}: store version {version!r}, not {STORE_VERSION}; run telme prepare again")
    return parse_json(Manifest, text, where)


def _is_ours(folder: Path) -> bool:
    return all(SHARD_NAME.fullmatch(file.name) or file.name.startswith(MANIFEST) for file in folder.iterdir())


def _rows(split: str, conversation: Conversation) -> list[dict[str, object]]:
    return [
        {
            "id": utterance.id,
            "split": split,
            "conversation": conversation.id,
            "turn": turn,
            "speaker": utterance.speaker,
            "text": utterance.text,
            "start": utterance.start,
            "end": utterance.end,
            "label": utterance.label,
            "status": "no-media",
        }
        for turn, utterance in enumerate(conversation)
    ]


def _utterance(row: Mapping[str, Any]) -> Utterance:
    return Utterance(
        speaker=row["speaker"],
        text=row["text"],
        start=row["start"],
        end=row["end"],
        label=row["label"],
        id=row["id"],
    )


def _write_arrow(file: Path, rows: Sequence[dict[str, object]]) -> None:
    table = pa.Table.from_pylist(list(rows), schema=_COLUMNS)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
