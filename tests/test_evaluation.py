"""An evaluation is what the recogniser says of the same conversations, scored, with each subset of the modalities."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LABELS

import telme.evaluation
import telme.metrics
from telme.conversation import Conversation, LabelSet
from telme.corpora import Corpus, read_corpus
from telme.errors import TelMEError
from telme.evaluation import annotated, evaluate
from telme.metrics import weighted_f1
from telme.prepare import prepare
from telme.recognizer import Recognizer
from telme.run import Run
from telme.store import Store

SUBSETS = ["text", "audio", "visual", "text+audio", "text+visual", "audio+visual", "text+audio+visual"]


@pytest.fixture(scope="module")
def recognizer(media_run: Run) -> Recognizer:
    return Recognizer.from_pretrained(media_run.model)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray[Any, Any]]:
    """The probabilities that were scored, subset by subset; those of the whole model come last."""
    seen: list[np.ndarray[Any, Any]] = []

    def recorded(probabilities: np.ndarray[Any, Any], *rest: Any) -> Any:
        seen.append(probabilities)
        return telme.metrics.score(probabilities, *rest)

    monkeypatch.setattr(telme.evaluation, "score", recorded)
    return seen


def without_missing(conversation: Conversation) -> Conversation:
    """As the store reads it: a clip that is not there is no clip."""
    turns = (
        replace(turn, media=None) if turn.media and not Path(turn.media).exists() else turn for turn in conversation
    )
    return replace(conversation, utterances=tuple(turns))


def said(recognizer: Recognizer, conversations: list[Conversation]) -> np.ndarray[Any, Any]:
    predictions = recognizer(conversations)
    return np.array([list(p.probabilities.values()) for of_one in predictions for p in of_one])


class TestAnnotated:
    def test_rows_labels_and_conversations(self, media_store: Store) -> None:
        data = annotated(media_store, "test", LABELS)
        turns = [(c.id, turn) for c in media_store.conversations("test") for turn in c]
        assert data.rows.tolist() == list(range(len(turns)))
        assert [LABELS.labels[label] for label in data.labels] == [turn.label for _, turn in turns]
        assert data.conversations == [conversation for conversation, _ in turns]
        assert data.conversation.tolist() == [int(name[-1]) for name in data.conversations]

    def test_unlabelled_utterances_keep_their_rows(self, corpus: Corpus, tmp_path: Path) -> None:
        def unlabelled(conversation: Conversation) -> Conversation:
            first, *others = conversation
            return replace(conversation, utterances=(replace(first, label=None), *others))

        splits = {"test": tuple(map(unlabelled, corpus.splits["test"]))}
        data = annotated(prepare(replace(corpus, splits=splits), tmp_path / "store"), "test", LABELS)
        labels = [turn.label for conversation in splits["test"] for turn in conversation]
        assert data.rows.tolist() == [row for row, label in enumerate(labels) if label]
        assert len(data.conversation) == len(labels)

    def test_what_cannot_be_scored_is_refused(self, corpus: Corpus, media_store: Store, tmp_path: Path) -> None:
        with pytest.raises(TelMEError, match="unknown label 'glad'"):
            annotated(media_store, "test", LabelSet("few", ("calm", "cross")))
        with pytest.raises(TelMEError, match="no split 'valid'"):
            annotated(media_store, "valid", LABELS)
        nobody = tuple(
            replace(conversation, utterances=tuple(replace(turn, label=None) for turn in conversation))
            for conversation in corpus.splits["test"]
        )
        store = prepare(replace(corpus, splits={"test": nobody}), tmp_path / "store")
        with pytest.raises(TelMEError, match="no utterance of 'test' has a label"):
            annotated(store, "test", LABELS)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_from_the_store_as_from_the_media(
    recognizer: Recognizer, media_store: Store, scored: list[np.ndarray[Any, Any]], split: str
) -> None:
    evaluate(recognizer.model, recognizer.prompter, media_store, split, name="media")
    conversations = list(map(without_missing, media_store.conversations(split)))
    np.testing.assert_allclose(scored[-1], said(recognizer, conversations), rtol=0, atol=1e-6)


def test_each_subset_is_what_is_left_without_the_others(
    recognizer: Recognizer, media_store: Store, scored: list[np.ndarray[Any, Any]]
) -> None:
    results = evaluate(recognizer.model, recognizer.prompter, media_store, "test", name="media")
    assert list(results.subsets) == SUBSETS
    labels, clips = annotated(media_store, "test", LABELS).labels, media_store.clips("test")
    has = {
        "text": np.full(len(clips), True),
        "audio": np.array(clips.samples) > 0,
        "visual": np.array(clips.has_frames),
    }
    for (name, subset), probabilities in zip(results.subsets.items(), scored, strict=True):
        there = np.any([has[modality] for modality in name.split("+")], axis=0)
        assert subset.utterances == len(probabilities) == there.sum()
        assert subset.weighted_f1 == pytest.approx(weighted_f1(labels[there], probabilities.argmax(axis=1)))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    silent = [
        replace(c, utterances=tuple(replace(turn, media=None) for turn in c)) for c in media_store.conversations("test")
    ]
    np.testing.assert_allclose(scored[0], said(recognizer, silent), rtol=0, atol=1e-6)


def test_a_subset_that_no_utterance_has_is_left_out(
    recognizer: Recognizer, media_corpus: Corpus, tmp_path: Path
) -> None:
    heard = {
        name: source
        for name, source in media_corpus.sources.items()
        if name.startswith("test") and source.file.endswith(("/4.mp4", "/10.mp4"))  # which have no face
    }
    corpus = replace(media_corpus, splits={"test": media_corpus.splits["test"]}, sources=heard)
    store = prepare(corpus, tmp_path / "store", workers=1)
    results = evaluate(recognizer.model, recognizer.prompter, store, "test", name="media")
    assert list(results.subsets) == [name for name in SUBSETS if name != "visual"]
    assert results.subsets["audio"].utterances == 2
    assert results.to_dict()["weighted_f1"] == results.subsets["text+audio+visual"].weighted_f1


@pytest.mark.skipif("TELME_MELD" not in os.environ, reason="needs MELD in TELME_MELD")
def test_meld_from_the_store_as_by_the_recogniser(tmp_path: Path, scored: list[np.ndarray[Any, Any]]) -> None:
    corpus = read_corpus("meld", os.environ["TELME_MELD"])
    some = {"dev": corpus.splits["dev"][:6]}
    store = prepare(replace(corpus, splits=some, sources={}), tmp_path / "store")
    mini = Recognizer.from_pretrained("mini")
    evaluate(mini.model, mini.prompter, store, "dev", name="mini")
    one_by_one = np.concatenate([said(mini, [conversation]) for conversation in store.conversations("dev")])
    np.testing.assert_allclose(scored[-1], one_by_one, rtol=0, atol=1e-5)
