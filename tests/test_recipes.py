"""Recipes: the paper's values, JSON there and back, and one line for everything that cannot be."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from telme.conversation import IEMOCAP, MELD
from telme.errors import TelMEError
from telme.prompt import PromptSettings
from telme.recipes import PRESETS, Fitting, Recipe, load_recipe

PRESET_NAMES = ["meld", "iemocap", "mini", "tiny"]


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


def test_every_field_survives_json(recipe: Recipe, tmp_path: Path) -> None:
    changed = replace(
        recipe,
        seed=7,
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


def test_mini_reads_short_contexts_and_tiny_needs_no_download() -> None:
    assert PRESETS["mini"]().text.backbone == "sentence-transformers/all-MiniLM-L6-v2"
    assert PRESETS["mini"]().labels == PRESETS["tiny"]().labels == MELD.labels
    assert PRESETS["tiny"]().text.backbone == "scratch"


def test_recipes_are_frozen(recipe: Recipe) -> None:
    for part in (recipe, recipe.text, recipe.text.prompt, recipe.teach):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            part.seed = 1  # type: ignore[union-attr, misc]
    with pytest.raises(FrozenInstanceError):
        recipe.teach.epochs = 1  # type: ignore[misc]


def test_neither_preset_nor_file_lists_the_presets(tmp_path: Path) -> None:
    assert "no preset or file 'mild'; presets are meld, iemocap, mini, tiny" in refusal("mild")
    assert "presets are meld, iemocap, mini, tiny" in refusal(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sede", 1, "unknown key 'sede'; valid keys here are labels, name, seed, teach, text"),
        ("teach__lr", 1e-5, "unknown key 'teach.lr'; valid keys here are batch_size, epochs"),
        ("text__prompt__lenght", 64, "unknown key 'text.prompt.lenght'"),
        ("teach__epochs", "3", "teach.epochs is '3'"),
        ("teach__epochs", 2.5, "teach.epochs is 2.5"),
        ("teach__epochs", True, "teach.epochs is True"),
        ("teach__learning_rate", None, "teach.learning_rate is None"),
        ("seed", "one", "seed is 'one'"),
        ("labels", "neutral", "labels is 'neutral'"),
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
        ("warmup_epochs", 3.5),
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
    assert refusal(str(file)) == f"{file}: key 'labels' is missing"
