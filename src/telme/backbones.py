"""A name in a recipe -> a Hugging Face backbone and how to feed it: from a folder, from the Hub, or from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    Data2VecAudioConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    TimesformerConfig,
)
from transformers.utils.hub import cached_file

from telme.errors import TelMEError
from telme.prompt import PromptSettings, add_speaker_tokens
from telme.strict import parse_json

SCRATCH = "scratch"  # the name of a small backbone, of any modality, that needs no pretrained weights

# Families by their names in config.json. Those of a modality share the parts that the encoder reads or replaces.
AUDIO_FAMILIES = ("data2vec-audio", "wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
VISUAL_FAMILIES = ("timesformer", "videomae")

_VOCABULARY = 4_000
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceSettings:
    """How a waveform is given to an audio encoder, and how its frames are read.

    Args:
        normalize: Zero mean and unit variance of each utterance.
        pooling: `mean` over the utterance's frames, or its `first` frame, as the released weights were trained.
    """

    normalize: bool = True
    pooling: Literal["mean", "first"] = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceSettings:
    """How frames are given to a visual encoder: (colour / 255 - mean) / std for red, green, blue; ImageNet's values."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def load_text_backbone(
    source: str,
    *,
    overrides: Mapping[str, bool | int | float | str],
    prompt: PromptSettings,
    transcripts: Iterable[str],
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A backbone in float32 and its tokenizer, both with the speaker tokens.

    Args:
        source: Folder, Hub id, or `scratch`.
        overrides: Fields of the backbone's configuration to change.
        prompt: Says which speaker tokens are needed and how long the input may be.
        transcripts: Texts that `scratch` learns its vocabulary from.

    Raises:
        TelMEError: Nothing can be loaded from `source`, an override names no field, or the input is too long for it.
    """
    if source == SCRATCH:
        tokenizer = _learn_vocabulary(transcripts)
        backbone = AutoModel.from_config(_override(_scratch_config(tokenizer, prompt), overrides, source))
    else:
        tokenizer, backbone = _tokenizer(source), _pretrained("text", source, overrides)
    limit = longest_input(backbone)
    if limit is not None and prompt.max_length > limit:
        raise TelMEError(f"prompt.max_length is {prompt.max_length}; {source} reads at most {limit} tokens")
    add_speaker_tokens(tokenizer, prompt)
    if len(tokenizer) > backbone.get_input_embeddings().weight.shape[0]:
        # Not the mean of the old embeddings, which would put all speakers on one point; drawn like any new weight.
        backbone.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return backbone, tokenizer


def load_audio_backbone(
    source: str, *, overrides: Mapping[str, bool | int | float | str]
) -> tuple[PreTrainedModel, VoiceSettings]:
    """A speech model in float32 and what it expects of a waveform, by its `preprocessor_config.json`.

    Args:
        source: Folder, Hub id, or `scratch`.
        overrides: Fields of the backbone's configuration to change.

    Raises:
        TelMEError: Nothing can be loaded from `source`, it is of an unknown family, or an override names no field.
    """
    if source == SCRATCH:
        return AutoModel.from_config(_override(_scratch_voice(), overrides, source)), VoiceSettings()
    backbone = _pretrained("audio", source, overrides, families=AUDIO_FAMILIES)
    return backbone, VoiceSettings(normalize=_preprocessor(source).get("do_normalize", True))


def load_visual_backbone(
    source: str, *, overrides: Mapping[str, bool | int | float | str]
) -> tuple[PreTrainedModel, FaceSettings]:
    """A video model in float32 and the colours it expects, by its `preprocessor_config.json`.

    Args:
        source: Folder, Hub id, or `scratch`.
        overrides: Fields of the backbone's configuration to change.

    Raises:
        TelMEError: Nothing can be loaded from `source`, it is of an unknown family, or an override names no field.
    """
    if source == SCRATCH:
        return AutoModel.from_config(_override(_scratch_face(), overrides, source)), FaceSettings()
    backbone = _pretrained("visual", source, overrides, families=VISUAL_FAMILIES)
    fields = _preprocessor(source)
    colours = {name: tuple(fields[f"image_{name}"]) for name in ("mean", "std") if f"image_{name}" in fields}
    return backbone, FaceSettings(**colours)


def longest_input(backbone: PreTrainedModel) -> int | None:
    """Tokens that a backbone's position embeddings are enough for; None where its positions have no end."""
    positions: int | None = getattr(backbone.config, "max_position_embeddings", None)
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    # RoBERTa and its kin count positions from padding_idx + 1, and number the unused ones too.
    unused = 0 if table is None or table.padding_idx is None else table.padding_idx + 1
    return None if positions is None else positions - unused


def _override(
    config: PreTrainedConfig, overrides: Mapping[str, bool | int | float | str], source: str
) -> PreTrainedConfig:
    valid = {*config.to_dict(), *config.attribute_map}
    for name, value in overrides.items():
        if name not in valid:
            raise TelMEError(f"override {name!r}: the configuration of {source} has no such field")
        try:
            setattr(config, name, value)
        except StrictDataclassFieldValidationError as error:
            raise TelMEError(f"override {name!r} of {source}: {error.__cause__}") from error
    return config


def _pretrained(
    modality: str,
    source: str,
    overrides: Mapping[str, bool | int | float | str],
    *,
    families: Sequence[str] = (),
) -> PreTrainedModel:
    """The weights at `source`; `families` are the names that are valid, none where any is."""
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _unusable(modality, source) from error
    if families and config.model_type not in families:
        raise TelMEError(
            f"{modality} backbone {source!r} is a {config.model_type} model; valid families: {', '.join(families)}"
        )
    config = _override(config, overrides, source)
    try:
        backbone: PreTrainedModel = AutoModel.from_pretrained(source, config=config, dtype="float32")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        changed = f", or do not fit the overrides {', '.join(overrides)}" if overrides else ""
        raise _unusable(modality, source, f"its weights are missing or damaged{changed}") from error
    return backbone


def _unusable(modality: str, source: str, reason: str | None = None) -> TelMEError:
    place = "it is not a model folder" if Path(source).exists() else "no such folder, and not to be had from the Hub"
    return TelMEError(
        f"{modality} backbone {source!r} cannot be loaded; name a whole model folder with "
        f"--{modality}-backbone FOLDER ({reason or place})"
    )


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _unusable("text", source) from error
    return tokenizer


def _preprocessor(source: str) -> dict[str, Any]:
    """The fields of `preprocessor_config.json`; none where a folder lacks it."""
    file = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    return {} if file is None else parse_json(dict[str, Any], Path(file).read_bytes(), file)


def _learn_vocabulary(transcripts: Iterable[str]) -> PreTrainedTokenizerBase:
    """A lower-case byte-pair vocabulary; the trainer for WordPiece would give another one on every run."""
    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=list(_SPECIAL.values()), show_progress=False)
    tokenizer.train_from_iterator(transcripts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)


def _scratch_config(tokenizer: PreTrainedTokenizerBase, prompt: PromptSettings) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=prompt.max_length,
        pad_token_id=tokenizer.pad_token_id,
    )


def _scratch_voice() -> Data2VecAudioConfig:
    """A data2vec-audio of 0.2 M parameters, with 25 frames a second, half of what the real ones have."""
    return Data2VecAudioConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=(32, 32, 32, 32),
        conv_kernel=(40, 8, 8, 4),
        conv_stride=(20, 4, 4, 2),
        # Normalising a silent frame, all zeros without them, would multiply its gradient by 300 in every layer.
        conv_bias=True,
        conv_pos_kernel_size=9,
        num_conv_pos_embeddings=2,
        num_conv_pos_embedding_groups=4,
        mask_time_length=3,
        layerdrop=0.0,
    )


def _scratch_face() -> TimesformerConfig:
    """A TimeSformer of 0.2 M parameters that reads 32 x 32 pixels."""
    return TimesformerConfig(
        image_size=32,
        patch_size=8,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
    )
