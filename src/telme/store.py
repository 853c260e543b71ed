"""The prepared store: a corpus as Arrow files, one row an utterance, complete only once its manifest is written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from telme.conversation import Conversation, LabelSet, Utterance
from telme.errors import TelMEError
from telme.files import write_whole
from telme.packing import unpack_frames, unpack_waveform
from telme.progress import track
from telme.strict import parse_json

if TYPE_CHECKING:
    from datasets import Dataset

Arrays = dict[str, NDArray[Any]]

STORE_VERSION = 2
MANIFEST = "manifest.json"
PLAN = "plan.json"  # what is being prepared; written first
OUTPUTS = "columns"  # folder of frozen models' outputs
ROWS_PER_CHUNK = 1024  # of outputs: what an interrupted annotation loses at most

SCHEMA = pa.schema(
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
        ("status", pa.string()),  # "ok", or the problems of voice and face, such as "padded, no-video"
        ("media", pa.string()),  # clip or recording, relative to the corpus's folder
        ("waveform", pa.binary()),  # packed, see telme.packing
        ("frames", pa.binary()),
    ]
)
_TRANSCRIPT = ["id", "conversation", "speaker", "text", "start", "end", "label", "media"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One Arrow file of the store."""

    file: str
    split: str
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a store holds and how to tell that it is whole; the last file that `prepare` writes.

    Args:
        root: The corpus's folder, absolute; `media` of a row is relative to it.
        decoder: What fixed the waveforms and frames (`telme.media.DECODER`); empty where there are none.
    """

    version: int
    corpus: str
    root: str
    label_set: str
    labels: tuple[str, ...]
    decoder: Mapping[str, str | int | float]
    shards: tuple[Shard, ...]

    @property
    def fingerprint(self) -> str:
        """Names the content: all of the manifest but for where the corpus lies."""
        content = {name: value for name, value in asdict(self).items() if name != "root"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Voiced(NamedTuple):
    """An utterance's voice (samples,) float32 at 16 kHz and face (8, 224, 224, 3) uint8 RGB, as far as there are."""

    waveform: NDArray[np.float32] | None
    frames: NDArray[np.uint8] | None


class Clips:
    """Voices and faces of a split by row, each unpacked when it is asked for; can be pickled into loading processes.

    Args:
        files: The split's shards.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)

    def __len__(self) -> int:
        return len(self._voices)

    def __getitem__(self, row: int) -> Voiced:
        return Voiced(self.waveform(row), self.frames(row))

    def __getstate__(self) -> tuple[Path, ...]:
        return self._files

    def __setstate__(self, files: tuple[Path, ...]) -> None:
        self._files = files

    def waveform(self, row: int) -> NDArray[np.float32] | None:
        """(samples,) float32 at 16 kHz; none where there is no voice."""
        packed = self._voices[row].as_buffer()
        return None if packed is None else unpack_waveform(packed)

    def frames(self, row: int) -> NDArray[np.uint8] | None:
        """(8, 224, 224, 3) uint8 RGB; none where there is no face."""
        packed = self._faces[row].as_buffer()
        return None if packed is None else unpack_frames(packed)

    @cached_property
    def samples(self) -> list[int]:
        """Length of each waveform, 0 where there is none; nothing is unpacked for it."""
        sizes = pc.fill_null(pc.binary_length(self._voices), 0)
        return [size // 2 for size in sizes.to_pylist()]  # 16 bits a sample

    @cached_property
    def has_frames(self) -> list[bool]:
        """Whether each row has a face."""
        present: list[bool] = pc.is_valid(self._faces).to_pylist()
        return present

    @cached_property
    def _voices(self) -> pa.ChunkedArray:
        return _read(self._files, ["waveform"])["waveform"]

    @cached_property
    def _faces(self) -> pa.ChunkedArray:
        return _read(self._files, ["frames"])["frames"]


class Store:
    """A finished store, opened for reading.

    Args:
        path: Folder that `prepare` wrote.

    Raises:
        TelMEError: No store, an unfinished one, one of another version, or a shard that is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        for shard, digest in zip(self.manifest.shards, digests(self.path, self.manifest), strict=True):
            file = self.path / shard.file
            if digest is None:
                raise TelMEError(f"{file}: this shard is missing; run telme prepare again")
            if digest != shard.sha256:
                raise TelMEError(f"{file}: this shard is damaged (its SHA-256 differs); run telme prepare again")

    @property
    def fingerprint(self) -> str:
        """Names the content of the store."""
        return self.manifest.fingerprint

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
        """The utterances of a split as a Hugging Face dataset, memory-mapped; waveform and frames are packed bytes.

        Raises:
            TelMEError: No such split.
        """
        from datasets import Dataset, concatenate_datasets

        return concatenate_datasets([Dataset.from_file(str(file)) for file in self._files(split)])

    def conversations(self, split: str) -> list[Conversation]:
        """The split's conversations, in the corpus's order; voices and faces are not read.

        Raises:
            TelMEError: No such split.
        """
        rows = _read(self._files(split), _TRANSCRIPT).to_pylist()
        return [
            Conversation(key, tuple(self._utterance(row) for row in turns))
            for key, turns in groupby(rows, key=lambda row: str(row["conversation"]))
        ]

    def clips(self, split: str) -> Clips:
        """The split's voices and faces, by row.

        Raises:
            TelMEError: No such split.
        """
        return Clips(self._files(split))

    def problems(self) -> dict[str, list[str]]:
        """Each problem of voice or face to the ids of the utterances that have it, in the corpus's order."""
        found: dict[str, list[str]] = {}
        for split in self.splits:
            for row in _read(self._files(split), ["id", "status"]).to_pylist():
                for problem in row["status"].split(", ") if row["status"] != "ok" else ():
                    found.setdefault(problem, []).append(row["id"])
        return found

    def columns(self, key: str, split: str) -> Arrays | None:
        """Outputs of a frozen model for every row of a split; none unless `annotate` has finished.

        Args:
            key: Fingerprint of the weights and of the preprocessing that made them.
        """
        files = [self._chunk(key, split, rows) for rows in self._chunks(split)]
        if not all(file.is_file() for file in files):
            return None
        table = _read(files, None)
        return {name: _to_array(table[name]) for name in table.column_names}

    def annotate(
        self, key: str, split: str, compute: Callable[[range], Mapping[str, NDArray[Any]]], *, title: str | None = None
    ) -> Arrays:
        """Outputs of a frozen model for every row of a split: loaded as far as they are stored, else computed and kept.

        Killed at any moment, the next call goes on with the chunk that was being computed. In a distributed run every
        process computes and the main one writes.

        Args:
            key: Fingerprint of the weights and of the preprocessing: letters, digits and `-`.
            compute: Rows of the split to arrays by name, (rows,) or (rows, size), whose types are kept.
            title: Of the progress bar over chunks; none shows without it.

        Raises:
            TelMEError: No such split.
        """
        from telme.distributed import barrier, is_main

        assert re.fullmatch(r"[A-Za-z0-9-]+", key), key
        missing = [rows for rows in self._chunks(split) if not self._chunk(key, split, rows).is_file()]
        barrier()  # every process has seen the same chunks before the first is written
        for rows in track(missing, title=title):
            arrays = compute(rows)
            assert all(len(array) == len(rows) for array in arrays.values())
            if is_main():
                file = self._chunk(key, split, rows)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, _arrow({name: _to_arrow(array) for name, array in arrays.items()}))
        barrier()
        columns = self.columns(key, split)
        assert columns is not None
        return columns

    def _files(self, split: str) -> list[Path]:
        files = [self.path / shard.file for shard in self.manifest.shards if shard.split == split]
        if not files:
            raise TelMEError(f"{self.path}: no split {split!r}; this store has {', '.join(self.splits)}")
        return files

    def _utterance(self, row: Mapping[str, Any]) -> Utterance:
        return Utterance(
            speaker=row["speaker"],
            text=row["text"],
            start=row["start"],
            end=row["end"],
            media=None if row["media"] is None else str(Path(self.manifest.root, row["media"])),
            label=row["label"],
            id=row["id"],
        )

    def _chunks(self, split: str) -> list[range]:
        """The split's rows by chunk of outputs."""
        self._files(split)  # refuses an unknown split
        rows = sum(shard.rows for shard in self.manifest.shards if shard.split == split)
        return [range(start, min(start + ROWS_PER_CHUNK, rows)) for start in range(0, rows, ROWS_PER_CHUNK)]

    def _chunk(self, key: str, split: str, rows: range) -> Path:
        return self.path / OUTPUTS / key / f"{split}-{rows.start // ROWS_PER_CHUNK:05d}.arrow"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished store.

    Raises:
        TelMEError: There is none, or it is another version's.
    """
    file = folder / MANIFEST
    if not file.is_file():
        way = (
            "preparing it was interrupted; the same telme prepare goes on from there"
            if (folder / PLAN).is_file()
            else f"make one with: telme prepare meld ROOT --out {folder}"
        )
        raise TelMEError(f"{folder}: no finished store here (no {MANIFEST}); {way}")
    text = file.read_bytes()
    try:
        version = json.loads(text)["version"]
    except (ValueError, KeyError, TypeError):
        raise TelMEError(f"{file}: not a store's manifest; run telme prepare again") from None
    if version != STORE_VERSION:
        raise TelMEError(f"{file}: store version {version!r}, not {STORE_VERSION}; run telme prepare again")
    return parse_json(Manifest, text, str(file))


def digests(folder: Path, manifest: Manifest) -> list[str | None]:
    """SHA-256 of each shard as it is on disk; none where it is missing."""
    files = [folder / shard.file for shard in manifest.shards]
    there = [file for file in files if file.is_file()]
    found = dict(zip(there, sha256(there), strict=True))
    return [found.get(file) for file in files]


def sha256(files: Sequence[Path]) -> list[str]:
    """SHA-256 of each file's content."""
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        return list(threads.map(_sha256, files))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(files: Sequence[Path], columns: list[str] | None) -> pa.Table:
    """The files' rows, memory-mapped: bytes are read as they are looked at."""
    tables = []
    for file in files:
        with pa.memory_map(str(file)) as source:  # the mapping outlives it
            table = pa.ipc.open_stream(source).read_all()
        tables.append(table if columns is None else table.select(columns))
    return pa.concat_tables(tables)


def _arrow(columns: dict[str, pa.Array]) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _to_arrow(array: NDArray[Any]) -> pa.Array:
    assert array.ndim in (1, 2)
    flat = pa.array(array.reshape(-1))
    return flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def _to_array(column: pa.ChunkedArray) -> NDArray[Any]:
    is_list = pa.types.is_fixed_size_list(column.type)
    shape = (len(column), column.type.list_size) if is_list else (len(column),)
    chunks = [(chunk.flatten() if is_list else chunk).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(chunks).reshape(shape)
