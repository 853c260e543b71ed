"""The experiment as one page, `telme train PRESET --store STORE --out RUN`: teach, distil, fuse.

Each stage ends with a folder of what it made. The encoders are then frozen, and their outputs are columns of the
store: nothing is encoded twice, and the fusion is fitted on a table.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import set_seed

from telme.backbones import load_audio_backbone, load_text_backbone, load_visual_backbone
from telme.columns import Encoder, fingerprint
from telme.conversation import LabelSet, Modality
from telme.distributed import barrier, is_main, join
from telme.encoders import AudioEncoder, TextEncoder, VisualEncoder
from telme.errors import TelMEError
from telme.evaluation import annotated, results
from telme.files import write_folder, write_whole
from telme.frozen import (
    assemble,
    checkpoints,
    columns,
    folders,
    inputs_of,
    labels_of,
    stage_facts,
    write_stage,
)
from telme.fusion import Fusion, build_fusion
from telme.inputs import read_inputs
from telme.metrics import IntArray, fit_temperature, weighted_f1
from telme.model import FUSION, TelMEProcessor
from telme.model_card import BACKBONES, CORPORA, model_card, source_of
from telme.objectives import Classification, Distillation, FusionObjective
from telme.prompt import Prompter
from telme.recipes import Fitting, Recipe
from telme.report import write_report
from telme.rows import EncoderRows, FusionRows
from telme.run import Run
from telme.store import Store
from telme.training import Metrics, fit

SELECTED_ON = "dev"


def train(
    recipe: Recipe, store: Store, out: str | Path, *, stage: str | None = None, stages: Path | None = None
) -> Run:
    """Runs the stages of a recipe that are not done yet, or one of them, and returns the run.

    Args:
        stage: A single stage, whose predecessors are done.
        stages: Folder that runs share what their stages make in; stages with the same inputs are then done once.

    Raises:
        TelMEError: The store has labels that the recipe has not, or no voices or faces for it; a backbone cannot be
            loaded; the folder holds another experiment; an earlier stage is missing; or the recipe has no such stage.
    """
    join()
    recipe = replace(recipe, labels=recipe.labels or store.labels.labels)
    if stage not in (None, "teach") and not recipe.students:
        raise TelMEError(f"stage {stage!r}: recipe {recipe.name!r} reads {recipe.teacher} alone; its stage is teach")
    _check_store(recipe, store)
    run = Run(out, recipe, store, stages=stages)
    if not run.is_finished:
        _check_backbones(run)
        for name in [stage] if stage else STAGES:
            STAGES[name](run)
        if all(folder.is_dir() for folder in folders(run).values()):
            _finish(run)
    if run.is_finished and run.owns_stages and is_main():
        shutil.rmtree(run.stages, ignore_errors=True)
    return run


def teach(run: Run) -> None:
    """Stage 1: fits the teacher's encoder on every annotated utterance that has its modality (Eq. 1-5)."""
    _fit_encoder(run, run.recipe.teacher, run.recipe.teach)


def distil(run: Run) -> None:
    """Stage 2: fits each student beside the frozen teacher (Eq. 6-15)."""
    for modality in run.recipe.students:
        assert run.recipe.distil is not None
        _fit_encoder(run, modality, run.recipe.distil)


def fuse(run: Run) -> None:
    """Stage 3: fits the fusion on the outputs of the frozen encoders (Eq. 16-19)."""
    recipe, folder = run.recipe, folders(run).get(FUSION)
    if folder is None or folder.is_dir():  # none: there is nobody to fuse
        return
    assert recipe.fuse is not None
    data, dev = (_fusion_rows(run, split) for split in ("train", SELECTED_ON))
    run.begin()
    set_seed(recipe.seed)
    fusion = build_fusion(recipe.fusion, classes=len(labels_of(run)))
    fitted = fit(
        FusionObjective(fusion, modality_dropout=recipe.modality_dropout, label_smoothing=recipe.fuse.label_smoothing),
        data,
        lengths=[1] * len(data),
        collate=FusionRows.batch,
        validate=lambda objective: _dev_metrics(dev.logits(_fusion_of(objective)), dev.labels.numpy()),
        fitting=recipe.fuse,
        seed=recipe.seed,
        folder=checkpoints(folder),
        title=FUSION,
    )
    logits, labelled = dev.logits(fusion), dev.labels.numpy() >= 0
    temperature = fit_temperature(logits.double().numpy()[labelled], dev.labels.numpy()[labelled])
    write_stage(folder, fusion, fitted, temperature=temperature)


STAGES: Mapping[str, Callable[[Run], None]] = {"teach": teach, "distil": distil, "fuse": fuse}  # in their order


def _fit_encoder(run: Run, modality: Modality, fitting: Fitting) -> None:
    recipe, folder = run.recipe, folders(run)[modality]
    if folder.is_dir():
        return
    teacher = None
    if modality != recipe.teacher and (recipe.distillation.alpha or recipe.distillation.beta):
        if not folders(run)[recipe.teacher].is_dir():
            raise TelMEError(f"{run.path}: the teacher is not trained yet; run --stage teach first")
        teacher = columns(run, recipe.teacher, "train")
    set_seed(recipe.seed)
    encoder, prompter = _untrained(run, modality)
    data, dev = (
        EncoderRows.of(
            inputs_of(run, modality, split, encoder, prompter),
            annotated(run.store, split, labels_of(run)),
            teacher=teacher if split == "train" else None,
        )
        for split in ("train", SELECTED_ON)
    )
    run.begin()
    objective = (
        Classification(encoder, label_smoothing=fitting.label_smoothing)
        if teacher is None
        else Distillation(encoder, **asdict(recipe.distillation), label_smoothing=fitting.label_smoothing)
    )
    fitted = fit(
        objective,
        data,
        lengths=data.lengths,
        collate=data.batch,
        validate=lambda objective: _dev_metrics(dev.logits(_encoder_of(objective)), dev.labels),
        fitting=fitting,
        seed=recipe.seed,
        folder=checkpoints(folder),
        title=_title(recipe, modality),
    )
    settings = None if isinstance(encoder, TextEncoder) else asdict(encoder.settings)
    write_stage(
        folder,
        encoder,
        fitted,
        temperature=fit_temperature(dev.logits(encoder).double().numpy(), dev.labels),
        fingerprint=fingerprint(encoder, prompter.facts() if prompter else settings),
        backbone=encoder.backbone.config.to_dict(),
        settings=settings,
        also=lambda path: prompter.tokenizer.save_pretrained(path) if prompter else None,
    )


_WHAT: Mapping[Modality, str] = {"text": "text", "audio": "a voice", "visual": "a face"}


def _fusion_rows(run: Run, split: str) -> FusionRows:
    return FusionRows.of(
        {modality: columns(run, modality, split) for modality in run.recipe.modalities},
        annotated(run.store, split, labels_of(run)),
        teacher=run.recipe.teacher,
        whole_dialogues=run.recipe.fusion.attend == "dialogue",
    )


def _dev_metrics(logits: Tensor, labels: IntArray) -> Metrics:
    """Loss and weighted F1 on the split that the epoch is selected on."""
    labelled = labels >= 0
    return {
        "dev_loss": float(F.cross_entropy(logits, torch.from_numpy(labels))),
        "dev_weighted_f1": weighted_f1(labels[labelled], logits.argmax(dim=1).numpy()[labelled]),
    }


def _encoder_of(objective: nn.Module) -> Encoder:
    assert isinstance(objective, Classification | Distillation)
    encoder = objective.encoder
    assert isinstance(encoder, TextEncoder | AudioEncoder | VisualEncoder)
    return encoder


def _fusion_of(objective: nn.Module) -> Fusion:
    assert isinstance(objective, FusionObjective)
    assert isinstance(objective.fusion, Fusion)
    return objective.fusion


def _untrained(run: Run, modality: Modality) -> tuple[Encoder, Prompter | None]:
    """The recipe's encoder with its pretrained backbone and a fresh head."""
    recipe, classes = run.recipe, len(labels_of(run))
    match modality:
        case "text":
            backbone, tokenizer = load_text_backbone(
                recipe.text.backbone,
                overrides=recipe.text.overrides,
                prompt=recipe.text.prompt,
                transcripts=[turn.text for conversation in run.store.conversations("train") for turn in conversation],
            )
            return TextEncoder(backbone, classes=classes), Prompter(tokenizer, recipe.text.prompt)
        case "audio":
            assert recipe.audio is not None
            backbone, voice = load_audio_backbone(recipe.audio.backbone, overrides=recipe.audio.overrides)
            voice = replace(voice, pooling=recipe.audio.pooling)
            return AudioEncoder(backbone, classes=classes, settings=voice), None
        case "visual":
            assert recipe.visual is not None
            backbone, face = load_visual_backbone(recipe.visual.backbone, overrides=recipe.visual.overrides)
            return VisualEncoder(backbone, classes=classes, settings=face), None


def _title(recipe: Recipe, name: str) -> str:
    """What a stage's folder is called where people read it."""
    if name == FUSION:
        return name
    return f"{name} teacher" if name == recipe.teacher else f"{name} student"


def _check_store(recipe: Recipe, store: Store) -> None:
    assert recipe.labels is not None
    unknown = [label for label in store.labels if label not in recipe.labels]
    if unknown:
        raise TelMEError(
            f"{store.path}: label {unknown[0]!r} is not one of recipe {recipe.name!r}: {', '.join(recipe.labels)}"
        )
    for split in ("train", SELECTED_ON):
        rows = annotated(store, split, LabelSet(store.labels.name, recipe.labels)).rows
        for modality in recipe.modalities:
            if modality != "text" and not read_inputs(modality, store, split).present[rows].any():
                raise _nothing_to_read(store, split, modality)


def _check_backbones(run: Run) -> None:
    """Refuses a backbone that cannot be loaded before the first stage is begun, not after hours of training."""
    for modality in run.recipe.modalities:
        if not folders(run)[modality].is_dir():
            _untrained(run, modality)


def _nothing_to_read(store: Store, split: str, modality: Modality) -> TelMEError:
    return TelMEError(
        f"{store.path}: no annotated utterance of {split!r} has {_WHAT[modality]}; "
        f"train a preset that reads the rest, such as mini, or prepare the corpus with its clips"
    )


def _finish(run: Run) -> None:
    """Puts the model together, evaluates it, and writes the report and, last, the results."""
    recipe, store = run.recipe, run.store
    run.begin()
    facts = {name: stage_facts(folder) for name, folder in folders(run).items()}
    model, prompter = assemble(
        run, {name: fact["temperature"] for name, fact in facts.items()}, selected_on=SELECTED_ON
    )
    evaluations = []
    for split in store.splits:
        if split != "train":
            encoded = {modality: columns(run, modality, split) for modality in recipe.modalities}
            data = annotated(store, split, model.config.labels)
            evaluations.append(results(model, encoded, data, store=store, split=split, name=recipe.name).to_dict())
    numbers: dict[str, Any] = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "store": store.name,
        "selected_on": SELECTED_ON,
        "stages": {name: fact["fitted"] for name, fact in facts.items()},
        "results": evaluations,
    }

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        TelMEProcessor(prompter.tokenizer, asdict(recipe.text.prompt)).save_pretrained(folder)
        write_whole(folder / "recipe.json", recipe.to_json())
        write_whole(folder / "README.md", _card(recipe, store, evaluations))

    if is_main():
        write_folder(run.model, fill)
        write_report(
            run.path / "report.html",
            title=f"TelME {recipe.name} on {store.manifest.corpus}",
            recipe=asdict(recipe),
            environment=run.environment,
            histories={_title(recipe, name): fact["fitted"]["history"] for name, fact in facts.items()},
            results=evaluations,
        )
        run.finish(numbers)
    barrier()


def _card(recipe: Recipe, store: Store, evaluations: list[dict[str, Any]]) -> str:
    return model_card(
        name=f"telme-{recipe.name}",
        license=None,
        languages=[],
        bases={
            modality: source_of(getattr(recipe, modality).backbone, BACKBONES, f"The pretrained {modality} encoder.")
            for modality in recipe.modalities
        },
        corpus=source_of(store.manifest.corpus, CORPORA, "The corpus it was trained on."),
        recipe=asdict(recipe),
        results=evaluations,
    )
