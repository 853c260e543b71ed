"""A prediction depends on its conversation's past and on nothing else, however it is asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LABELS, LINES, LOOKS, SPEAKERS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import record

import telme
import telme.recognizer
from telme.conversation import MODALITIES, Conversation, Modality, Utterance
from telme.errors import TelMEError
from telme.media import Clip, Recordings, Source
from telme.model import TelMEModel
from telme.prediction import Prediction
from telme.recognizer import BUNDLED, Recognizer, find_model
from telme.run import Run
from telme.sources import sources_of

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


TURNS = 6
KINDS: dict[str, tuple[Modality, ...]] = {  # of clips, with what can be read from them
    "calm": ("audio", "visual"),
    "cross": ("audio", "visual"),
    "unseen": ("audio",),
    "silent": ("visual",),
    "damaged": (),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip of each kind for each turn, `0-calm.mp4`; those of a kind are one file."""
    folder = tmp_path_factory.mktemp("kinds")
    for number, kind in enumerate(KINDS):
        tone, colour = LOOKS.get(kind, (990.0, "red"))
        record(
            folder / f"0-{kind}.mp4",
            seconds=0.3 + 0.15 * number,
            tone=None if kind == "silent" else tone,
            colours=None if kind == "unseen" else [colour, "green"],
            size=(64, 48),
            frame_rate=16,
        )
        for turn in range(1, TURNS):
            (folder / f"{turn}-{kind}.mp4").symlink_to(folder / f"0-{kind}.mp4")
    (folder / "0-damaged.mp4").write_bytes(b"not a clip at all")
    return folder


@pytest.fixture
def decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the examples to decode the same few files again and again."""
    decode, decoded = telme.recognizer._clip, dict[Path, Clip]()

    def remembered(recordings: Recordings, source: Source) -> Clip:
        file = Path(source.file).resolve()
        if file not in decoded:
            decoded[file] = decode(recordings, source)
        return decoded[file]

    monkeypatch.setattr(telme.recognizer, "_clip", remembered)


@pytest.fixture(scope="module", params=["utterance", "dialogue"])
def reader(request: pytest.FixtureRequest, media_run: Run) -> Recognizer:
    """Of all modalities; the fusion's weights are such that whatever it attends to shows."""
    recognizer = Recognizer.from_pretrained(media_run.model)
    weights, config = recognizer.model.state_dict(), recognizer.model.config
    config.fusion = {**(config.fusion or {}), "attend": request.param}
    model = TelMEModel(config)
    model.load_state_dict(weights)
    assert model.fusion is not None
    torch.manual_seed(0)
    for parameter in model.fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return Recognizer(model, recognizer.prompter)


@st.composite
def seen_and_heard(draw: st.DrawFn) -> Conversation:
    """A conversation whose turns have a text, a clip, or both; the folder of the clips is not known yet."""
    turns = []
    for turn in range(draw(st.integers(1, TURNS))):
        utterance = draw(utterances)
        kind = draw(st.sampled_from([None, *KINDS]))
        text = utterance.text if kind is None else draw(st.sampled_from([utterance.text, ""]))
        turns.append(replace(utterance, text=text, media=None if kind is None else f"{turn}-{kind}.mp4"))
    return Conversation("made up", tuple(turns))


def placed(conversation: Conversation, folder: Path) -> Conversation:
    turns = (turn if turn.media is None else replace(turn, media=str(folder / turn.media)) for turn in conversation)
    return replace(conversation, utterances=tuple(turns))


class TestWellDefinedWithVoiceAndFace:
    # Function-scoped fixtures here hold no state of an example.
    examples = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))

    @pytest.mark.usefixtures("decoded_once")
    @examples
    @given(together=st.lists(seen_and_heard(), min_size=1, max_size=4), size=st.integers(1, 32), data=st.data())
    def test_whatever_is_read_at_once_and_in_which_order(
        self, reader: Recognizer, clips: Path, together: list[Conversation], size: int, data: Any
    ) -> None:
        conversations = [placed(conversation, clips) for conversation in together]
        order = data.draw(st.permutations(range(len(together))))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(telme.recognizer, "CLIPS_AT_ONCE", size)
            results = reader([conversations[number] for number in order])
        for number, result in zip(order, results, strict=True):
            assert_same(result, reader(conversations[number]))

    @pytest.mark.usefixtures("decoded_once")
    @examples
    @given(conversation=seen_and_heard(), data=st.data())
    def test_whatever_follows(self, reader: Recognizer, clips: Path, conversation: Conversation, data: Any) -> None:
        whole = placed(conversation, clips)
        turns = data.draw(st.integers(1, len(whole)))
        past = Conversation("cut", whole.utterances[:turns])
        assert_same(reader(past), reader(whole)[:turns])

    @pytest.mark.usefixtures("decoded_once")
    @examples
    @given(conversation=seen_and_heard())
    def test_whether_live_or_whole(self, reader: Recognizer, clips: Path, conversation: Conversation) -> None:
        whole, session = placed(conversation, clips), reader.session()
        assert_same([session.add(utterance) for utterance in whole], reader(whole))

    @pytest.mark.usefixtures("decoded_once")
    @examples
    @given(conversation=seen_and_heard())
    def test_text_alone_is_exactly_the_teacher(
        self, reader: Recognizer, clips: Path, conversation: Conversation
    ) -> None:
        for prediction in reader(placed(conversation, clips)):
            if prediction.modalities == ("text",):
                assert prediction.probabilities == prediction.text_only
                assert prediction.shift == 0
            assert bool(prediction.text_only) == ("text" in prediction.modalities)

    def test_without_any_media_it_is_the_text_model(self, reader: Recognizer) -> None:
        conversation = long_conversation()
        alone = reader.model.text.encode(reader.prompter(conversation))
        expected = reader.model.probabilities(alone.logits, head="text").tolist()
        assert [list(prediction.probabilities.values()) for prediction in reader(conversation)] == expected

    @pytest.mark.usefixtures("decoded_once")
    def test_yet_on_the_past_of_a_dialogue_where_it_attends_to_it(self, reader: Recognizer, clips: Path) -> None:
        def conversation(kind: str) -> Conversation:
            first = Utterance("Bob", "we meet at noon", media=f"0-{kind}.mp4")
            return placed(Conversation("two", (first, Utterance("Ann", "I love it", media="1-calm.mp4"))), clips)

        calm, cross = (reader(conversation(kind))[1].probabilities for kind in ("calm", "cross"))
        attends = (reader.model.config.fusion or {})["attend"] == "dialogue"
        assert (calm != pytest.approx(cross, abs=10 * TOLERANCE)) == attends


SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(MODALITIES, size)]


@pytest.mark.usefixtures("decoded_once")
@pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
def test_every_subset_of_the_modalities_predicts(
    reader: Recognizer, clips: Path, modalities: tuple[Modality, ...]
) -> None:
    kinds = {("audio",): "unseen", ("visual",): "silent", ("audio", "visual"): "calm"}
    kind = kinds.get(tuple(modality for modality in modalities if modality != "text"))
    text = "I love it" if "text" in modalities else ""
    turns = tuple(Utterance("Ann", text, media=kind and str(clips / f"{turn}-{kind}.mp4")) for turn in range(3))
    for prediction in reader(Conversation("some", turns)):
        assert prediction.modalities == modalities
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert (prediction.shift > 0) == ("text" in modalities and len(modalities) > 1)
        assert prediction.shift <= reader.model.config.fusion["theta"] + TOLERANCE


class TestMedia:
    def test_what_is_wrong_with_a_clip_is_told(self, reader: Recognizer, clips: Path) -> None:
        turns = tuple(
            Utterance("Ann", "hello", media=str(clips / f"{turn}-{kind}.mp4")) for turn, kind in enumerate(KINDS)
        )
        predictions = reader(Conversation("some", turns))
        assert [prediction.modalities[1:] for prediction in predictions] == list(KINDS.values())
        assert [p.problems for p in predictions] == [(), (), ("no-video",), ("no-audio",), ("unreadable",)]
        assert predictions[4].to_dict()["problems"] == ["unreadable"]
        assert "problems" not in predictions[0].to_dict()

    def test_a_clip_that_cannot_be_read_leaves_what_was_said_before(self, reader: Recognizer, clips: Path) -> None:
        turns = (Utterance("Ann", "I love it"), Utterance("Bob", "", media=str(clips / "0-damaged.mp4")))
        assert reader(Conversation("two", turns))[1].modalities == ("text",)

    def test_a_missing_file_is_refused_by_name(self, reader: Recognizer) -> None:
        with pytest.raises(TelMEError, match=r"gone\.mp4: no such file; the conversation names it as its media"):
            reader(Conversation("one", (Utterance("Ann", "hello", media="gone.mp4"),)))

    def test_a_text_model_does_not_look_for_them(self, recognizer: Recognizer) -> None:
        with_media = Conversation("one", (Utterance("Ann", "I love it", media="gone.mp4"),))
        without = Conversation("one", (Utterance("Ann", "I love it"),))
        assert recognizer(with_media)[0].probabilities == recognizer(without)[0].probabilities


class TestSources:
    def of(self, *turns: Utterance, media: str | None = None) -> list[Source | None]:
        return sources_of(Conversation("some", turns, media=media))

    def test_clips_are_read_whole(self) -> None:
        turns = (Utterance("Ann", "a", media="a.mp4", start=60, end=62), Utterance("Bob", "b", media="b.mp4"))
        assert self.of(*turns) == [Source(file="a.mp4"), Source(file="b.mp4")]

    def test_later_utterances_change_nothing(self) -> None:
        turns = tuple(Utterance("Ann", "a", media="a.mp4", start=at, end=at + 1) for at in (0, 1))
        assert self.of(*turns) == [Source(file="a.mp4"), Source(file="a.mp4")]
        assert self.of(Utterance("Ann", "a"), media="all.mp4") == [None]

    def test_the_conversations_recording_is_cut_by_the_times_there_are(self) -> None:
        turns = (Utterance("Ann", "a", start=0.5, end=1), Utterance("Bob", "b"), Utterance("Cy", "c", media="c.mp4"))
        assert self.of(*turns, media="all.mp4") == [
            Source(file="all.mp4", start=0.5, end=1),
            None,
            Source(file="c.mp4"),
        ]

    def test_without_media_there_are_none(self) -> None:
        assert self.of(Utterance("Ann", "a", start=0, end=1), Utterance("Bob", "b")) == [None, None]


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
        recognizer.model.config.temperatures = {"text": 100.0}
        warm = recognizer(long_conversation(5))
        recognizer.model.config.temperatures = {"text": 0.01}
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
