"""What the stages of a run have made: encoders that are frozen from then on, their columns, and the fusion."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from telme.columns import Columns, Encoder, encode_split
from telme.conversation import LabelSet, Modality
from telme.distributed import barrier, is_main
from telme.encoders import AudioEncoder, FaceSettings, TextEncoder, VisualEncoder, VoiceSettings
from telme.errors import TelMEError
from telme.files import write_folder, write_json
from telme.inputs import Inputs, read_inputs
from telme.model import FUSION, TelMEConfig, TelMEModel
from telme.prompt import Prompter
from telme.run import Run
from telme.training import Fitted

WEIGHTS, FACTS = "model.safetensors", "stage.json"


def folders(run: Run) -> dict[str, Path]:
    """Folder of what each encoder and the fusion are kept in, by a name that tells all they depend on."""
    recipe = run.recipe
    common = {"labels": recipe.labels, "seed": recipe.seed}
    made: dict[str, Path] = {}

    def add(name: str, **facts: Any) -> None:
        made[name] = run.stage(name, {**common, **facts})

    def encoder(modality: Modality) -> dict[str, Any]:
        # What `scratch` learns its vocabulary from is the store's; whatever else it reads is in its own recipe.
        return asdict(getattr(recipe, modality))

    add(recipe.teacher, encoder=encoder(recipe.teacher), fitting=asdict(recipe.teach))
    for student in recipe.students:
        assert recipe.distil is not None
        learns_alone = recipe.distillation.alpha == recipe.distillation.beta == 0
        add(
            student,
            encoder=encoder(student),
            fitting=asdict(recipe.distil),
            distillation=None if learns_alone else asdict(recipe.distillation),
            teacher=None if learns_alone else made[recipe.teacher].name,
        )
    if recipe.students:
        assert recipe.fuse is not None
        add(
            FUSION,
            fusion=asdict(recipe.fusion),
            fitting=asdict(recipe.fuse),
            modality_dropout=recipe.modality_dropout,
            encoders=[made[modality].name for modality in recipe.modalities],
        )
    return made


def checkpoints(folder: Path) -> Path:
    """Where a stage keeps its checkpoints while it is fitted."""
    return folder.with_name(f"{folder.name}.checkpoints")


def labels_of(run: Run) -> LabelSet:
    """The emotions in the order of the logits."""
    assert run.recipe.labels is not None
    return LabelSet(run.store.labels.name, run.recipe.labels)


def write_stage(
    folder: Path,
    module: nn.Module,
    fitted: Fitted,
    *,
    also: Callable[[Path], object] = lambda _: None,
    **facts: Any,
) -> None:
    """Writes what a stage made, whole, and removes its checkpoints."""

    def fill(path: Path) -> None:
        save_file({name: tensor.contiguous().cpu() for name, tensor in module.state_dict().items()}, path / WEIGHTS)
        write_json(path / FACTS, {"fitted": asdict(fitted), **facts})
        also(path)

    if is_main():
        write_folder(folder, fill)
        shutil.rmtree(checkpoints(folder), ignore_errors=True)
    barrier()


def stage_facts(folder: Path) -> dict[str, Any]:
    """What is known of a stage: how it was fitted, its temperature, and what it takes to load it.

    Raises:
        TelMEError: The stage is not done yet.
    """
    if not folder.is_dir():
        raise TelMEError(f"{folder.parent.parent}: stage {folder.name.split('-')[0]!r} is not done yet; run all stages")
    facts: dict[str, Any] = json.loads((folder / FACTS).read_bytes())
    return facts


def load_encoder(run: Run, modality: Modality) -> tuple[Encoder, Prompter | None]:
    """The encoder that a stage made, and for text what writes its prompts."""
    recipe, folder = run.recipe, folders(run)[modality]
    config = AutoConfig.for_model(**stage_facts(folder)["backbone"])
    backbone, classes, settings = AutoModel.from_config(config), len(labels_of(run)), stage_facts(folder)["settings"]
    encoder: Encoder
    prompter = None
    match modality:
        case "text":
            encoder = TextEncoder(backbone, classes=classes)
            prompter = Prompter(AutoTokenizer.from_pretrained(folder), recipe.text.prompt)
        case "audio":
            encoder = AudioEncoder(backbone, classes=classes, settings=VoiceSettings(**settings))
        case "visual":
            encoder = VisualEncoder(backbone, classes=classes, settings=FaceSettings(**settings))
    encoder.load_state_dict(load_file(folder / WEIGHTS))
    return encoder.to("cuda" if torch.cuda.is_available() else "cpu"), prompter


def _open(run: Run, modality: Modality, split: str) -> tuple[Encoder, Inputs]:
    encoder, prompter = load_encoder(run, modality)
    return encoder, inputs_of(run, modality, split, encoder, prompter)


def inputs_of(run: Run, modality: Modality, split: str, encoder: Encoder, prompter: Prompter | None) -> Inputs:
    """What an encoder of the run reads of a split."""
    pad_id = encoder.pad_id if isinstance(encoder, TextEncoder) else None
    return read_inputs(modality, run.store, split, prompter=prompter, pad_id=pad_id)


def columns(run: Run, modality: Modality, split: str) -> Columns:
    """The frozen encoder's outputs for a split, computed on first use (the annotation that follows a stage)."""
    folder = folders(run)[modality]
    return encode_split(
        lambda: _open(run, modality, split),
        key=f"{modality}-{stage_facts(folder)['fingerprint']}",
        store=run.store,
        split=split,
        classes=len(labels_of(run)),
        title=f"{modality} of {split}",
    )


def assemble(run: Run, temperatures: Mapping[str, float], *, selected_on: str) -> tuple[TelMEModel, Prompter]:
    """The run's model, of what its stages made.

    Args:
        temperatures: By head.
        selected_on: The split that epochs and temperatures were chosen on.
    """
    recipe = run.recipe
    loaded = {modality: load_encoder(run, modality) for modality in recipe.modalities}
    prompter = loaded["text"][1]
    assert prompter is not None
    # Attention across a batch is for training by the released code alone: a prediction has no neighbours.
    fusion = replace(recipe.fusion, attend="utterance") if recipe.fusion.attend == "batch" else recipe.fusion
    config = TelMEConfig.of(
        labels_of(run),
        encoders={modality: encoder for modality, (encoder, _) in loaded.items()},
        prompt=recipe.text.prompt,
        fusion=fusion if recipe.students else None,
        teacher=recipe.teacher,
        temperatures=temperatures,
        seed=recipe.seed,
        selected_on=selected_on,
    )
    model = TelMEModel(config)
    for modality, (encoder, _) in loaded.items():
        model.encoder(modality).load_state_dict(encoder.state_dict())
    if model.fusion is not None:
        model.fusion.load_state_dict(load_file(folders(run)[FUSION] / WEIGHTS))
    return model, prompter
