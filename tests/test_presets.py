"""Every preset takes two steps a stage, with random weights of its own families where it starts from pretrained ones.

All else is as the preset has it, but for the number of epochs. The weights come from folders, as `save_pretrained`
writes them and as `--text-backbone` and its like name them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LOOKS
from recordings import record
from transformers import AutoModel, AutoTokenizer, BertConfig, RobertaConfig

import telme.training
from telme.backbones import load_audio_backbone, load_visual_backbone
from telme.cli import main
from telme.conversation import IEMOCAP, MELD, Conversation, LabelSet, Utterance
from telme.corpora import Corpus
from telme.media import Source
from telme.prepare import prepare
from telme.recipes import PRESETS, Fitting, Recipe
from telme.store import Store

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def folders(backbone_folder: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder in place of each pretrained model that a preset names."""
    torch.manual_seed(0)
    made = {}
    configs = {"roberta": RobertaConfig, "bert": BertConfig}
    for name, family in (("FacebookAI/roberta-large", "roberta"), ("sentence-transformers/all-MiniLM-L6-v2", "bert")):
        tokenizer = AutoTokenizer.from_pretrained(backbone_folder[family])
        config = configs[family](
            vocab_size=len(tokenizer), max_position_embeddings=514, pad_token_id=tokenizer.pad_token_id, **SMALL
        )
        made[name] = str(tmp_path_factory.mktemp(family))
        AutoModel.from_config(config).save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    voice, face = load_audio_backbone("scratch", overrides={})[0], load_visual_backbone("scratch", overrides={})[0]
    assert (voice.config.model_type, face.config.model_type) == ("data2vec-audio", "timesformer")
    for name, backbone, preprocessor in (
        ("facebook/data2vec-audio-base-960h", voice, {"do_normalize": True}),
        ("facebook/timesformer-base-finetuned-k400", face, {"image_mean": [0.45] * 3, "image_std": [0.225] * 3}),
    ):
        made[name] = str(tmp_path_factory.mktemp(backbone.config.model_type))
        backbone.save_pretrained(made[name])
        Path(made[name], "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Eight utterances a split, in two conversations, with a clip each and every label of the corpus."""
    folder = tmp_path_factory.mktemp("clips")
    for mood, (tone, colour) in LOOKS.items():
        record(folder / f"{mood}.mp4", seconds=0.3, tone=tone, colours=[colour], size=(64, 48), frame_rate=16)
    return {labels.name: _store(labels, folder, tmp_path_factory.mktemp("stores")) for labels in (MELD, IEMOCAP)}


def _store(labels: LabelSet, clips: Path, folder: Path) -> Store:
    splits = {
        split: tuple(
            Conversation(
                f"{split}/dia{dialogue}",
                tuple(
                    Utterance(
                        "Ann" if turn % 2 else "Bob",
                        f"I am {label}",
                        label=label,
                        id=f"{split}/dia{dialogue}_utt{turn}",
                    )
                    for turn, label in enumerate((labels.labels * 2)[4 * dialogue : 4 * dialogue + 4])
                ),
            )
            for dialogue in range(2)
        )
        for split in ("train", "dev", "test")
    }
    corpus = Corpus(
        name=labels.name,
        root=str(clips),
        labels=labels,
        splits=splits,
        sizes={},
        recordings={},
        clips={},
        repairs=(),
        sources={
            str(turn.id): Source(file=str(clips / f"{mood}.mp4"))
            for conversations in splits.values()
            for conversation in conversations
            for turn, mood in zip(conversation, (*LOOKS, "calm"), strict=True)
        },
    )
    return prepare(corpus, folder / "store", workers=1)


def an_epoch_of_two(fitting: Fitting) -> Fitting:
    return replace(
        fitting,
        epochs=1,
        batch_size=4,
        warmup_epochs=min(1.0, fitting.warmup_epochs),
        schedule_epochs=fitting.schedule_epochs and fitting.schedule_epochs / fitting.epochs,
    )


def shortened(recipe: Recipe) -> Recipe:
    stages = {"teach": recipe.teach, "distil": recipe.distil, "fuse": recipe.fuse}
    shorter: dict[str, Any] = {name: fitting and an_epoch_of_two(fitting) for name, fitting in stages.items()}
    return replace(recipe, **shorter)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_two_steps(
    preset: str,
    folders: dict[str, str],
    stores: dict[str, Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = shortened(PRESETS[preset]())
    (tmp_path / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    options = []
    for modality in recipe.modalities:
        backbone = getattr(recipe, modality).backbone
        options += [] if backbone == "scratch" else [f"--{modality}-backbone", folders[backbone]]
    steps: list[int] = []
    fit = telme.training._Averaging.forward

    def counting(self: Any, **batch: Any) -> Any:
        steps.append(len(batch["labels"]))
        return fit(self, **batch)

    monkeypatch.setattr(telme.training._Averaging, "forward", counting)
    store = stores["iemocap" if preset.startswith("iemocap") else "meld"]
    command = ["train", tmp_path / "recipe.json", "--store", store.path, "--out", tmp_path / "run", *options]
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in command])
    assert end.value.code == 0
    stages = [*recipe.modalities, "fusion"] if recipe.students else ["text"]
    assert steps == [4, 4] * len(stages)
    results = json.loads((tmp_path / "run" / "results.json").read_bytes())
    assert list(results["stages"]) == stages
    assert [record["utterances"] for record in results["results"]] == [8, 8]
    weights = AutoModel.from_pretrained(tmp_path / "run" / "model").state_dict()
    assert all(weight.isfinite().all() for weight in weights.values() if weight.is_floating_point())
