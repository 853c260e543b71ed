"""The prepared store: what goes in comes out, twice the same, and nothing unfinished or damaged is ever read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import telme.store
from telme.conversation import Conversation, LabelSet, Utterance
from telme.corpora import Corpus, read_corpus
from telme.errors import TelMEError
from telme.store import MANIFEST, Store, prepare

ODD_TEXT = "I\u2019m  here\u2028now \u0085 \U0001f600"
ODD = (
    Conversation(
        "dev/dia7",
        (
            Utterance("Ann", ODD_TEXT, start=0.0, end=0.0, label="glad", id="dev/dia7_utt3"),
            Utterance(" Bob ", "no times, no label", id="dev/dia7_utt1"),
            Utterance("Ann", "a start alone", start=1 / 3, label="calm", id="dev/dia7_utt9"),
            Utterance("Ann", "no id", end=1e6, label="cross"),
        ),
    ),
    Conversation("dev/dia2", (Utterance("Cy", "hm", start=5.0, end=4.0e5, label="calm", id="dev/dia2_utt0"),)),
)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def odd(corpus: Corpus) -> Corpus:
    """A corpus of two splits, test before dev, with every kind of utterance that a corpus may hold."""
    return replace(corpus, splits={"test": corpus.splits["test"], "dev": ODD})


@pytest.fixture
def own_store(corpus: Corpus, tmp_path: Path) -> Path:
    """A finished store that a test may damage."""
    prepare(corpus, tmp_path / "own")
    return tmp_path / "own"


def test_every_utterance_comes_back(corpus: Corpus, store: Store) -> None:
    assert {split: tuple(store.conversations(split)) for split in store.splits} == corpus.splits
    assert store.labels == corpus.labels


@pytest.mark.parametrize("rows_per_shard", [1, 3, 100_000])
def test_gaps_missing_times_and_odd_characters_come_back(
    odd: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_shard: int
) -> None:
    monkeypatch.setattr(telme.store, "ROWS_PER_SHARD", rows_per_shard)
    store = prepare(odd, tmp_path / "store")
    assert tuple(store.conversations("dev")) == ODD
    assert tuple(store.conversations("test")) == odd.splits["test"]
    rows = store.rows("dev").to_list()
    assert [row["turn"] for row in rows] == [0, 1, 2, 3, 0]
    assert {(row["split"], row["status"]) for row in rows} == {("dev", "no-media")}


def test_splits_stand_in_the_corpuss_order(odd: Corpus, tmp_path: Path) -> None:
    assert prepare(odd, tmp_path / "store").splits == ["test", "dev"]


def test_prepared_twice_the_bytes_are_the_same(odd: Corpus, tmp_path: Path) -> None:
    stores = [prepare(odd, tmp_path / name) for name in ("one", "other")]
    assert files(tmp_path / "one") == files(tmp_path / "other")
    assert stores[0].fingerprint == stores[1].fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda corpus: replace(corpus, name="others"),
        lambda corpus: replace(corpus, labels=LabelSet("mood", ("glad", "calm", "cross"))),
        lambda corpus: replace(corpus, splits={"test": corpus.splits["test"]}),
        lambda corpus: replace(corpus, splits={**corpus.splits, "dev": ODD[::-1]}),
        lambda corpus: replace(corpus, splits={**corpus.splits, "dev": (ODD[0],)}),
    ],
)
def test_other_content_has_another_fingerprint(odd: Corpus, tmp_path: Path, change: Callable[[Corpus], Corpus]) -> None:
    one, other = prepare(odd, tmp_path / "one"), prepare(change(odd), tmp_path / "other")
    assert one.fingerprint != other.fingerprint
    assert one.name != other.name


def test_prepared_again_the_store_is_replaced(odd: Corpus, own_store: Path, tmp_path: Path) -> None:
    prepare(odd, own_store)
    prepare(odd, tmp_path / "fresh")
    assert files(own_store) == files(tmp_path / "fresh")


@pytest.mark.parametrize("interrupted_in", ["_write_arrow", "write_json"])
def test_an_interrupted_store_is_refused_and_can_be_prepared_again(
    corpus: Corpus, own_store: Path, monkeypatch: pytest.MonkeyPatch, interrupted_in: str
) -> None:
    whole = files(own_store)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(telme.store, interrupted_in, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(corpus, own_store)
    with pytest.raises(TelMEError, match="no finished store here"):
        Store(own_store)
    prepare(corpus, own_store)
    assert files(own_store) == whole


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
        ('{"name": "an app", "version": "1.2"}', "store version '1.2', not 1"),
        ('{"version": 0}', "store version 0, not 1; run telme prepare again"),
        ('{"version": 2}', "store version 2, not 1; run telme prepare again"),
        ('{"version": 1, "made_by": "me"}', "unknown key 'made_by'"),
        ('{"version": 1}', "key 'corpus' is missing"),
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


@pytest.mark.parametrize(
    "others",
    [
        {"notes.txt": b"mine"},
        {"notes.txt": b"mine", "train-00000-of-00001.arrow": b"old"},
        {".hidden": b"mine"},
        {"penguins.arrow": b"somebody's data"},
        {"data/train-00000-of-00001.arrow": b"somebody's data"},
    ],
    ids=lambda others: "+".join(others),
)
def test_a_folder_with_other_things_is_not_touched(corpus: Corpus, tmp_path: Path, others: dict[str, bytes]) -> None:
    for name, content in others.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TelMEError, match="is not a store; name a new or empty folder"):
        prepare(corpus, tmp_path)
    assert files(tmp_path) == others


def test_a_file_is_not_a_folder(corpus: Corpus, tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(TelMEError, match="is not a store"):
        prepare(corpus, file)
    with pytest.raises(TelMEError, match="no finished store here"):
        Store(file)
    assert file.read_text(encoding="utf-8") == "mine"


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(TelMEError, match=f"telme prepare meld ROOT --out {tmp_path / 'none'}"):
        Store(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_split_lists_the_splits(store: Store) -> None:
    with pytest.raises(TelMEError, match="no split 'validation'; this store has train, dev, test"):
        store.rows("validation")


def test_the_manifest_tells_what_the_store_holds(store: Store, corpus: Corpus) -> None:
    manifest = json.loads((store.path / MANIFEST).read_bytes())
    assert (manifest["corpus"], manifest["label_set"], manifest["version"]) == ("moods", "mood", 1)
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
