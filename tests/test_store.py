"""The prepared store: what went in comes out, and nothing unfinished, damaged or of another version is ever read."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import telme.prepare
import telme.store
from telme.conversation import Utterance
from telme.corpora import Corpus, read_corpus
from telme.errors import TelMEError
from telme.media import Source, read_clip
from telme.packing import pack_frames, pack_waveform, unpack_frames, unpack_waveform
from telme.prepare import prepare
from telme.store import MANIFEST, Store


@pytest.fixture
def own_store(corpus: Corpus, tmp_path: Path) -> Path:
    """A finished store that a test may damage."""
    prepare(corpus, tmp_path / "own")
    return tmp_path / "own"


def utterances(corpus: Corpus, split: str) -> list[Utterance]:
    """A split's utterances in the order of the store's rows."""
    return [utterance for conversation in corpus.splits[split] for utterance in conversation]


def test_every_utterance_comes_back(corpus: Corpus, store: Store) -> None:
    assert {split: tuple(store.conversations(split)) for split in store.splits} == corpus.splits
    assert store.labels == corpus.labels


def test_every_clip_comes_back(voiced: Corpus, voiced_store: Store) -> None:
    clips = voiced_store.clips("dev")
    (glad, *_) = [row for row, utterance in enumerate(utterances(voiced, "dev")) if row and utterance.label == "glad"]
    waveform, frames = clips[glad]
    clip = read_clip(Source(file=str(Path(voiced.root, "glad.mp4"))))
    assert waveform is not None
    assert frames is not None
    assert clip.waveform is not None
    assert clip.frames is not None
    assert np.array_equal(waveform, unpack_waveform(pack_waveform(clip.waveform)))
    assert np.array_equal(frames, unpack_frames(pack_frames(clip.frames)))
    assert clips[0] == (None, None)
    assert [bool(samples) for samples in clips.samples] == clips.has_frames == [False] + [True] * (len(clips) - 1)
    assert clips.samples[glad] == len(waveform)
    assert len(clips) == len(utterances(voiced, "dev"))
    with pytest.raises(IndexError):
        clips[len(clips)]


def test_clips_travel_to_other_processes(voiced_store: Store) -> None:
    clips: Any = voiced_store.clips("train")
    assert len(clips.samples) > telme.prepare.CLIPS_PER_SHARD  # more than one shard
    pickled = pickle.dumps(clips)
    assert len(pickled) < 10_000
    there: Any = pickle.loads(pickled)
    assert there.samples == clips.samples
    assert there.waveform(70).tolist() == clips.waveform(70).tolist()


def test_utterances_name_their_clips(voiced: Corpus, voiced_store: Store) -> None:
    for conversation in voiced_store.conversations("test"):
        for utterance in conversation:
            assert utterance.media == voiced.sources[str(utterance.id)].file


def test_a_text_corpus_has_clips_without_anything(store: Store) -> None:
    clips = store.clips("dev")
    assert not any(clips.samples)
    assert not any(clips.has_frames)
    assert clips[3] == (None, None)


def test_problems_are_listed_with_their_utterances(voiced_store: Store, store: Store) -> None:
    firsts = [voiced_store.conversations(split)[0].utterances[0].id for split in voiced_store.splits]
    assert voiced_store.problems() == {"missing": firsts}
    assert {problem: len(ids) for problem, ids in store.problems().items()} == {"no-media": 144}


def test_rows_are_a_dataset(voiced_store: Store) -> None:
    row = voiced_store.rows("test")[1]
    assert row["status"] == "ok"
    assert row["media"] in {"calm.mp4", "glad.mp4", "cross.mp4"}
    assert len(unpack_waveform(row["waveform"])) == voiced_store.clips("test").samples[1]


def test_the_fingerprint_does_not_tell_where_the_corpus_lies(store: Store, corpus: Corpus, tmp_path: Path) -> None:
    moved = prepare(dataclasses.replace(corpus, root="elsewhere"), tmp_path / "moved")
    assert moved.manifest.root != store.manifest.root
    assert moved.fingerprint == store.fingerprint


class Encoder:
    """Stands for a frozen model; remembers what it was asked for, and may be interrupted."""

    def __init__(self, *, interrupted_at: int | None = None) -> None:
        self.asked: list[range] = []
        self.interrupted_at = interrupted_at

    def __call__(self, rows: range) -> dict[str, NDArray[Any]]:
        if rows.start == self.interrupted_at:
            raise KeyboardInterrupt
        self.asked.append(rows)
        numbers = np.arange(rows.start, rows.stop, dtype=np.float32)
        return {"shift": numbers, "logits": np.stack([numbers, -numbers, numbers / 3], axis=1), "odd": numbers % 2 == 1}


def test_outputs_are_computed_once(corpus: Corpus, own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telme.store, "ROWS_PER_CHUNK", 8)
    store = Store(own_store)
    rows = len(utterances(corpus, "dev"))
    assert store.columns("teacher-1", "dev") is None
    with pytest.raises(KeyboardInterrupt):
        store.annotate("teacher-1", "dev", Encoder(interrupted_at=16))
    assert store.columns("teacher-1", "dev") is None

    encoder = Encoder()
    columns = store.annotate("teacher-1", "dev", encoder)
    assert encoder.asked == [range(16, 24), range(24, rows)]
    expected = Encoder()(range(rows))
    assert {name: array.dtype for name, array in columns.items()} == {n: a.dtype for n, a in expected.items()}
    assert all(np.array_equal(columns[name], expected[name]) for name in expected)

    again = Store(own_store).columns("teacher-1", "dev")
    assert again is not None
    assert all(np.array_equal(again[name], expected[name]) for name in expected)
    assert store.columns("teacher-2", "dev") is store.columns("teacher-1", "test") is None


def test_a_damaged_shard_is_named(own_store: Path) -> None:
    shard = own_store / "dev-00000-of-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(TelMEError, match=r"dev-00000-of-00001\.arrow: this shard is damaged"):
        Store(own_store)


def test_a_missing_shard_is_named(own_store: Path) -> None:
    (own_store / "test-00000-of-00001.arrow").unlink()
    with pytest.raises(TelMEError, match=r"test-00000-of-00001\.arrow: this shard is missing"):
        Store(own_store)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("", "not a store's manifest"),
        ("{", "not a store's manifest"),
        ("[]", "not a store's manifest"),
        ("{}", "not a store's manifest"),
        ('{"name": "an app", "version": "1.2"}', "store version '1.2', not 2"),
        ('{"version": 0}', "store version 0, not 2; run telme prepare again"),
        ('{"version": 1}', "store version 1, not 2; run telme prepare again"),
        ('{"version": 2, "made_by": "me"}', "unknown key 'made_by'"),
        ('{"version": 2}', "key 'corpus' is missing"),
        (b"\xff\xfe", "not a store's manifest"),
    ],
)
def test_another_manifest_is_refused(own_store: Path, manifest: str | bytes, message: str) -> None:
    content = manifest.encode() if isinstance(manifest, str) else manifest
    (own_store / MANIFEST).write_bytes(content)
    with pytest.raises(TelMEError, match=message) as refused:
        Store(own_store)
    assert str(refused.value).startswith(str(own_store / MANIFEST))
    assert "\n" not in str(refused.value)


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(TelMEError, match=f"telme prepare meld ROOT --out {tmp_path / 'none'}"):
        Store(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_split_lists_the_splits(store: Store) -> None:
    with pytest.raises(TelMEError, match="no split 'validation'; this store has train, dev, test"):
        store.rows("validation")


def test_the_manifest_tells_what_the_store_holds(store: Store, corpus: Corpus) -> None:
    manifest = json.loads((store.path / MANIFEST).read_bytes())
    assert (manifest["corpus"], manifest["label_set"], manifest["version"]) == ("moods", "mood", 2)
    assert manifest["labels"] == list(corpus.labels)
    assert {shard["split"]: shard["rows"] for shard in manifest["shards"]} == {
        split: sum(map(len, conversations)) for split, conversations in corpus.splits.items()
    }


@pytest.mark.skipif("TELME_MELD" not in os.environ, reason="TELME_MELD names no folder with MELD's CSV files")
def test_real_meld_comes_back(tmp_path: Path) -> None:
    corpus = read_corpus("meld", os.environ["TELME_MELD"])
    store = prepare(corpus, tmp_path / "meld")
    conversations = {split: store.conversations(split) for split in store.splits}
    sizes = {split: (len(those), sum(map(len, those))) for split, those in conversations.items()}
    assert sizes == {"train": (1038, 9989), "dev": (114, 1109), "test": (280, 2610)}
    assert {split: tuple(those) for split, those in conversations.items()} == corpus.splits
