"""A frozen encoder's columns: computed once, the same however they are batched, named by all that made them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from telme.columns import Columns, Encoder, encode_split, fingerprint
from telme.conversation import MODALITIES, Modality
from telme.inputs import Inputs, read_inputs
from telme.model import TelMEModel
from telme.recognizer import Recognizer
from telme.run import Run
from telme.store import Store

CLASSES = 3


@pytest.fixture(scope="module")
def recognizer(media_run: Run) -> Recognizer:
    return Recognizer.from_pretrained(media_run.model)


@pytest.fixture
def empty_store(media_store: Store, tmp_path: Path) -> Store:
    """Without any columns."""
    shutil.copytree(media_store.path, tmp_path / "store", ignore=shutil.ignore_patterns("columns"))
    return Store(tmp_path / "store")


def reading(recognizer: Recognizer, store: Store, modality: Modality, split: str = "test") -> tuple[Encoder, Inputs]:
    inputs = read_inputs(modality, store, split, prompter=recognizer.prompter, pad_id=recognizer.model.text.pad_id)
    return recognizer.model.encoder(modality), inputs


@pytest.mark.parametrize("modality", MODALITIES)
def test_they_are_computed_once(recognizer: Recognizer, empty_store: Store, modality: Modality) -> None:
    loads = 0

    def load() -> tuple[Encoder, Inputs]:
        nonlocal loads
        loads += 1
        return reading(recognizer, empty_store, modality)

    def columns(store: Store) -> Columns:
        return encode_split(load, key="made-up", store=store, split="test", classes=CLASSES, title="")

    first, again = columns(empty_store), columns(Store(empty_store.path))
    assert loads == 1
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    encoder, inputs = reading(recognizer, empty_store, modality)
    assert first.present.tolist() == inputs.present.tolist()
    assert not first.embedding[~first.present].any()
    assert not first.logits[~first.present].any()
    rows = first.present.nonzero().squeeze(1).tolist()
    encoded = inputs.encode(encoder, rows)
    torch.testing.assert_close(first.embedding[rows], encoded.embedding)
    torch.testing.assert_close(first.logits[rows], encoded.logits)


@settings(max_examples=12, deadline=None)
@given(size=st.integers(1, 32), data=st.data())
@pytest.mark.parametrize("modality", MODALITIES)
def test_neither_batch_size_nor_order_nor_neighbours_matter(
    recognizer: Recognizer, media_store: Store, modality: Modality, size: int, data: Any
) -> None:
    encoder, inputs = reading(recognizer, media_store, modality)
    rows = inputs.present.nonzero()[0].tolist()
    some = data.draw(st.lists(st.sampled_from(rows), unique=True, min_size=1))
    alone = torch.cat([inputs.encode(encoder, [row]).logits for row in some])
    encoder.eval()
    with torch.inference_mode():
        parts = [some[start : start + size] for start in range(0, len(some), size)]
        batched = torch.cat([encoder(**inputs.batch([inputs[row] for row in part])).logits for part in parts])
    torch.testing.assert_close(batched, alone, rtol=0, atol=1e-5)


class TestFingerprint:
    @pytest.mark.parametrize("modality", MODALITIES)
    def test_is_that_of_the_saved_encoder(self, recognizer: Recognizer, tmp_path: Path, modality: Modality) -> None:
        name = fingerprint(recognizer.model.encoder(modality), ["facts"])
        assert len(name) == 16
        recognizer.model.save_pretrained(tmp_path)
        loaded: TelMEModel = AutoModel.from_pretrained(tmp_path)
        assert fingerprint(loaded.encoder(modality), ["facts"]) == name

    @pytest.mark.parametrize("modality", MODALITIES)
    def test_tells_weights_facts_and_configuration(self, media_run: Run, modality: Modality) -> None:
        encoder = Recognizer.from_pretrained(media_run.model).model.encoder(modality)
        names = [fingerprint(encoder, ["facts"]), fingerprint(encoder, ["other facts"])]
        encoder.backbone.config.layer_norm_eps = 0.1
        names.append(fingerprint(encoder, ["facts"]))
        with torch.no_grad():
            next(encoder.backbone.parameters()).view(-1)[-1] += 1e-3
        names.append(fingerprint(encoder, ["facts"]))
        assert len(set(names)) == 4
