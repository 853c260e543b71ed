"""A prediction depends on its conversation's past and on nothing else, however it is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, LINES, SPEAKERS
from hypothesis import given, settings
from hypothesis import strategies as st

import telme
from telme.conversation import Conversation, Utterance
from telme.errors import TelMEError
from telme.prediction import Prediction
from telme.recognizer import BUNDLED, Recognizer, find_model
from telme.run import Run

# Rounding in float32 differs with the shape of a batch, by far less than this.
TOLERANCE = 1e-5

utterances = st.builds(
    Utterance, st.sampled_from(SPEAKERS), st.sampled_from([line for lines in LINES.values() for line in lines])
)
# Up to 14 turns of some 5 tokens: well beyond the 48 tokens that the model reads.
conversations = st.builds(Conversation, st.just("made up"), st.lists(utterances, min_size=1, max_size=14).map(tuple))
examples = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def recognizer(run: Run) -> Recognizer:
    return Recognizer.from_pretrained(run.model)


def long_conversation(turns: int = 30) -> Conversation:
    lines = [line for lines in LINES.values() for line in lines]
    return Conversation("long", tuple(Utterance(SPEAKERS[turn % 3], lines[turn % 12]) for turn in range(turns)))


def assert_same(actual: list[Prediction], expected: list[Prediction]) -> None:
    assert [prediction.utterance for prediction in actual] == [prediction.utterance for prediction in expected]
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.probabilities == pytest.approx(theirs.probabilities, abs=TOLERANCE)


class TestWellDefined:
    @examples
    @given(together=st.lists(conversations, min_size=1, max_size=5), data=st.data())
    def test_whatever_is_read_in_the_same_call(
        self, recognizer: Recognizer, together: list[Conversation], data: Any
    ) -> None:
        order = data.draw(st.permutations(range(len(together))))
        results = recognizer([together[number] for number in order])
        for number, result in zip(order, results, strict=True):
            assert_same(result, recognizer(together[number]))

    @examples
    @given(conversation=conversations, data=st.data())
    def test_whatever_follows(self, recognizer: Recognizer, conversation: Conversation, data: Any) -> None:
        turns = data.draw(st.integers(1, len(conversation)))
        past = Conversation("cut", conversation.utterances[:turns])
        assert_same(recognizer(past), recognizer(conversation)[:turns])

    @examples
    @given(conversation=conversations)
    def test_whether_live_or_whole(self, recognizer: Recognizer, conversation: Conversation) -> None:
        session = recognizer.session()
        assert_same([session.add(utterance) for utterance in conversation], recognizer(conversation))

    def test_in_sessions_side_by_side_and_beyond_the_length_limit(self, recognizer: Recognizer) -> None:
        first = long_conversation()
        second = Conversation("reversed", first.utterances[::-1])
        sessions = recognizer.session(), recognizer.session()
        pairs = [(sessions[0].add(a), sessions[1].add(b)) for a, b in zip(first, second, strict=True)]
        for conversation, predictions in zip((first, second), zip(*pairs, strict=True), strict=True):
            assert_same(list(predictions), recognizer(conversation))

    def test_yet_on_the_past(self, recognizer: Recognizer) -> None:
        last = Utterance("Ann", "we meet at noon")
        alone, after = (
            recognizer(Conversation("some", (*past, last)))[-1] for past in ((), (Utterance("Bob", "leave me alone"),))
        )
        assert alone.probabilities != pytest.approx(after.probabilities, abs=10 * TOLERANCE)

    def test_and_on_who_speaks(self, recognizer: Recognizer) -> None:
        first = Utterance("Bob", "leave me alone")
        same, other = (
            recognizer(Conversation("some", (first, Utterance(speaker, "we meet at noon"))))[-1]
            for speaker in ("Bob", "Ann")
        )
        assert same.probabilities != pytest.approx(other.probabilities, abs=10 * TOLERANCE)


class TestPrediction:
    def test_tells_how_it_came_about(self, recognizer: Recognizer) -> None:
        conversation = long_conversation(5)
        predictions = recognizer(conversation)
        assert [prediction.utterance for prediction in predictions] == list(conversation)
        for prediction in predictions:
            assert list(prediction.probabilities) == list(recognizer.labels) == list(LABELS)
            assert sum(prediction.probabilities.values()) == pytest.approx(1)
            assert prediction.confidence == max(prediction.probabilities.values())
            assert prediction.probabilities[prediction.label] == prediction.confidence
            assert prediction.text_only == prediction.probabilities
            assert prediction.modalities == ("text",)
            assert prediction.shift == 0

    def test_is_what_the_model_was_trained_to_say(self, recognizer: Recognizer) -> None:
        said = [(mood, line) for mood, lines in LINES.items() for line in lines]
        right = [recognizer(Conversation("one", (Utterance("Ann", line),)))[0].label == mood for mood, line in said]
        assert sum(right) > len(right) / 2

    def test_is_calibrated_by_the_models_temperature(self, run: Run) -> None:
        recognizer = Recognizer.from_pretrained(run.model)
        recognizer.model.config.temperature = 100.0
        warm = recognizer(long_conversation(5))
        recognizer.model.config.temperature = 0.01
        cold = recognizer(long_conversation(5))
        assert [prediction.label for prediction in warm] == [prediction.label for prediction in cold]
        assert max(prediction.confidence for prediction in warm) < 0.4
        assert min(prediction.confidence for prediction in cold) > 0.6


class TestWithoutText:
    silent = Utterance("Ann", " ", media="ann.wav")

    def test_is_refused_by_name(self, recognizer: Recognizer) -> None:
        with pytest.raises(TelMEError, match="'Ann' has no text; this model reads text only"):
            recognizer(Conversation("half", (Utterance("Bob", "it is a table"), self.silent)))

    def test_leaves_the_session_as_it_was(self, recognizer: Recognizer) -> None:
        conversation = long_conversation(4)
        session = recognizer.session()
        predictions = [session.add(utterance) for utterance in conversation.utterances[:2]]
        for speaker in ("Ann", "somebody new"):
            with pytest.raises(TelMEError):
                session.add(Utterance(speaker, "", media="silence.wav"))
        predictions += [session.add(utterance) for utterance in conversation.utterances[2:]]
        assert_same(predictions, recognizer(conversation))


def test_nothing_to_read_gives_nothing(recognizer: Recognizer) -> None:
    assert recognizer([]) == []


def test_the_public_names_are_these() -> None:
    assert telme.Recognizer is Recognizer
    assert telme.Prediction is Prediction


class TestFindModel:
    def test_a_folder(self, run: Run) -> None:
        assert find_model(run.model) == str(run.model)

    def test_the_bundled_one(self) -> None:
        assert find_model("mini") == str(BUNDLED / "mini")

    def test_a_hub_id(self) -> None:
        assert find_model("somebody/telme-meld") == "somebody/telme-meld"

    @pytest.mark.parametrize("name", ["mimi", "runs/no/model"])
    def test_neither(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(TelMEError, match=r"no model '.*'; .* a bundled model \(mini\)"):
            find_model(name)

    def test_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "notes.txt").write_text("hello", encoding="utf-8")
        with pytest.raises(TelMEError, match=r"no model 'runs/notes\.txt'.*mini"):
            find_model("runs/notes.txt")

    def test_a_run_instead_of_its_model(self, run: Run) -> None:
        with pytest.raises(TelMEError, match=r"without a config\.json; a run keeps its model in RUN/model"):
            find_model(run.path)


class TestWhatCannotBeLoaded:
    def refusal(self, folder: str | Path) -> str:
        with pytest.raises(TelMEError) as caught:
            Recognizer.from_pretrained(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
    def test_a_folder_that_lacks_a_file(self, missing: str, run: Run, tmp_path: Path) -> None:
        copy = shutil.copytree(run.model, tmp_path / "copy")
        (copy / missing).unlink()
        self.refusal(copy)

    @pytest.mark.parametrize("damaged", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_a_damaged_file(self, damaged: str, run: Run, tmp_path: Path) -> None:
        copy = shutil.copytree(run.model, tmp_path / "copy")
        (copy / damaged).write_bytes((copy / damaged).read_bytes()[:50])
        self.refusal(copy)

    @pytest.mark.parametrize("name", ["/nowhere", "../nowhere", "nowhere/"])
    def test_a_folder_that_is_not_there(self, name: str) -> None:
        self.refusal(name)

    def test_a_model_of_another_kind(self, backbone_folder: dict[str, str]) -> None:
        assert "bert" in self.refusal(backbone_folder["bert"])
