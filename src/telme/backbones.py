"""A name in a recipe -> a Hugging Face backbone and its tokenizer: from a folder, from the Hub, or from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from telme.errors import TelMEError
from telme.prompt import PromptSettings, add_speaker_tokens

SCRATCH = "scratch"  # the name of a small text backbone that needs no pretrained weights

_VOCABULARY = 4_000
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


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
        tokenizer, backbone = _pretrained(source, overrides)
    limit = longest_input(backbone)
    if limit is not None and prompt.max_length > limit:
        raise TelMEError(f"prompt.max_length is {prompt.max_length}; {source} reads at most {limit} tokens")
    add_speaker_tokens(tokenizer, prompt)
    if len(tokenizer) > backbone.get_input_embeddings().weight.shape[0]:
        # Not the mean of the old embeddings, which would put all speakers on one point; drawn like any new weight.
        backbone.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return backbone, tokenizer


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
        setattr(config, name, value)
    return config


def _pretrained(
    source: str, overrides: Mapping[str, bool | int | float | str]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    unusable = f"text backbone {source!r} cannot be loaded; name a whole model folder with --text-backbone FOLDER"
    try:
        tokenizer, config = AutoTokenizer.from_pretrained(source), AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        place = (
            "it is not a model folder" if Path(source).exists() else "no such folder, and not to be had from the Hub"
        )
        raise TelMEError(f"{unusable} ({place})") from error
    config = _override(config, overrides, source)
    try:
        return tokenizer, AutoModel.from_pretrained(source, config=config, dtype="float32")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        changed = f", or do not fit the overrides {', '.join(overrides)}" if overrides else ""
        raise TelMEError(f"{unusable} (its weights are missing or damaged{changed})") from error


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
