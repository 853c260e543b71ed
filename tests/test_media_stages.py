"""Three stages over text, voice and face: what they hand over, that nothing is done twice, and their variants."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RESULT_KEYS
from safetensors.torch import load_file
from transformers import AutoModel

import telme.stages
import telme.training
from telme.encoders import AudioEncoder, TextEncoder, VisualEncoder
from telme.errors import TelMEError
from telme.evaluation import evaluate
from telme.fusion import FusionSettings
from telme.model import TelMEModel
from telme.prepare import prepare
from telme.recipes import DistillationRecipe, Fitting, Recipe, VisualRecipe
from telme.recognizer import Recognizer
from telme.run import Run
from telme.stages import train
from telme.store import Store

pytestmark = pytest.mark.usefixtures("no_report")

SUBSETS = ["text", "audio", "visual", "text+audio", "text+visual", "audio+visual", "text+audio+visual"]
ONE_EPOCH = Fitting(epochs=1, batch_size=16, learning_rate=1e-3, warmup_epochs=0)


@pytest.fixture
def quick(media_recipe: Recipe) -> Recipe:
    """The recipe with an epoch of one or two batches a stage."""
    return replace(media_recipe, teach=ONE_EPOCH, distil=ONE_EPOCH, fuse=ONE_EPOCH)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages of this file's runs make, for all of them."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the stages that are fitted from now on."""
    titles: list[str] = []

    def counted(*arguments: Any, title: str, **named: Any) -> Any:
        titles.append(title)
        return telme.training.fit(*arguments, title=title, **named)

    monkeypatch.setattr(telme.stages, "fit", counted)
    return titles


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The encoders that are asked for embeddings from now on."""
    asked: list[type] = []
    for kind in (TextEncoder, AudioEncoder, VisualEncoder):

        def counted(self: Any, *arguments: Any, encode: Callable[..., Any] = kind.encode, **named: Any) -> Any:
            asked.append(type(self))
            return encode(self, *arguments, **named)

        monkeypatch.setattr(kind, "encode", counted)
    return asked


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.model / "model.safetensors")


def test_a_finished_run_is_its_model_and_its_numbers(media_run: Run, media_store: Store) -> None:
    assert {path.name for path in media_run.path.iterdir()} == {
        "recipe.json",
        "environment.json",
        "results.json",
        "report.html",
        "model",
    }
    results = media_run.results
    assert list(results["stages"]) == ["text", "audio", "visual", "fusion"]
    for record in results["results"]:
        assert tuple(record)[: len(RESULT_KEYS)] == RESULT_KEYS
        assert list(record["subsets"]) == SUBSETS
        assert record["subsets"]["text+audio+visual"]["weighted_f1"] == record["weighted_f1"]
        clips = media_store.clips(record["split"])
        assert record["subsets"]["audio"]["utterances"] == sum(map(bool, clips.samples))
        assert record["subsets"]["visual"]["utterances"] == sum(clips.has_frames)
        assert record["subsets"]["text"]["utterances"] == record["utterances"] == len(clips)
    page = (media_run.path / "report.html").read_text(encoding="utf-8")
    for title in ("text teacher", "audio student", "visual student", "fusion"):
        assert f"Training: {title}" in page
    assert "audio + visual" in (media_run.model / "README.md").read_text(encoding="utf-8")


def test_each_head_has_a_temperature_of_its_own(media_run: Run) -> None:
    model = AutoModel.from_pretrained(media_run.model)
    assert isinstance(model, TelMEModel)
    assert model.config.temperatures is not None
    assert set(model.config.temperatures) == {"text", "audio", "visual", "fusion"}
    assert all(temperature > 0 for temperature in model.config.temperatures.values())
    assert len(set(model.config.temperatures.values())) > 1


def test_evaluation_finds_what_training_has_encoded(media_run: Run, media_store: Store, encodings: list[type]) -> None:
    recognizer = Recognizer.from_pretrained(media_run.model)
    for record in media_run.results["results"]:
        results = evaluate(recognizer.model, recognizer.prompter, media_store, record["split"], name="media").to_dict()
        assert json.loads(json.dumps(results)) == record
    assert encodings == []


def test_stage_after_stage_ends_like_all_at_once(
    media_run: Run, media_recipe: Recipe, media_store: Store, tmp_path: Path, fits: list[str]
) -> None:
    with pytest.raises(TelMEError, match="the teacher is not trained yet; run --stage teach first"):
        train(media_recipe, media_store, tmp_path / "run", stage="distil")
    with pytest.raises(TelMEError, match="stage 'text' is not done yet; run all stages"):
        train(media_recipe, media_store, tmp_path / "run", stage="fuse")
    assert not (tmp_path / "run").exists()
    for stage in ("teach", "distil", "fuse"):
        run = train(media_recipe, media_store, tmp_path / "run", stage=stage)
        assert run.is_finished == (stage == "fuse")
    assert fits == ["text teacher", "audio student", "visual student", "fusion"]
    for name in ("model/model.safetensors", "model/config.json", "results.json"):
        assert (run.path / name).read_bytes() == (media_run.path / name).read_bytes(), name


def test_variants_share_what_does_not_differ(
    quick: Recipe,
    media_store: Store,
    tmp_path: Path,
    shared: Path,
    fits: list[str],
    encodings: list[type],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fitted(name: str, **changes: Any) -> list[str]:
        fits.clear()
        run = train(replace(quick, name=name, **changes), media_store, tmp_path / name, stages=shared)
        assert (run.results["recipe"], run.environment["store"]) == (name, media_store.name)
        return list(fits)

    assert fitted("whole") == ["text teacher", "audio student", "visual student", "fusion"]
    encodings.clear()
    assert fitted("again") == []
    assert fitted("concatenated", fusion=FusionSettings(kind="concatenation")) == ["fusion"]
    assert encodings == [], "their columns are there"

    def first_to_fit(**changes: Any) -> str:
        with pytest.raises(InterruptedError) as stage:
            train(replace(quick, name="other", **changes), media_store, tmp_path / "other", stages=shared)
        (tmp_path / "other" / "recipe.json").unlink()
        return str(stage.value)

    def interrupted(*_: Any, title: str, **__: Any) -> None:
        raise InterruptedError(title)

    monkeypatch.setattr(telme.stages, "fit", interrupted)
    assert first_to_fit(seed=4) == "text teacher"
    assert first_to_fit(text=replace(quick.text, overrides={"hidden_dropout_prob": 0.2})) == "text teacher"
    assert first_to_fit(distillation=DistillationRecipe(alpha=0, beta=0)) == "audio student"
    assert first_to_fit(distillation=DistillationRecipe(temperature=2.0)) == "audio student"
    assert first_to_fit(visual=VisualRecipe(backbone="scratch", overrides={"hidden_size": 32})) == "visual student"
    assert first_to_fit(audio=None) == "fusion"
    assert first_to_fit(modality_dropout=0.5) == "fusion"


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": "audio"},
        {"visual": None, "teacher": "audio"},
        {"fusion": FusionSettings(heads=4, attend="dialogue")},
        {"fusion": FusionSettings(heads=4, attend="batch")},
        {"fusion": FusionSettings(kind="concatenation"), "modality_dropout": 0.9},
    ],
    ids=["audio teaches", "audio teaches text", "dialogue", "batch", "concatenation"],
)
def test_every_variant_trains_and_predicts(
    quick: Recipe, media_store: Store, tmp_path: Path, shared: Path, changes: dict[str, Any]
) -> None:
    recipe = replace(quick, **changes)
    run = train(recipe, media_store, tmp_path / "run", stages=shared)
    assert all(weight.isfinite().all() for weight in weights(run).values() if weight.is_floating_point())
    assert len(run.results["results"][0]["subsets"]) == 2 ** len(recipe.modalities) - 1
    recognizer = Recognizer.from_pretrained(run.model)
    assert recognizer.modalities == recipe.modalities
    assert recognizer.model.config.teacher == recipe.teacher
    # A prediction has no neighbours, whatever it was trained beside.
    attend = recipe.fusion.attend
    assert recognizer.model.config.fusion["attend"] == ("utterance" if attend == "batch" else attend)
    there = [turn for turn in media_store.conversations("test")[1] if turn.media]
    predictions = recognizer([replace(media_store.conversations("test")[1], utterances=tuple(there))])[0]
    for prediction in predictions:
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert bool(prediction.text_only) == (recipe.teacher in prediction.modalities)


def test_students_that_learn_alone_need_no_teacher(quick: Recipe, media_store: Store, tmp_path: Path) -> None:
    recipe = replace(quick, visual=None, distillation=DistillationRecipe(alpha=0, beta=0))
    assert not train(recipe, media_store, tmp_path / "run", stage="distil").is_finished


def test_a_store_without_clips_is_refused_at_once(quick: Recipe, store: Store, tmp_path: Path, fits: list[str]) -> None:
    with pytest.raises(TelMEError, match="no annotated utterance of 'train' has a voice; train a preset that reads"):
        train(quick, store, tmp_path / "run")
    assert fits == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_a_students_backbone_that_is_not_there_is_refused_at_once(
    quick: Recipe, media_store: Store, tmp_path: Path, fits: list[str], modality: Any
) -> None:
    with pytest.raises(TelMEError, match=f"{modality} backbone 'no/such/folder'"):
        train(quick.with_backbone(modality, "no/such/folder"), media_store, tmp_path / "run")
    # Else the mended command would be told, after the teacher, that another recipe was begun here.
    assert fits == []
    assert not (tmp_path / "run").exists()


def test_voices_are_not_needed_where_none_are_read(
    quick: Recipe, media_corpus: Any, tmp_path: Path, fits: list[str]
) -> None:
    silent = replace(media_corpus, sources={})
    store = prepare(silent, tmp_path / "store")
    run = train(replace(quick, audio=None, visual=None), store, tmp_path / "run")
    assert fits == ["text teacher"]
    assert list(run.results["results"][0]["subsets"]) == ["text"]
