"""A run: its files, that it is done once, and that what it saved is what it measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LABELS, RESULT_KEYS
from transformers import AutoModel

import telme.stages
import telme.training
from telme.conversation import Conversation
from telme.corpora import Corpus
from telme.errors import TelMEError
from telme.evaluation import evaluate
from telme.model import TelMEModel
from telme.prepare import prepare
from telme.recipes import Fitting, Recipe, load_recipe
from telme.recognizer import Recognizer
from telme.run import Run
from telme.stages import STAGES, train
from telme.store import Store


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file below a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def quick(recipe: Recipe) -> Recipe:
    """The recipe with an epoch of large batches."""
    return replace(recipe, teach=Fitting(epochs=1, batch_size=64, learning_rate=1e-3, warmup_epochs=0))


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Path:
    """A finished run's folder that a test may damage."""
    shutil.copytree(run.path, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object, **__: object) -> None:
        raise AssertionError("nothing was to be fitted")

    monkeypatch.setattr(telme.stages, "fit", fit)


def test_a_finished_run_holds_these_files(run: Run) -> None:
    assert {path.name for path in run.path.iterdir()} == {
        "recipe.json",
        "environment.json",
        "results.json",
        "report.html",
        "model",
    }
    assert {path.name for path in run.model.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "recipe.json",
        "README.md",
    }


def test_the_recipe_travels_with_the_model(run: Run, recipe: Recipe) -> None:
    assert load_recipe(str(run.path / "recipe.json")) == load_recipe(str(run.model / "recipe.json")) == recipe


def test_the_environment_says_what_the_run_needs_to_be_repeated(run: Run, store: Store) -> None:
    environment = read(run.path / "environment.json")
    assert environment["store"] == store.name
    assert {"telme", "python", "torch", "transformers", "platform", "device", "threads", "precision"} <= set(
        environment
    )


def test_results_keep_the_contract(run: Run, recipe: Recipe, store: Store) -> None:
    results = read(run.path / "results.json")
    assert (results["recipe"], results["seed"], results["selected_on"], results["store"]) == (
        "moods",
        3,
        "dev",
        store.name,
    )
    assert [record["split"] for record in results["results"]] == ["dev", "test"]
    for record in results["results"]:
        assert tuple(record)[: len(RESULT_KEYS)] == RESULT_KEYS
        assert (record["selected_on"], record["seed"], record["model"], record["store"]) == (
            "dev",
            recipe.seed,
            "moods",
            store.name,
        )
        assert record["utterances"] == store.rows(record["split"]).num_rows == sum(map(sum, record["confusion"]))
        low, high = record["weighted_f1_interval"]
        assert 0 <= low <= record["weighted_f1"] <= high <= 1
        assert tuple(record["per_class"]) == recipe.labels


def test_the_stage_tells_how_it_was_fitted(run: Run, recipe: Recipe) -> None:
    stage = read(run.path / "results.json")["stages"]["text"]
    scores = [epoch["dev_weighted_f1"] for epoch in stage["history"]]
    assert len(scores) == recipe.teach.epochs
    assert stage["best_epoch"] == 1 + scores.index(max(scores))
    assert 0.5 < stage["padding_efficiency"] <= 1
    (dev,) = [record for record in run.results["results"] if record["split"] == "dev"]
    assert dev["weighted_f1"] == pytest.approx(max(scores))


def test_it_learned_the_words(run: Run) -> None:
    for record in run.results["results"]:
        assert record["weighted_f1"] > 0.5  # by chance: 0.33


def test_the_saved_model_gives_the_results(run: Run, store: Store) -> None:
    recognizer = Recognizer.from_pretrained(run.model)
    for record in run.results["results"]:
        results = evaluate(recognizer.model, recognizer.prompter, store, record["split"], name="moods").to_dict()
        assert json.loads(json.dumps(results)) == record


def test_the_saved_model_is_an_ordinary_hugging_face_model(run: Run, recipe: Recipe) -> None:
    model = AutoModel.from_pretrained(run.model)
    assert isinstance(model, TelMEModel)
    assert model.config.labels == LABELS
    assert model.config.prompt_settings == recipe.text.prompt
    assert (model.config.seed, model.config.selected_on) == (3, "dev")
    assert model.config.temperatures is not None
    assert set(model.config.temperatures) == {"text"}
    assert 0 < model.config.temperatures["text"] != 1.0


@pytest.mark.usefixtures("no_fit")
def test_a_finished_run_is_left_alone(run: Run, recipe: Recipe, store: Store) -> None:
    before = files(run.path)
    again = train(recipe, store, run.path)
    assert files(run.path) == before
    assert again.results == run.results


def test_a_recipe_that_was_read_back_continues_its_run(tmp_path: Path, store: Store, recipe: Recipe) -> None:
    # 1 and 1.0 are the same number; a preset is written with either.
    fitting = replace(recipe.teach, warmup_epochs=1)
    Run(tmp_path / "run", replace(recipe, teach=fitting), store).begin()
    Run(tmp_path / "run", load_recipe(str(tmp_path / "run" / "recipe.json")), store)


@pytest.mark.parametrize(
    "change",
    [
        lambda recipe: replace(recipe, seed=4),
        lambda recipe: replace(recipe, name="others"),
        lambda recipe: replace(recipe, teach=replace(recipe.teach, epochs=4)),
    ],
)
def test_another_recipe_in_the_folder_is_refused(
    run: Run, recipe: Recipe, store: Store, change: Callable[[Recipe], Recipe]
) -> None:
    before = files(run.path)
    with pytest.raises(TelMEError, match=r"recipe\.json: another recipe or seed was begun here"):
        train(change(recipe), store, run.path)
    assert files(run.path) == before


def test_another_store_in_the_folder_is_refused(run: Run, recipe: Recipe, corpus: Corpus, tmp_path: Path) -> None:
    before = files(run.path)
    other = prepare(replace(corpus, name="others"), tmp_path / "other")
    with pytest.raises(TelMEError, match=f"begun with store {run.store.name}, not {other.name}"):
        train(recipe, other, run.path)
    assert files(run.path) == before


@pytest.mark.usefixtures("no_fit")
def test_a_moved_store_is_the_same_store(run: Run, recipe: Recipe, store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "moved")
    train(recipe, Store(tmp_path / "moved"), run.path)


@pytest.mark.parametrize("as_file", [True, False])
def test_a_folder_with_other_things_is_refused(recipe: Recipe, store: Store, tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "notes").write_text("mine", encoding="utf-8")
    with pytest.raises(TelMEError, match="exists and is not a run; name a new or empty folder"):
        train(recipe, store, tmp_path / "notes" if as_file else tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_label_that_the_recipe_lacks_is_refused(recipe: Recipe, store: Store, tmp_path: Path) -> None:
    with pytest.raises(TelMEError, match="label 'cross' is not one of recipe 'moods': calm, glad"):
        train(replace(recipe, labels=("calm", "glad")), store, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: replace(text, backbone="no/such/folder"), "text backbone 'no/such/folder'"),
        (lambda text: replace(text, overrides={"dropuot": 0.1}), "override 'dropuot'"),
    ],
)
def test_a_recipe_that_cannot_begin_leaves_no_folder(
    recipe: Recipe, store: Store, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(TelMEError, match=message):
        train(replace(recipe, text=change(recipe.text)), store, tmp_path / "run")
    # Else the mended command would be told that another recipe was begun here.
    assert not (tmp_path / "run").exists()


def test_a_store_without_dev_leaves_no_folder(recipe: Recipe, corpus: Corpus, tmp_path: Path) -> None:
    store = prepare(replace(corpus, splits={"train": corpus.splits["train"]}), tmp_path / "store")
    with pytest.raises(TelMEError, match="no split 'dev'"):
        train(recipe, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("unwritten", ["environment.json", "recipe.json"])
def test_a_run_that_died_in_its_first_moments_goes_on(
    recipe: Recipe, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unwritten: str
) -> None:
    replace_file = Path.replace

    def dying(self: Path, target: Path) -> Path:
        if Path(target).name == unwritten:
            raise KeyboardInterrupt
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            Run(tmp_path / "run", recipe, store).begin()
    Run(tmp_path / "run", recipe, store).begin()
    assert load_recipe(str(tmp_path / "run" / "recipe.json")) == recipe


def test_a_run_that_died_before_its_last_file_ends_with_the_same_bytes(
    copied: Path, run: Run, recipe: Recipe, store: Store
) -> None:
    (copied / "results.json").unlink()
    (copied / "report.html").unlink()
    (copied / "model" / "model.safetensors").write_bytes(b"old")
    train(recipe, store, copied)
    assert {name: content for name, (content, _) in files(copied).items()} == {
        name: content for name, (content, _) in files(run.path).items()
    }


def test_stages_that_a_killed_run_left_are_removed(copied: Path, recipe: Recipe, store: Store) -> None:
    (copied / "stages" / "text-0123").mkdir(parents=True)  # killed after results.json, before they were all removed
    train(recipe, store, copied)
    assert not (copied / "stages").exists()


def test_a_stage_can_be_named(recipe: Recipe, store: Store, tmp_path: Path) -> None:
    assert list(STAGES) == ["teach", "distil", "fuse"]
    assert train(quick(recipe), store, tmp_path / "run", stage="teach").is_finished


@pytest.mark.parametrize("stage", ["distil", "fuse"])
def test_a_stage_that_a_recipe_has_not_is_refused(recipe: Recipe, store: Store, tmp_path: Path, stage: str) -> None:
    with pytest.raises(TelMEError, match=f"stage '{stage}': recipe 'tiny-text' reads text alone; its stage is teach"):
        train(replace(quick(recipe), name="tiny-text"), store, tmp_path / "run", stage=stage)
    assert not (tmp_path / "run").exists()


def test_utterances_without_a_label_are_context_only(recipe: Recipe, corpus: Corpus, tmp_path: Path) -> None:
    def unlabelled(conversation: Conversation) -> Conversation:
        first, *others = conversation
        return replace(conversation, utterances=(replace(first, label=None), *others))

    splits = {split: tuple(map(unlabelled, conversations)) for split, conversations in corpus.splits.items()}
    store = prepare(replace(corpus, splits=splits), tmp_path / "store")
    run = train(quick(recipe), store, tmp_path / "run")
    for record in run.results["results"]:
        conversations = corpus.splits[record["split"]]
        assert record["utterances"] == sum(map(len, conversations)) - len(conversations)


def test_evaluation_does_not_depend_on_batches(run: Run, store: Store) -> None:
    recognizer = Recognizer.from_pretrained(run.model)
    prompts = [prompt for conversation in store.conversations("test") for prompt in recognizer.prompter(conversation)]
    together = recognizer.model.text.encode(prompts).logits
    alone = torch.cat([recognizer.model.text.encode([prompt]).logits for prompt in prompts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
