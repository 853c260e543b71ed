"""The experiment as one page, `telme train PRESET --store STORE --out RUN`: stage 1 teaches the text encoder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import set_seed

from telme.backbones import load_text_backbone
from telme.collate import pad_prompts
from telme.conversation import LabelSet
from telme.encoders import TextEncoder
from telme.errors import TelMEError
from telme.evaluation import AnnotatedPrompts, annotated_prompts, evaluate
from telme.files import write_folder, write_whole
from telme.metrics import fit_temperature, weighted_f1
from telme.model import TelMEConfig, TelMEModel
from telme.model_card import BACKBONES, CORPORA, model_card, source_of
from telme.objectives import Classification
from telme.prompt import Prompt, Prompter
from telme.recipes import Recipe
from telme.report import write_report
from telme.run import Run
from telme.store import Store
from telme.training import Fitted, Metrics, fit

SELECTED_ON = "dev"


def train(recipe: Recipe, store: Store, out: str | Path, *, stage: str | None = None) -> Run:
    """Runs the stages of a recipe that are not done yet, or one of them, and returns the run.

    Raises:
        TelMEError: The store has labels that the recipe has not, or the folder holds another experiment.
    """
    unknown = [label for label in store.labels if label not in recipe.labels]
    if unknown:
        raise TelMEError(
            f"{store.path}: label {unknown[0]!r} is not one of recipe {recipe.name!r}: {', '.join(recipe.labels)}"
        )
    run = Run(out, recipe, store)
    if not run.is_finished:
        for name in [stage] if stage else STAGES:
            STAGES[name](run)
    if run.is_finished:
        for name in STAGES:
            shutil.rmtree(run.checkpoints(name), ignore_errors=True)
    return run


def teach(run: Run) -> None:
    """Stage 1: fits the text encoder on every utterance with its context (Eq. 1-3); it is the run's model."""
    recipe, store = run.recipe, run.store
    set_seed(recipe.seed)
    model, prompter = _untrained(recipe, store)
    labels = model.config.labels
    data = annotated_prompts(store, "train", prompter, labels)
    dev = annotated_prompts(store, SELECTED_ON, prompter, labels)
    run.begin()
    fitted = fit(
        Classification(model.text, label_smoothing=recipe.teach.label_smoothing),
        list(zip(data.prompts, data.labels.tolist(), strict=True)),
        lengths=data.lengths(),
        collate=PromptBatches(pad_id=model.text.pad_id),
        validate=lambda objective: dev_metrics(objective, dev),
        fitting=recipe.teach,
        seed=recipe.seed,
        folder=run.checkpoints("teach"),
        title="teacher",
    )
    model.config.temperature = fit_temperature(model.text.encode(dev.prompts).logits.double().numpy(), dev.labels)
    model.config.selected_on = SELECTED_ON
    _finish(run, model, prompter, fitted)


def dev_metrics(objective: nn.Module, dev: AnnotatedPrompts) -> Metrics:
    """Loss and weighted F1 on the split that the epoch is selected on."""
    assert isinstance(objective, Classification)
    assert isinstance(objective.encoder, TextEncoder)
    logits = objective.encoder.encode(dev.prompts).logits
    return {
        "dev_loss": float(F.cross_entropy(logits, torch.from_numpy(dev.labels))),
        "dev_weighted_f1": weighted_f1(dev.labels, logits.argmax(dim=1).numpy()),
    }


STAGES: Mapping[str, Callable[[Run], None]] = {"teach": teach}  # in their order


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBatches:
    """Prompts with their class indices -> the batch that `Classification` of a text encoder takes."""

    pad_id: int

    def __call__(self, rows: list[tuple[Prompt, int]]) -> dict[str, Tensor]:
        prompts, labels = zip(*rows, strict=True)
        return {**pad_prompts(prompts, pad_id=self.pad_id), "labels": torch.tensor(labels)}


def _untrained(recipe: Recipe, store: Store) -> tuple[TelMEModel, Prompter]:
    """The recipe's network with its pretrained backbone and a fresh head."""
    backbone, tokenizer = load_text_backbone(
        recipe.text.backbone,
        overrides=recipe.text.overrides,
        prompt=recipe.text.prompt,
        transcripts=[utterance.text for conversation in store.conversations("train") for utterance in conversation],
    )
    config = TelMEConfig.of(
        LabelSet(store.labels.name, recipe.labels),
        text=backbone.config,
        prompt=recipe.text.prompt,
        seed=recipe.seed,
    )
    model = TelMEModel(config)
    model.text.backbone.load_state_dict(backbone.state_dict())
    return model, Prompter(tokenizer, recipe.text.prompt)


def _finish(run: Run, model: TelMEModel, prompter: Prompter, fitted: Fitted) -> None:
    """Saves the model, evaluates it, and writes the report and, last, the results."""
    recipe, store = run.recipe, run.store
    results = [evaluate(model, prompter, store, split, name=recipe.name) for split in store.splits if split != "train"]
    numbers: dict[str, Any] = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "store": store.name,
        "selected_on": SELECTED_ON,
        "stages": {"teach": asdict(fitted)},
        "results": [result.to_dict() for result in results],
    }

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        prompter.tokenizer.save_pretrained(folder)
        write_whole(folder / "recipe.json", recipe.to_json())
        write_whole(folder / "README.md", _card(recipe, store, numbers["results"]))

    write_folder(run.model, fill)
    write_report(
        run.path / "report.html",
        title=f"TelME {recipe.name}: text teacher on {store.manifest.corpus}",
        recipe=asdict(recipe),
        environment=run.environment,
        history=fitted.history,
        results=numbers["results"],
    )
    run.finish(numbers)


def _card(recipe: Recipe, store: Store, results: list[dict[str, Any]]) -> str:
    return model_card(
        name=f"telme-{recipe.name}",
        license=None,
        languages=[],
        base=source_of(recipe.text.backbone, BACKBONES, "The pretrained text encoder."),
        corpus=source_of(store.manifest.corpus, CORPORA, "The corpus it was trained on."),
        recipe=asdict(recipe),
        results=results,
    )
