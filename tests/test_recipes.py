"""Recipes: the paper's values, JSON there and back, and one line for everything that cannot be."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from telme.conversation import IEMOCAP, MELD
from telme.errors import TelMEError
from telme.fusion import FusionSettings
from telme.prompt import PromptSettings
from telme.recipes import PRESETS, DistillationRecipe, Fitting, Recipe, load_recipe

PRESET_NAMES = ["meld", "iemocap", "meld-released", "iemocap-released", "mini", "tiny"]


def written(path: Path, **changes: Any) -> str:
    """A recipe.json of `tiny` in which dotted keys are changed; returns its path."""
    document = json.loads(PRESETS["tiny"]().to_json())
    for key, value in changes.items():
        *folders, last = key.split("__")
        place = document
        for folder in folders:
            place = place[folder]
        place[last] = value
    (path / "recipe.json").write_text(json.dumps(document), encoding="utf-8")
    return str(path / "recipe.json")


def refusal(preset: str) -> str:
    with pytest.raises(TelMEError) as refused:
        load_recipe(preset)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_these_are_the_presets() -> None:
    assert list(PRESETS) == PRESET_NAMES
    assert [preset().name for preset in PRESETS.values()] == PRESET_NAMES


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_is_loaded_by_name_and_from_its_json(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    file = tmp_path / "recipe.json"
    file.write_text(recipe.to_json(), encoding="utf-8")
    assert load_recipe(str(file)) == recipe == PRESETS[name]()
    assert load_recipe(str(file)).to_json() == recipe.to_json()


def test_every_field_survives_json(media_recipe: Recipe, tmp_path: Path) -> None:
    recipe = media_recipe
    changed = replace(
        recipe,
        labels=("calm", "glad"),
        seed=7,
        teacher="visual",
        distillation=DistillationRecipe(alpha=0.5, beta=0.0, temperature=3.0, feature_temperature=2.0),
        fusion=FusionSettings(kind="concatenation", heads=2, theta=0.3, dropout=0.4, attend="dialogue"),
        modality_dropout=0.3,
        text=replace(
            recipe.text,
            overrides={"hidden_dropout_prob": 0.2, "layers": 3, "tied": True, "activation": "gelu"},
            prompt=PromptSettings(template=None, max_length=99, speakers=2, further_speakers="refuse"),
        ),
    )
    (tmp_path / "recipe.json").write_text(changed.to_json(), encoding="utf-8")
    loaded = load_recipe(str(tmp_path / "recipe.json"))
    assert loaded == changed
    overrides = loaded.text.overrides
    assert {name: type(value) for name, value in overrides.items()} == {
        "hidden_dropout_prob": float,
        "layers": int,
        "tied": bool,
        "activation": str,
    }


@pytest.mark.parametrize(("name", "labels"), [("meld", MELD.labels), ("iemocap", IEMOCAP.labels)])
def test_the_papers_teacher(name: str, labels: tuple[str, ...]) -> None:
    recipe = PRESETS[name]()
    assert (recipe.labels, recipe.seed, recipe.text.backbone) == (labels, 42, "FacebookAI/roberta-large")
    assert recipe.text.prompt == PromptSettings(
        template="Now {speaker} feels {mask}", max_length=512, speakers=9, further_speakers="share"
    )
    assert recipe.text.overrides == {}
    assert recipe.teach == Fitting(
        epochs=10,
        batch_size=4,
        learning_rate=1e-5,
        layer_decay=1.0,
        head_learning_rate=None,
        warmup_epochs=1,
        weight_decay=0.01,
        max_grad_norm=10.0,
        label_smoothing=0.0,
        weight_average=0.0,
    )


@pytest.mark.parametrize(
    ("name", "distillation", "fusion"),
    [
        (
            "meld",
            DistillationRecipe(alpha=1.0, beta=1.0, temperature=4.0, feature_temperature=1.0),
            FusionSettings(kind="shifting", heads=3, theta=0.1, dropout=0.2, attend="utterance"),
        ),
        (
            "iemocap",
            DistillationRecipe(alpha=0.1, beta=1.0, temperature=2.0, feature_temperature=1.0),
            FusionSettings(kind="shifting", heads=4, theta=0.01, dropout=0.1, attend="utterance"),
        ),
    ],
)
def test_the_papers_students_and_fusion(name: str, distillation: DistillationRecipe, fusion: FusionSettings) -> None:
    recipe = PRESETS[name]()
    assert recipe.modalities == ("text", "audio", "visual")
    assert recipe.students == ("audio", "visual")
    assert recipe.audio is not None
    assert recipe.visual is not None
    assert (recipe.audio.backbone, recipe.audio.pooling) == ("facebook/data2vec-audio-base-960h", "mean")
    assert recipe.visual.backbone == "facebook/timesformer-base-finetuned-k400"
    assert (recipe.distillation, recipe.fusion) == (distillation, fusion)
    assert recipe.teach == recipe.distil == recipe.fuse


@pytest.mark.parametrize("corpus", ["meld", "iemocap"])
def test_the_released_code_differs_in_this(corpus: str) -> None:
    paper, released = PRESETS[corpus](), PRESETS[f"{corpus}-released"]()
    assert released.labels == paper.labels
    assert released.distillation == paper.distillation
    assert released.audio is not None
    assert released.audio.pooling == "first"
    assert released.fusion.attend == "batch"
    assert released.modality_dropout == 0
    # The schedule counts samples where it means steps of four.
    for fitting in (released.teach, released.distil, released.fuse):
        assert fitting is not None
        assert (fitting.warmup_epochs, fitting.schedule_epochs) == (4.0, 4.0 * fitting.epochs)
    rates = {"meld": 1e-6, "iemocap": 1e-5}
    assert released.teach.learning_rate == rates[corpus]


def test_mini_reads_short_contexts_of_text_and_tiny_needs_no_download() -> None:
    mini, tiny = PRESETS["mini"](), PRESETS["tiny"]()
    assert mini.text.backbone == "sentence-transformers/all-MiniLM-L6-v2"
    assert (mini.labels, mini.modalities, mini.students) == (MELD.labels, ("text",), ())
    assert tiny.labels is None  # whatever the store has
    assert tiny.audio is not None
    assert tiny.visual is not None
    assert tiny.text.backbone == tiny.audio.backbone == tiny.visual.backbone == "scratch"


def test_a_backbone_is_exchanged(media_recipe: Recipe, recipe: Recipe) -> None:
    changed = media_recipe.with_backbone("audio", "my/voices")
    assert changed.audio is not None
    assert changed.audio.backbone == "my/voices"
    assert replace(changed, audio=media_recipe.audio) == media_recipe
    with pytest.raises(TelMEError, match="visual backbone 'my/faces': recipe 'moods' reads text"):
        recipe.with_backbone("visual", "my/faces")


@pytest.mark.parametrize("teacher", ["text", "audio", "visual"])
def test_whoever_teaches_the_others_are_students(media_recipe: Recipe, teacher: Any) -> None:
    students = replace(media_recipe, teacher=teacher).students
    assert students == tuple(modality for modality in ("text", "audio", "visual") if modality != teacher)


def test_recipes_are_frozen(recipe: Recipe) -> None:
    for part in (recipe, recipe.text, recipe.text.prompt, recipe.teach):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            part.seed = 1  # type: ignore[union-attr, misc]
    with pytest.raises(FrozenInstanceError):
        recipe.teach.epochs = 1  # type: ignore[misc]


def test_neither_preset_nor_file_lists_the_presets(tmp_path: Path) -> None:
    presets = "presets are meld, iemocap, meld-released, iemocap-released, mini, tiny"
    assert f"no preset or file 'mild'; {presets}" in refusal("mild")
    assert presets in refusal(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sede", 1, "unknown key 'sede'; valid keys here are audio, distil, distillation, fuse, fusion,"),
        ("teach__lr", 1e-5, "unknown key 'teach.lr'; valid keys here are batch_size, epochs"),
        ("text__prompt__lenght", 64, "unknown key 'text.prompt.lenght'"),
        ("teach__epochs", "3", "teach.epochs is '3'"),
        ("teach__epochs", 2.5, "teach.epochs is 2.5"),
        ("teach__epochs", True, "teach.epochs is True"),
        ("teach__learning_rate", None, "teach.learning_rate is None"),
        ("seed", "one", "seed is 'one'"),
        ("labels", "neutral", "labels is 'neutral'"),
        ("audio__pooling", "max", "audio.pooling is 'max'"),
        ("visual__mean", [0, 0, 0], "unknown key 'visual.mean'; valid keys here are backbone, overrides"),
        ("distil__epochs", "3", "distil.epochs is '3'"),
        ("distillation__tau", 4, "unknown key 'distillation.tau'; valid keys here are alpha, beta, feature_temp"),
        ("fusion__attend", "everything", "fusion.attend is 'everything'"),
        ("fusion__kind", "sum", "fusion.kind is 'sum'"),
        ("teacher", "smell", "teacher is 'smell'"),
        ("text__overrides", {"dropout": [0.1]}, "text.overrides.dropout"),
        ("text__prompt__further_speakers", "drop", "text.prompt.further_speakers is 'drop'"),
    ],
)
def test_unknown_keys_and_wrong_types(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = written(tmp_path, **{key: value})
    assert refusal(path).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("head_learning_rate", -1e-3),
        ("head_learning_rate", 0.0),
        ("layer_decay", 0.0),
        ("layer_decay", 1.1),
        ("warmup_epochs", -0.5),
        ("warmup_epochs", 99.5),
        ("weight_decay", -0.01),
        ("max_grad_norm", 0.0),
        ("label_smoothing", 1.0),
        ("label_smoothing", -0.1),
        ("weight_average", 1.0),
        ("weight_average", -0.1),
    ],
)
def test_impossible_settings_name_the_value_and_the_range(tmp_path: Path, field: str, value: float) -> None:
    message = refusal(written(tmp_path, **{f"teach__{field}": value}))
    assert f"{field} is {value}; valid is" in message


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("seed", -1, "seed"),
        ("seed", 2**32, "seed"),
        ("modality_dropout", 1.0, "modality_dropout is 1.0; valid is from 0 to below 1"),
        ("distillation__alpha", -1.0, "distillation alpha is -1.0; valid is 0 or more"),
        ("distillation__temperature", 0.0, "distillation temperature is 0.0; valid is above 0"),
        ("fusion__heads", 5, "heads is 5; valid is a divisor of 1536"),
        ("fusion__theta", 0.0, "theta is 0.0; valid is above 0"),
        ("distil", None, "distil is null; a recipe with students (audio, visual) needs it"),
        ("fuse", None, "fuse is null; a recipe with students (audio, visual) needs it"),
        ("labels", ["neutral"], "neutral"),
        ("labels", ["neutral", "neutral", "joy"], "neutral"),
        ("text__prompt__max_length", 8, "max_length is 8"),
        ("text__prompt__speakers", 0, "speakers is 0"),
        ("text__prompt__template", "Now feels", "template 'Now feels'"),
    ],
)
def test_impossible_recipes_are_refused_when_they_are_read(tmp_path: Path, key: str, value: object, named: str) -> None:
    assert named in refusal(written(tmp_path, **{key: value}))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"meld"'])
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "recipe.json"
    file.write_bytes(content)
    assert refusal(str(file)).startswith(f"{file}: ")


def test_a_missing_key(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text('{"name": "mine"}', encoding="utf-8")
    assert refusal(str(file)) == f"{file}: key 'text' is missing"


def test_a_modality_that_is_not_read_cannot_teach(tmp_path: Path) -> None:
    assert "teacher is 'audio'; this recipe has text, visual" in refusal(written(tmp_path, audio=None, teacher="audio"))
