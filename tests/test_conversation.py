"""The vocabulary refuses what nobody could read an emotion from, never changes, and says what would have been valid."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telme.conversation import IEMOCAP, MAX_CHARACTERS, MELD, Conversation, LabelSet, Utterance
from telme.errors import TelMEError

HELLO = Utterance("Ann", "hello", start=1.0, end=2.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speaker": " "}, "speaker is ' '"),
        ({"text": ""}, "no media"),
        ({"text": "\n\t "}, "no media"),
        ({"text": "x" * (MAX_CHARACTERS + 1)}, "10,001 characters"),
        ({"start": -0.1}, "start is -0.1"),
        ({"start": math.nan}, "start is nan"),
        ({"end": math.inf}, "end is inf"),
        ({"end": 0.9}, "end (0.9 s) is before start (1.0 s)"),
    ],
)
def test_an_impossible_utterance_is_refused(change: dict[str, str | float], message: str) -> None:
    with pytest.raises(TelMEError) as caught:
        replace(HELLO, **change)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_limits_themselves_are_valid() -> None:
    assert len(Utterance("Ann", "x" * MAX_CHARACTERS).text) == MAX_CHARACTERS
    assert Utterance("Ann", "", media="ann.wav").text == ""
    assert Utterance("Ann", "hello", start=0.0, end=0.0).seconds == 0


@pytest.mark.parametrize(("start", "end", "seconds"), [(1, 2.5, 1.5), (None, 2.5, None), (1, None, None)])
def test_seconds_need_both_times(start: float | None, end: float | None, seconds: float | None) -> None:
    assert Utterance("Ann", "hello", start=start, end=end).seconds == seconds


def test_a_conversation_is_its_utterances_in_order() -> None:
    turns = [HELLO, Utterance("Bob", "hi")]
    conversation = Conversation("greeting", turns)  # type: ignore[arg-type]
    turns.clear()
    assert tuple(conversation) == conversation.utterances == (HELLO, Utterance("Bob", "hi"))
    assert len(conversation) == 2


def test_a_conversation_needs_an_utterance() -> None:
    with pytest.raises(TelMEError, match="'silence' has no utterances"):
        Conversation("silence", ())


@pytest.mark.parametrize(
    ("value", "field"), [(HELLO, "text"), (Conversation("greeting", (HELLO,)), "utterances"), (MELD, "labels")]
)
def test_nothing_can_be_changed_and_equal_values_are_one(value: object, field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(value, field, "other")
    assert {value, replace(value)} == {value}  # type: ignore[type-var]


class TestFromFile:
    def write(self, path: Path, *conversations: str) -> str:
        documents = [
            {"id": name, "media": "own.mp4", "utterances": [{"speaker": "Ann", "text": name}]} for name in conversations
        ]
        path.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
        return str(path)

    def test_the_one_conversation(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "one.jsonl", "first")
        media = str(tmp_path / "own.mp4")
        assert Conversation.from_file(file) == Conversation("first", (Utterance("Ann", "first"),), media=media)

    def test_a_recording_that_is_named_replaces_the_files_own(self, tmp_path: Path) -> None:
        assert Conversation.from_file(self.write(tmp_path / "one.jsonl", "first"), media="b.mp4").media == "b.mp4"

    def test_several_are_refused_with_the_way_to_read_them(self, tmp_path: Path) -> None:
        with pytest.raises(TelMEError, match=r"two\.jsonl: 2 conversations; .*telme\.transcripts\.read"):
            Conversation.from_file(self.write(tmp_path / "two.jsonl", "first", "second"))


@pytest.mark.parametrize("labels", [(), ("joy",), ("joy", "joy"), ("joy", " ")])
def test_labels_are_two_or_more_different_names(labels: tuple[str, ...]) -> None:
    with pytest.raises(TelMEError, match="at least two different"):
        LabelSet("mine", labels)


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, unique=True))
def test_index_is_the_place_among_the_labels(labels: list[str]) -> None:
    label_set = LabelSet("mine", tuple(labels))
    assert [label_set.index(label) for label in label_set] == list(range(len(label_set)))


@pytest.mark.parametrize(
    ("labels", "typed", "meant"),
    [
        (MELD, "angre", "anger"),
        (MELD, "Joy", "joy"),
        (IEMOCAP, "frustration", "frustrated"),
        (LabelSet("loud", ("HAPPY", "SAD")), "happy", "HAPPY"),
    ],
)
def test_a_near_miss_gets_a_hint(labels: LabelSet, typed: str, meant: str) -> None:
    with pytest.raises(TelMEError) as caught:
        labels.index(typed)
    assert str(caught.value).startswith(f"unknown label {typed!r} (did you mean {meant!r}?)")


def test_a_far_miss_gets_the_list_alone() -> None:
    with pytest.raises(TelMEError) as caught:
        LabelSet("mood", ("calm", "cross")).index("xyz")
    assert str(caught.value) == "unknown label 'xyz'; the mood labels are calm, cross"


def test_the_label_sets_of_the_paper() -> None:
    assert set(MELD) == {"anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"}
    assert set(IEMOCAP) == {"happy", "sad", "neutral", "angry", "excited", "frustrated"}
    assert (len(MELD), len(IEMOCAP)) == (7, 6)
