from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telme.cli import Check, parse
from telme.conversation import Conversation, Utterance
from telme.corpora import READERS, Corpus, read_corpus
from telme.errors import TelMEError
from telme.media import Source
from telme.transcripts import to_json


def said(text: str = "No!", label: str | None = "cross", **fields: Any) -> dict[str, Any]:
    return {"speaker": "Ann", "text": text, **({} if label is None else {"label": label}), **fields}


def standup(*utterances: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "standup", "utterances": utterances or (said(), said(label="calm")), **fields}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def sources(folder: Path, *utterances: dict[str, Any], **fields: Any) -> tuple[Corpus, list[Source | None]]:
    """The corpus of one conversation, and where its utterances are."""
    corpus = read_corpus("manifest", write(folder, {"labels": ["calm", "cross"]}, standup(*utterances, **fields)))
    return corpus, [corpus.sources.get(str(utterance.id)) for utterance in corpus.utterances]


def test_a_conversation_without_a_split_is_evaluated(tmp_path: Path) -> None:
    corpus = read_corpus("manifest", write(tmp_path, standup(), "", {**standup(), "id": "retro"}))
    assert {split: [c.id for c in members] for split, members in corpus.splits.items()} == {
        "test": ["test/standup", "test/retro"]
    }
    assert [u.id for u in corpus.splits["test"][0]] == ["test/standup_utt0", "test/standup_utt1"]
    assert (corpus.labels.labels, corpus.sizes, corpus.clips, corpus.sources) == (("calm", "cross"), {}, {}, {})


def test_splits_are_as_written_and_in_their_usual_order(tmp_path: Path) -> None:
    write(tmp_path, *(standup(id=name, split=name) for name in ("test", "dev", "train")))
    corpus = read_corpus("manifest", tmp_path)  # the folder will do
    assert [(split, members[0].id) for split, members in corpus.splits.items()] == [
        ("train", "train/train"),
        ("dev", "dev/dev"),
        ("test", "test/test"),
    ]


def test_a_header_gives_the_labels_and_their_order(tmp_path: Path) -> None:
    corpus = read_corpus("manifest", write(tmp_path, {"labels": ["glad", "cross", "calm"]}, standup(said(label=None))))
    assert corpus.labels.labels == ("glad", "cross", "calm")
    assert next(corpus.utterances).label is None


def test_own_ids_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path, standup(said(id="u7"), said(id="test/u8"), said(label="calm"), id="test/standup"))
    corpus = read_corpus("manifest", path)
    assert [c.id for c in corpus.conversations] == ["test/standup"]
    assert [u.id for u in corpus.utterances] == ["test/u7", "test/u8", "test/standup_utt2"]


def test_times_are_spans_of_the_conversations_recording(tmp_path: Path) -> None:
    corpus, found = sources(tmp_path, said(start=1, end=2.5), said(), said(start=3), media="av/standup.mp4")
    file = str(tmp_path / "av" / "standup.mp4")
    assert found == [Source(file=file, start=1, end=2.5), None, None]
    assert corpus.clips == {"test": str(tmp_path)}
    assert corpus.span(next(corpus.utterances)) == ("av/standup.mp4", 1, 2.5)
    assert [(f.check, f.utterance) for f in corpus.repairs] == [
        ("untimed-turn", "test/standup_utt1"),
        ("untimed-turn", "test/standup_utt2"),
    ]


def test_an_utterances_own_media_is_its_clip(tmp_path: Path) -> None:
    _, found = sources(tmp_path, said(media="a.mp4"), said(media="b.mp4", start=60, end=61), said())
    assert found == [Source(file=str(tmp_path / "a.mp4")), Source(file=str(tmp_path / "b.mp4")), None]


@pytest.mark.parametrize("media", [None, "standup.mp4"])
def test_times_beside_a_clip_are_those_of_the_conversation(tmp_path: Path, media: str | None) -> None:
    fields = {} if media is None else {"media": media}
    corpus, _ = sources(tmp_path, said(media="a.mp4", start=0, end=2), said(media="b.mp4", start=1, end=3), **fields)
    assert set(corpus.recordings.values()) == {media or "test/standup"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([standup(), {**standup(), "mood": 1}], ":2: unknown key 'mood'; valid keys here are id, media, split, utt"),
        ([standup(split="valid")], ":1: split is 'valid'; input should be 'train', 'dev' or 'test'"),
        ([{"labels": ["calm", "cross"], "name": "x"}, standup()], ":1: unknown key 'name'; valid keys here are labels"),
        ([{"labels": ["calm"]}, standup()], ": labels ['calm']; a label set needs at least two"),
        (["", {"labels": ["calm", "glad"]}, standup()], ":3: unknown label 'cross'"),
        ([standup(said())], ": labels ['cross']; a label set needs at least two"),
        ([standup(split="train"), standup()], ":2: split is missing though others have one; valid are train, dev"),
        ([standup(), "", standup()], ":3: conversation test/standup is on line 1 too; ids are unique within a split"),
        ([standup(said(id="u1"), said(id="u1", label="calm"))], ":1: utterance test/u1 is on line 1 too"),
        ([standup(), {"id": "retro", "utterances": []}], ":2: conversation 'test/retro' has no utterances"),
        ([standup(said(speaker=" "))], ":1: utterances[0]: speaker is ' '"),
        ([standup(said(start="1"))], ":1: utterances[0].start is '1'; input should be a valid number"),
        (["{"], ":1: not valid JSON"),
        ([], " holds no conversation"),
        ([{"labels": ["calm", "cross"]}], " holds no conversation"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, lines: Sequence[Any], message: str) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(TelMEError) as caught:
        read_corpus("manifest", path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_manifest_is_told_its_name(tmp_path: Path) -> None:
    with pytest.raises(TelMEError, match=r"manifest.jsonl cannot be read: No such file or directory"):
        read_corpus("manifest", tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_the_command_line_knows_every_corpus(name: str) -> None:
    command = parse(["check", name, "."])
    assert isinstance(command, Check)
    assert command.corpus == name


words = st.text(min_size=1).filter(str.strip)


@given(st.lists(st.lists(st.tuples(words, words), min_size=1, max_size=3), min_size=1, max_size=3))
def test_what_transcripts_write_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, dialogues: list[list[tuple[str, str]]]
) -> None:
    conversations = [
        Conversation(
            f"test/{number}",
            tuple(
                Utterance(speaker, text, label="calm", id=f"test/{number}_utt{turn}")
                for turn, (speaker, text) in enumerate(turns)
            ),
        )
        for number, turns in enumerate(dialogues)
    ]
    path = write(tmp_path_factory.mktemp("manifest"), {"labels": ["calm", "cross"]}, *map(to_json, conversations))
    assert list(read_corpus("manifest", path).conversations) == conversations
