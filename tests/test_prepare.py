"""`prepare`: every clip is decoded once, and whatever happens, the bytes are those of an undisturbed store."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from recordings import record
from traps import end_at_once, work_on_traps

import telme.decoding
import telme.prepare
from telme.conversation import Conversation, LabelSet, Utterance
from telme.corpora import Corpus
from telme.errors import TelMEError
from telme.media import Problem, Source
from telme.prepare import MEANINGS, find_prepared, prepare, problems_table
from telme.store import MANIFEST, PLAN, Store

LABELS = LabelSet("mood", ("calm", "glad", "cross"))
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
    """A finished store that a test may replace."""
    prepare(corpus, tmp_path / "own")
    return tmp_path / "own"


@pytest.mark.parametrize("rows_per_shard", [1, 3, 100_000])
def test_gaps_missing_times_and_odd_characters_come_back(
    odd: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_shard: int
) -> None:
    monkeypatch.setattr(telme.prepare, "ROWS_PER_SHARD", rows_per_shard)
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
    ids=["name", "labels", "splits", "order", "less"],
)
def test_other_content_has_another_fingerprint(odd: Corpus, tmp_path: Path, change: Callable[[Corpus], Corpus]) -> None:
    one, other = prepare(odd, tmp_path / "one"), prepare(change(odd), tmp_path / "other")
    assert one.fingerprint != other.fingerprint
    assert one.name != other.name


def test_another_corpus_replaces_the_store(odd: Corpus, own_store: Path, tmp_path: Path) -> None:
    Store(own_store).annotate("teacher", "dev", lambda rows: {"shift": np.zeros(len(rows))})
    prepare(odd, own_store)
    prepare(odd, tmp_path / "fresh")
    assert files(own_store) == files(tmp_path / "fresh")


@pytest.mark.parametrize("interrupted_in", ["_decode", "write_json"])
def test_an_interrupted_store_is_refused_and_can_be_prepared_again(
    odd: Corpus, own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted_in: str
) -> None:

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(telme.prepare, interrupted_in, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(odd, own_store)
    with pytest.raises(TelMEError, match="preparing it was interrupted; the same telme prepare goes on"):
        Store(own_store)
    prepare(odd, own_store)
    prepare(odd, tmp_path / "fresh")
    assert files(own_store) == files(tmp_path / "fresh")


@pytest.mark.parametrize(
    "others",
    [
        {"notes.txt": b"mine"},
        {"notes.txt": b"mine", "train-00000-of-00001.arrow": b"old"},
        {".hidden": b"mine"},
        {"penguins.arrow": b"somebody's data"},
        {"data/train-00000-of-00001.arrow": b"somebody's data"},
        {"columns/teacher/train-00000.arrow": b"somebody's data"},
    ],
    ids=lambda others: "+".join(others),
)
def test_a_folder_with_other_things_is_not_touched(corpus: Corpus, tmp_path: Path, others: dict[str, bytes]) -> None:
    for name, content in others.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
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


def clips_corpus(root: Path, sources: Sequence[Source | None]) -> Corpus:
    """A corpus of one conversation, the n-th utterance of which has the n-th source."""
    turns = tuple(Utterance("Ann", f"turn {turn}", id=f"train/dia0_utt{turn}") for turn in range(len(sources)))
    return Corpus(
        name="clips",
        root=str(root),
        labels=LABELS,
        splits={"train": (Conversation("train/dia0", turns),)},
        sizes={},
        recordings={},
        clips={},
        repairs=(),
        sources={str(turn.id): source for turn, source in zip(turns, sources, strict=True) if source},
    )


def same(one: NDArray[Any] | None, other: NDArray[Any] | None) -> bool:
    """Whether both are arrays and equal."""
    return one is not None and other is not None and np.array_equal(one, other)


def garble(file: str) -> None:
    """Makes nonsense of a file, of the same size: whoever decodes it again gives himself away."""
    path = Path(file)
    path.write_bytes(b"\x55" * path.stat().st_size)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of sound and pictures."""
    return record(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=0.5, size=(96, 64), frame_rate=16)


@pytest.fixture
def clips(clip: Path, tmp_path: Path) -> Corpus:
    """Twelve clips, one of them missing, with an utterance without media among them."""
    root = tmp_path / "clips"
    root.mkdir()
    sources: list[Source | None] = []
    for number in range(11):
        shutil.copy(clip, root / f"{number}.mp4")
        sources.append(Source(file=str(root / f"{number}.mp4"), end=0.3 + number / 100))
    return clips_corpus(root, [*sources[:4], None, *sources[4:], Source(file=str(root / "missing.mp4"))])


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clips a shard."""
    monkeypatch.setattr(telme.prepare, "CLIPS_PER_SHARD", 4)


def test_every_bad_clip_is_a_status(clip: Path, tmp_path: Path) -> None:
    def write(name: str, content: bytes) -> Source:
        (tmp_path / name).write_bytes(content)
        return Source(file=str(tmp_path / name))

    def made(name: str, **kind: object) -> Source:
        return Source(file=str(record(tmp_path / name, size=(96, 64), frame_rate=16, **kind)))  # type: ignore[arg-type]

    sources = {
        "ok": Source(file=str(clip)),
        "no-media": None,
        "missing": Source(file=str(tmp_path / "missing.mp4")),
        "unreadable": write("stub.mp4", b"\x00\x05\x16\x07" + bytes(200)),
        "empty-span": Source(file=str(clip), start=7.0, end=8.0),
        "padded": Source(file=str(clip), end=0.1),
        "no-audio": made("silent.mp4", seconds=0.5, tone=None),
        "no-video": made("blind.mp4", seconds=0.5, colours=None),
        "cut": made("long.wav", seconds=26.0, colours=None, audio_codec="pcm_s16le", audio_rate=8000, layout="mono"),
    }
    whole = record(tmp_path / "whole.mkv", seconds=3.0, size=(96, 64), frame_rate=16).read_bytes()
    sources["truncated"] = write("torn.mkv", whole[: len(whole) * 2 // 3])
    store = prepare(clips_corpus(tmp_path, list(sources.values())), tmp_path / "store", workers=2)
    statuses = list(store.rows("train")["status"])
    assert all(problem in status for problem, status in zip(sources, statuses, strict=True)), f"{statuses}"
    assert store.problems().keys() >= set(Problem)
    table = problems_table(store.problems())
    assert table.row_count == len(store.problems())
    assert set(MEANINGS) == set(Problem)


@pytest.mark.usefixtures("small_shards")
def test_the_bytes_do_not_depend_on_the_processes(
    clips: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(clips, tmp_path / "three", workers=3)
    monkeypatch.setattr(telme.decoding, "CLIPS_PER_PROCESS", 8)  # one after the other
    prepare(clips, tmp_path / "one", workers=1)
    assert files(tmp_path / "one") == files(tmp_path / "three")
    assert len(list((tmp_path / "one").glob("*.arrow"))) == 4
    assert "unfinished" not in "".join(files(tmp_path / "one"))


def test_killed_it_decodes_nothing_twice(clip: Path, tmp_path: Path) -> None:
    root = tmp_path / "clips"
    root.mkdir()
    sources = [Source(file=str(shutil.copy(clip, root / f"{number}.mp4"))) for number in range(80)]
    corpus = clips_corpus(root, sources)
    (tmp_path / "corpus").write_bytes(pickle.dumps(corpus))
    prepare(corpus, tmp_path / "undisturbed", workers=2)

    script = (
        "import pickle, pathlib; from telme.prepare import prepare; "
        f"prepare(pickle.loads(pathlib.Path({str(tmp_path / 'corpus')!r}).read_bytes()), 'killed', workers=2)"
    )
    garbled: set[int] = set()
    for _ in range(2):
        before = len(garbled)
        with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE) as process:
            while process.poll() is None and len(garbled) < before + 15:
                time.sleep(0.01)
                garbled |= rows_there(tmp_path / "killed")
            process.kill()
        garbled |= rows_there(tmp_path / "killed")
        assert before < len(garbled) < len(sources), process.returncode
        for number in garbled:
            garble(sources[number].file)
    prepare(corpus, tmp_path / "killed", workers=2)
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")


def rows_there(folder: Path) -> set[int]:
    """Rows that whole record batches of unfinished shards hold, or finished ones."""
    rows: set[int] = set()
    for file in folder.glob("train-*.arrow*"):
        try:
            with pa.memory_map(str(file)) as source:
                for batch in pa.ipc.open_stream(source):
                    rows |= {int(name.rpartition("utt")[2]) for name in batch["id"].to_pylist()}
        except (pa.ArrowInvalid, OSError):
            continue
    return rows


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_torn_shard_is_gone_on_with(clips: Corpus, tmp_path: Path, share: float) -> None:
    prepare(clips, tmp_path / "whole", workers=1)
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    (tmp_path / "torn" / MANIFEST).unlink()
    (shard,) = (tmp_path / "torn").glob("*.arrow")
    torn = shard.rename(f"{shard}.unfinished")
    os.truncate(torn, int(share * torn.stat().st_size))
    for row in rows_there(tmp_path / "torn"):
        if (source := clips.sources.get(f"train/dia0_utt{row}")) and Path(source.file).exists():
            garble(source.file)
    prepare(clips, tmp_path / "torn", workers=1)
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


@pytest.mark.usefixtures("small_shards")
def test_a_finished_store_is_left_alone(clips: Corpus, tmp_path: Path) -> None:
    assert find_prepared(clips, tmp_path / "store") is None
    store = prepare(clips, tmp_path / "store", workers=1)
    store.annotate("teacher", "train", lambda rows: {"shift": np.zeros(len(rows))})
    before = {file: file.stat().st_mtime_ns for file in store.path.rglob("*")}
    assert find_prepared(clips, store.path) is not None
    assert prepare(clips, store.path).fingerprint == store.fingerprint
    assert {file: file.stat().st_mtime_ns for file in store.path.rglob("*")} == before


@pytest.mark.usefixtures("small_shards")
def test_only_a_damaged_shard_is_decoded_again(clips: Corpus, tmp_path: Path) -> None:
    store = prepare(clips, tmp_path / "store", workers=1)
    whole = files(store.path)
    shard = store.path / "train-00001-of-00004.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(TelMEError, match=r"train-00001-of-00004\.arrow: this shard is damaged"):
        Store(store.path)
    for row in (*range(4), *range(8, 12)):
        garble(clips.sources[f"train/dia0_utt{row}"].file)
    prepare(clips, store.path, workers=1)
    assert files(store.path) == whole


def test_a_corpus_may_move(clips: Corpus, tmp_path: Path) -> None:
    store = prepare(clips, tmp_path / "store", workers=1)
    moved = Path(shutil.move(clips.root, tmp_path / "moved"))
    sources = {}
    for name, source in clips.sources.items():
        sources[name] = replace(source, file=str(moved / Path(source.file).name))
        if Path(sources[name].file).exists():
            garble(sources[name].file)
    again = prepare(replace(clips, root=str(moved), sources=sources), store.path)
    assert again.fingerprint == store.fingerprint
    assert again.conversations("train")[0].utterances[2].media == str(moved / "2.mp4")


@pytest.mark.parametrize("change", ["clip", "decoder"])
def test_another_clip_or_decoder_replaces_the_store(
    clips: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    old = prepare(clips, tmp_path / "store", workers=1)
    old.annotate("teacher", "train", lambda rows: {"shift": np.zeros(len(rows))})
    if change == "clip":
        record(clips.sources["train/dia0_utt3"].file, seconds=0.4, colours=["green"], size=(96, 64), frame_rate=16)
    else:
        monkeypatch.setattr("telme.media.DECODER", {"backend": "another"})
    new = prepare(clips, tmp_path / "store", workers=1)
    assert new.fingerprint != old.fingerprint
    assert new.columns("teacher", "train") is None
    assert prepare(clips, tmp_path / "fresh", workers=1).fingerprint == new.fingerprint


def test_a_crash_a_hang_or_a_bug_costs_one_clip(clips: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(telme.decoding, "_work", work_on_traps)
        patch.setattr(telme.decoding, "SECONDS_PER_CLIP", 1.0)
        store = prepare(clips, tmp_path / "trapped", workers=1)
    problems = store.problems()
    assert problems["unreadable"] == [f"train/dia0_utt{row}" for row in (3, 8, 10)]  # of 3, 7 and 9.mp4
    assert problems["missing"] == ["train/dia0_utt12"]
    assert (Path(clips.root) / "tried").exists()
    sound = prepare(clips, tmp_path / "sound", workers=1)
    assert same(store.clips("train").waveform(6), sound.clips("train").waveform(6))


def test_processes_that_cannot_begin_are_no_bad_clips(
    clips: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telme.decoding, "_work", end_at_once)
    with pytest.raises(TelMEError, match="ended as it began, with exit code 0"):
        prepare(clips, tmp_path / "store", workers=2)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_two_processes_do_not_write_the_same_store(odd: Corpus, tmp_path: Path) -> None:
    import fcntl

    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(TelMEError, match="another process is preparing a store here"):
        prepare(odd, tmp_path)
    assert files(tmp_path) == {}
    os.close(other)
    prepare(odd, tmp_path)


def test_without_media_there_are_no_processes(odd: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    assert prepare(odd, tmp_path / "store").manifest.decoder == {}
    assert (tmp_path / "store" / PLAN).is_file()


def test_decoding_processes_are_light() -> None:
    script = "import sys, telme.decoding; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "pyarrow", "datasets", "pydantic"}.isdisjoint(loaded)
