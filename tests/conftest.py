"""Small things that many tests need: backbones of several families, a corpus and a trained model, all made offline."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from recordings import record
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    BertConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

import telme.stages
from telme.conversation import Conversation, LabelSet, Utterance
from telme.corpora.corpus import Corpus
from telme.fusion import FusionSettings
from telme.media import Source
from telme.prepare import prepare
from telme.prompt import PromptSettings
from telme.recipes import SHORT_MASKS, AudioRecipe, Fitting, Recipe, TextRecipe, VisualRecipe
from telme.run import Run
from telme.stages import train
from telme.store import Store

torch.set_num_threads(1)  # the models are so small that threads would only wait for each other

LABELS = LabelSet("mood", ("calm", "glad", "cross"))
LINES = {
    "calm": ("the report is on the desk", "we meet at noon", "it is a table", "the bus leaves at nine"),
    "glad": ("what a lovely day", "that is wonderful news", "I love it", "we won, we won"),
    "cross": ("leave me alone", "this is terrible", "I hate waiting", "who broke my cup"),
}
SPEAKERS = ("Ann", "Bob", "Cy")
LOOKS = {"calm": (220.0, "blue"), "glad": (660.0, "green"), "cross": (1760.0, "red")}  # tone in hertz, and colour
# The keys of a results record that users may rely on, in their order.
RESULT_KEYS = (
    "split",
    "utterances",
    "weighted_f1",
    "weighted_f1_interval",
    "macro_f1",
    "per_class",
    "confusion",
    "selected_on",
    "seed",
    "model",
    "store",
)
FAMILIES = ("bert", "roberta", "xlm-roberta", "gpt2")

_SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def pytest_collection_finish() -> None:
    """Spares the garbage collections at the end of every fit to look through all that was imported, 0.4 s each."""
    gc.freeze()


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder for each of FAMILIES, with random weights and a real tokenizer, as the Hub would give it."""
    return {family: str(_write_backbone(family, tmp_path_factory.mktemp(family))) for family in FAMILIES}


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    """Conversations whose words tell the emotion: 24 to train on, 8 for dev, 8 for test, of 1 to 6 turns."""
    splits = {
        split: tuple(_conversation(f"{split}/dia{number}", number + offset) for number in range(size))
        for split, size, offset in (("train", 24, 0), ("dev", 8, 100), ("test", 8, 200))
    }
    return Corpus(
        name="moods", root="nowhere", labels=LABELS, splits=splits, sizes={}, recordings={}, clips={}, repairs=()
    )


@pytest.fixture(scope="session")
def store(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The corpus as a store."""
    return prepare(corpus, tmp_path_factory.mktemp("stores") / "moods")


@pytest.fixture(scope="session")
def voiced(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The corpus with voices and faces that tell the emotion, too; the first utterance of each split lacks them."""
    folder = tmp_path_factory.mktemp("clips")
    for mood, (tone, colour) in LOOKS.items():
        record(folder / f"{mood}.mp4", seconds=0.5, tone=tone, colours=[colour], size=(96, 64), frame_rate=16)
    sources = {str(turn.id): Source(file=str(folder / f"{turn.label}.mp4")) for turn in corpus.utterances}
    for conversations in corpus.splits.values():
        sources[str(conversations[0].utterances[0].id)] = Source(file=str(folder / "none.mp4"))
    return replace(corpus, root=str(folder), sources=sources)


@pytest.fixture(scope="session")
def voiced_store(voiced: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The corpus with voices and faces as a store."""
    return prepare(voiced, tmp_path_factory.mktemp("stores") / "voiced", workers=2)


@pytest.fixture(scope="session")
def media_corpus(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A part of the corpus, of 24, 11 and 12 utterances, each with a clip of its own whose length is its own too.

    Some clips have no voice or no face, every tenth utterance has no clip, and one clip of each split is missing.
    """
    folder = tmp_path_factory.mktemp("media")
    splits = {split: corpus.splits[split][:size] for split, size in (("train", 8), ("dev", 2), ("test", 3))}
    sources = {}
    for split, conversations in splits.items():
        turns = [turn for conversation in conversations for turn in conversation]
        for number, turn in enumerate(turns):
            tone, colour = LOOKS[str(turn.label)]
            clip = folder / split / f"{number}.mp4"
            clip.parent.mkdir(exist_ok=True)
            if number % 10 != 5:
                sources[str(turn.id)] = Source(file=str(clip))
            if number:
                record(
                    clip,
                    seconds=0.2 + number % 4 / 8,
                    tone=None if number % 6 == 2 else tone,
                    colours=None if number % 6 == 4 else [colour, "blue"],
                    size=(96, 64),
                    frame_rate=16,
                )
    return replace(corpus, name="media", root=str(folder), splits=splits, sources=sources)


@pytest.fixture(scope="session")
def media_store(media_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The corpus with clips as a store."""
    return prepare(media_corpus, tmp_path_factory.mktemp("stores") / "media", workers=1)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Seconds on a CPU, with everything switched on that a recipe can switch on."""
    return Recipe(
        name="moods",
        labels=LABELS.labels,
        text=TextRecipe(backbone="scratch", prompt=PromptSettings(max_length=48)),
        teach=Fitting(
            epochs=3,
            batch_size=4,
            learning_rate=3e-3,
            layer_decay=0.9,
            head_learning_rate=5e-3,
            warmup_epochs=0.5,
            label_smoothing=0.1,
            weight_average=0.9,
        ),
        seed=3,
    )


@pytest.fixture(scope="session")
def media_recipe() -> Recipe:
    """All three modalities and stages, in seconds on a CPU."""
    return Recipe(
        name="media",
        text=TextRecipe(backbone="scratch", prompt=PromptSettings(max_length=48)),
        audio=AudioRecipe(backbone="scratch", overrides=SHORT_MASKS),
        visual=VisualRecipe(backbone="scratch"),
        teach=Fitting(epochs=3, batch_size=8, learning_rate=3e-3, warmup_epochs=0.5),
        distil=Fitting(epochs=2, batch_size=8, learning_rate=3e-3, warmup_epochs=0.5),
        fuse=Fitting(epochs=2, batch_size=8, learning_rate=1e-3, warmup_epochs=0.5, weight_average=0.5),
        fusion=FusionSettings(heads=4),
        modality_dropout=0.2,
        seed=3,
    )


@pytest.fixture(scope="session")
def media_run(media_recipe: Recipe, media_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run over all modalities."""
    return train(media_recipe, media_store, tmp_path_factory.mktemp("runs") / "media")


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures take longer than the stages of a test; other tests look at them."""
    monkeypatch.setattr(telme.stages, "write_report", lambda *_, **__: None)


@pytest.fixture(scope="session")
def run(recipe: Recipe, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the recipe; its `model` is a folder that Recognizer.from_pretrained takes."""
    return train(recipe, store, tmp_path_factory.mktemp("runs") / "moods")


def _conversation(name: str, number: int) -> Conversation:
    moods = cycle(LABELS.labels[number % 3 :] + LABELS.labels[: number % 3])
    turns = 1 + number % 6
    return Conversation(
        name,
        tuple(
            Utterance(
                speaker=SPEAKERS[(turn + number) % 3],
                text=LINES[mood][(turn * 7 + number) % 4],
                start=float(turn),
                end=turn + 0.9,
                label=mood,
                id=f"{name}_utt{turn}",
            )
            for turn, mood in zip(range(turns), moods, strict=False)
        ),
    )


def _write_backbone(family: str, folder: Path) -> Path:
    tokenizer = _byte_pair_tokenizer(family)
    torch.manual_seed(0)
    model = AutoModel.from_config(_config(family, tokenizer))
    # Random biases would be zero, and would hide a padded position that leaks.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    if family == "gpt2":
        return GPT2Config(
            vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, n_embd=16, n_layer=2, n_head=2, n_positions=64
        )
    roberta = {"roberta": RobertaConfig, "xlm-roberta": XLMRobertaConfig}
    if family in roberta:
        return roberta[family](
            vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=tokenizer.pad_token_id, **_SMALL
        )
    return BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, **_SMALL
    )


def _byte_pair_tokenizer(family: str) -> PreTrainedTokenizerFast:
    special = {
        "bert": {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    }.get(
        family,
        {
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
            "cls_token": "<s>",
            "sep_token": "</s>",
        },
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _lines() -> Iterator[str]:
    for lines in LINES.values():
        yield from (f" {line}" for line in lines)
    yield " Now feels"
