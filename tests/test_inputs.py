"""What each encoder reads of a split: which rows have the modality, and the batches of those that do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SPEAKERS

from telme.conversation import Conversation, Modality, Utterance
from telme.corpora import Corpus
from telme.errors import TelMEError
from telme.inputs import read_inputs
from telme.prepare import prepare
from telme.recognizer import Recognizer
from telme.run import Run
from telme.store import Store


@pytest.fixture(scope="module")
def recognizer(media_run: Run) -> Recognizer:
    return Recognizer.from_pretrained(media_run.model)


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_voices_and_faces_are_those_of_the_store(media_store: Store, modality: Modality) -> None:
    inputs, clips = read_inputs(modality, media_store, "train"), media_store.clips("train")
    rows = inputs.present.nonzero()[0].tolist()
    assert 0 < len(rows) < len(clips) == len(inputs.present) == len(inputs.lengths)
    kind = modality == "visual"
    assert rows == [row for row in range(len(clips)) if clips[row][kind] is not None]
    for row in rows[:3]:
        assert (inputs[row] == clips[row][kind]).all()
    if modality == "audio":
        assert [inputs.lengths[row] for row in rows] == [len(inputs[row]) for row in rows]


def test_batches_are_what_the_encoders_take(media_store: Store, recognizer: Recognizer) -> None:
    for modality in recognizer.modalities:
        inputs = read_inputs(modality, media_store, "dev", prompter=recognizer.prompter, pad_id=1)
        rows = inputs.present.nonzero()[0].tolist()
        encoder = recognizer.model.encoder(modality).eval()
        with torch.inference_mode():
            batch = encoder(**inputs.batch([inputs[row] for row in rows]))
        encoded = inputs.encode(encoder, rows)
        torch.testing.assert_close(encoded.embedding, batch.embedding, rtol=0, atol=1e-5)
        torch.testing.assert_close(encoded.logits, batch.logits, rtol=0, atol=1e-5)


def test_prompts_are_those_of_whole_conversations(media_store: Store, recognizer: Recognizer) -> None:
    inputs = read_inputs("text", media_store, "test", prompter=recognizer.prompter, pad_id=1)
    prompts = [
        prompt for conversation in media_store.conversations("test") for prompt in recognizer.prompter(conversation)
    ]
    assert [inputs[row] for row in range(len(prompts))] == prompts
    assert inputs.lengths == [len(prompt.input_ids) for prompt in prompts]
    assert inputs.present.all()


def test_an_utterance_without_text_has_it_only_where_nothing_else_is_left(
    media_corpus: Corpus, recognizer: Recognizer, tmp_path: Path
) -> None:
    (clip, *_) = [file for file in map(str, Path(media_corpus.root, "train").iterdir()) if file.endswith("3.mp4")]
    said = ("hello", "", "")
    turns = tuple(
        Utterance(speaker, text, label="calm", id=f"train/dia0_utt{turn}", media=None if text else clip)
        for turn, (speaker, text) in enumerate(zip(SPEAKERS, said, strict=True))
    )
    source = next(source for source in media_corpus.sources.values() if source.file == clip)
    corpus = replace(
        media_corpus,
        splits={"train": (Conversation("train/dia0", turns),)},
        sources={"train/dia0_utt1": source, "train/dia0_utt2": replace(source, file=str(tmp_path / "gone.mp4"))},
    )
    store = prepare(corpus, tmp_path / "store", workers=1)
    present = {
        modality: read_inputs(modality, store, "train", prompter=recognizer.prompter, pad_id=1).present.tolist()
        for modality in recognizer.modalities
    }
    assert present == {
        "text": [True, False, True],
        "audio": [False, True, False],
        "visual": [False, True, False],
    }


def test_an_unknown_split_is_refused(media_store: Store) -> None:
    with pytest.raises(TelMEError, match="no split 'valid'; this store has train, dev, test"):
        read_inputs("audio", media_store, "valid")
