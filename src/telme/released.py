"""The authors' published weights, in our model folder; and their evaluation, repeated with all that is wrong in it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from telme.columns import Encoder
from telme.compat import ReleasedPrompter, ReleasedVoices, add_released_tokens
from telme.conversation import IEMOCAP, MELD, Conversation, LabelSet, Modality
from telme.encoders import AudioEncoder, Encoded, FaceSettings, TextEncoder, VisualEncoder, VoiceSettings
from telme.errors import TelMEError
from telme.evaluation import annotated
from telme.files import write_folder, write_whole
from telme.fusion import FusionSettings, build_fusion
from telme.inputs import read_inputs
from telme.metrics import Scores, score
from telme.model import FUSION, TelMEConfig, TelMEModel
from telme.prompt import Prompt, Prompter, PromptSettings
from telme.recipes import DATA2VEC, ROBERTA, TIMESFORMER, iemocap_released, meld_released
from telme.store import Store

BACKBONES: Mapping[str, str] = {"text": ROBERTA, "audio": DATA2VEC, "visual": TIMESFORMER}
BATCH_SIZE = 4  # of the released evaluation

FILES: Mapping[str, str] = {
    "text": "teacher.bin",
    "audio": "student_audio/total_student.bin",
    "visual": "student_video/total_student.bin",
    FUSION: "total_fusion.bin",
}
_STUDENT = {"model.": "backbone.", "W.": "classifier."}
_NAMES: Mapping[str, Mapping[str, str]] = {  # how their names begin -> how ours do
    "text": {"text_model.": "backbone.", "W.": "projection.", "classifier.": "classifier."},
    "audio": _STUDENT,
    "visual": _STUDENT,
    FUSION: {
        "multihead_attn.": "attention.",
        "AV_LayerNorm.": "attention_norm.",
        "W_hav.": "gate.",
        "W_av.": "displacement.",
        "LayerNorm.": "norm.",
        "W.": "classifier.",
    },
}
# Saved with the weights, yet no result depends on them.
_UNUSED = {
    "text_model.embeddings.position_ids",
    "text_model.pooler.dense.weight",
    "text_model.pooler.dense.bias",
    "model.masked_spec_embed",
}

State = dict[str, Tensor]


def import_released(folder: str | Path, out: str | Path, *, backbones: Mapping[str, str] = BACKBONES) -> TelMEModel:
    """Writes the authors' weights as a model folder; alone, an utterance gets the logits of the released code.

    The labels are theirs, in their order, which is alphabetical: seven are MELD's, six IEMOCAP's.

    Args:
        folder: Has FILES, which are read as weights only: no code in them is ever run.
        out: The model folder; an older model there is replaced.
        backbones: Folder or Hub id by modality, for the configurations and the tokenizer.

    Raises:
        TelMEError: A file is missing, holds anything but weights, or has other weights than it should; a backbone
            cannot be had; or `out` holds something else than a model.
    """
    out = Path(out)
    if out.exists() and not (out / "config.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise TelMEError(f"{out}: exists and is not a model; name a new or empty folder")
    states = {name: _read(Path(folder) / file) for name, file in FILES.items()}
    labels, fusion = _corpus(Path(folder) / FILES["text"], states["text"])
    tokenizer = _tokenizer(backbones["text"])
    encoders = _encoders(backbones, tokenizer, classes=len(labels))
    config = TelMEConfig.of(labels, encoders=encoders, prompt=PromptSettings(), fusion=fusion, compat="released")
    with torch.device("meta"):
        model = TelMEModel(config)
    modules: list[tuple[str, nn.Module]] = [*encoders.items(), (FUSION, build_fusion(fusion, classes=len(labels)))]
    for name, module in modules:
        _load(module, states[name], Path(folder) / FILES[name], _NAMES[name])
        setattr(model, name, module)

    def fill(path: Path) -> None:
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        write_whole(path / "README.md", _card(labels, backbones))

    out.parent.mkdir(parents=True, exist_ok=True)
    write_folder(out, fill)
    model.eval()
    return model


def evaluate_as_released(model: TelMEModel, prompter: Prompter, store: Store, split: str) -> Scores:
    """Scores by the authors' evaluation, in which an utterance's prediction depends on those that share its batch.

    Batches of four in the order of the store. The students' attention goes across the batch; voices are padded with
    zeros on the left and read at their first frame, so mostly in the padding. The speaker of a dialogue's first
    utterance is looked up among those of the dialogue before; on IEMOCAP every utterance is a speaker of its own, and
    the fusion takes the face first, though it was trained with the voice first. (Left padding of text changes nothing.)
    Where the released code would stop, at an utterance without voice or face, what it gives to a clip that lasts too
    long is read. The order of IEMOCAP's dialogues in the authors' tables is not repeated.

    Raises:
        TelMEError: The model is not of released weights, or the corpus is not where it was prepared.
    """
    if model.config.compat != "released" or not isinstance(prompter, ReleasedPrompter):
        raise TelMEError("--as-released is for models that telme import-released made; this one was trained by telme")
    assert model.audio is not None
    assert model.visual is not None
    data = annotated(store, split, model.config.labels)
    rows, is_iemocap = data.rows.tolist(), model.config.label_set == IEMOCAP.name
    batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
    prompts = _prompts(prompter, store.conversations(split), utterance_is_speaker=is_iemocap)
    voices = read_inputs("audio", store, split, compat="released")
    faces = read_inputs("visual", store, split, compat="released")
    assert isinstance(voices, ReleasedVoices)
    text = model.text.encode([prompts[row] for row in rows])
    audio, visual = voices.encode_batches(model.audio, batches), faces.encode(model.visual, rows)
    students = (visual, audio) if is_iemocap else (audio, visual)
    logits = fuse_batches(model, text, students)
    return score(logits.double().softmax(dim=1).numpy(), data.labels, data.conversations, model.config.labels.labels)


@torch.inference_mode()
def fuse_batches(model: TelMEModel, text: Encoded, students: Sequence[Encoded]) -> Tensor:
    """Logits (rows, classes) of the fusion with attention across each four rows, on the CPU."""
    assert model.fusion is not None
    across = replace(model.fusion.settings, attend="batch")
    fusion = build_fusion(across, classes=len(model.config.labels)).eval()
    fusion.load_state_dict(model.fusion.state_dict())
    both = torch.stack([student.embedding for student in students], dim=1)
    present = torch.ones(both.shape[:2], dtype=torch.bool)
    parts = zip(*(tensor.split(BATCH_SIZE) for tensor in (text.embedding, both, present)), strict=True)
    return torch.cat([fusion(*part).logits for part in parts])


def speaker_numbers(dialogues: Iterable[Sequence[str]]) -> list[list[int]]:
    """Numbers, from 1, that the released code gives the speakers of each utterance of each dialogue.

    It empties its list of speakers after the first utterance of a dialogue, not before it.
    """
    known: list[str] = []
    numbers: list[list[int]] = []
    for speakers in dialogues:
        of_dialogue = []
        for turn, speaker in enumerate(speakers):
            if speaker not in known:
                known.append(speaker)
            of_dialogue.append(known.index(speaker) + 1)
            if turn == 0 and numbers:
                known = []
        numbers.append(of_dialogue)
    return numbers


def comparison_table(well_defined: Mapping[str, Any], as_released: Mapping[str, Any]) -> Table:
    """The scores of both evaluations, records as `Scores.to_dict` makes them, side by side in percent."""
    table = Table(
        title="the same weights, scored in two ways",
        caption="well defined: an utterance and its conversation up to it decide its prediction, and nothing else\n"
        "as released: as published scores were made; batches of 4, in which the neighbours take part",
    )
    table.add_column("")
    table.add_column("well defined", justify="right")
    table.add_column("as released", justify="right")
    both = [
        {
            "weighted F1": scores["weighted_f1"],
            "95 % interval, from": scores["weighted_f1_interval"][0],
            "95 % interval, to": scores["weighted_f1_interval"][1],
            "accuracy": scores["accuracy"],
            **{f"F1 of {label}": f1 for label, f1 in scores["per_class"].items()},
        }
        for scores in (well_defined, as_released)
    ]
    for name in both[0]:
        table.add_row(name, *(f"{100 * scores[name]:.2f}" for scores in both))
    return table


def _read(file: Path) -> State:
    """The weights in a file, by name."""
    if not file.is_file():
        raise TelMEError(f"{file}: no such file; the released weights are {', '.join(FILES.values())} in one folder")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise TelMEError(f"{file}: damaged, or holds more than weights, such as code, which is never run") from error
    if not isinstance(state, dict) or not all(isinstance(weight, Tensor) for weight in state.values()):
        raise TelMEError(f"{file}: no weights by name; valid is what torch.save(model.state_dict(), FILE) writes")
    return state


def _corpus(file: Path, teacher: State) -> tuple[LabelSet, FusionSettings]:
    """The labels in the released order, and the settings of the fusion, by the teacher's number of classes."""
    classes = len(teacher["classifier.bias"]) if "classifier.bias" in teacher else 0
    corpora = {len(MELD): (MELD, meld_released()), len(IEMOCAP): (IEMOCAP, iemocap_released())}
    if classes not in corpora:
        raise TelMEError(f"{file}: classifier.bias has {classes} classes; valid are 7, of MELD, and 6, of IEMOCAP")
    labels, recipe = corpora[classes]
    return LabelSet(labels.name, tuple(sorted(labels))), replace(recipe.fusion, attend="utterance")


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _unusable("text", source, "its tokenizer cannot be loaded") from error
    add_released_tokens(tokenizer, PromptSettings())
    return tokenizer


def _encoders(
    backbones: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, *, classes: int
) -> dict[Modality, Encoder]:
    """Encoders of the released architecture, with random weights."""
    text = _config(backbones, "text", "roberta")
    audio, visual = _config(backbones, "audio", "data2vec-audio"), _config(backbones, "visual", "timesformer")
    text.vocab_size = len(tokenizer)
    voice = VoiceSettings(normalize=False, pooling="first")  # normalised where it is read, before it is cut
    return {
        "text": TextEncoder(AutoModel.from_config(text), classes=classes),
        "audio": AudioEncoder(AutoModel.from_config(audio), classes=classes, settings=voice),
        "visual": VisualEncoder(AutoModel.from_config(visual), classes=classes, settings=FaceSettings()),
    }


def _config(backbones: Mapping[str, str], modality: str, family: str) -> PreTrainedConfig:
    source = backbones[modality]
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _unusable(modality, source, "its configuration cannot be loaded") from error
    if config.model_type != family:
        raise _unusable(modality, source, f"it is a {config.model_type} model, the released one a {family} model")
    return config


def _unusable(modality: str, source: str, reason: str) -> TelMEError:
    return TelMEError(
        f"{modality} backbone {source!r}: {reason}; name a folder with the configuration of {BACKBONES[modality]} "
        f"with --{modality}-backbone FOLDER"
    )


def _load(module: nn.Module, state: State, file: Path, names: Mapping[str, str]) -> None:
    """Puts released weights into a module of ours; what only ours has, such as `absent`, stays as it is."""
    ours = module.state_dict()
    expected = {
        theirs + name.removeprefix(begin): name
        for name in ours
        for theirs, begin in names.items()
        if name.startswith(begin)
    }
    shared = expected.keys() & state.keys()
    differences = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys() - _UNUSED),
        "of another shape": sorted(name for name in shared if ours[expected[name]].shape != state[name].shape),
    }
    found = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in differences.items() if keys]
    if found:
        raise TelMEError(f"{file}: not the released weights for these backbones: {'; '.join(found)}")
    module.load_state_dict({expected[name]: state[name] for name in expected}, strict=False)


def _first(names: Sequence[str], *, most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _prompts(
    prompter: ReleasedPrompter, conversations: Iterable[Conversation], *, utterance_is_speaker: bool
) -> list[Prompt]:
    """Every utterance's prompt, with the speakers numbered as the released code does."""
    conversations = list(conversations)
    numbers = speaker_numbers(
        [str(turn.id) if utterance_is_speaker else turn.speaker for turn in conversation]
        for conversation in conversations
    )
    prompts = []
    for conversation, of_turns in zip(conversations, numbers, strict=True):
        turns = [(number, turn.text) for number, turn in zip(of_turns, conversation, strict=True)]
        prompts += [prompter.write(turns[: place + 1]) for place in range(len(turns))]
    return prompts


def _card(labels: LabelSet, backbones: Mapping[str, str]) -> str:
    bases = "\n".join(f"- {modality}: {source}" for modality, source in backbones.items())
    return (
        "---\nlibrary_name: telme\npipeline_tag: text-classification\n---\n\n"
        f"# TelME, released weights for {labels.name}\n\n"
        "Weights that the authors of [TelME](https://arxiv.org/abs/2401.12987) published, imported by\n"
        "`telme import-released`; they come without a licence. The model reads recordings as the authors' code does,\n"
        f"for its weights were trained on that. Labels, in this order: {', '.join(labels)}.\n\n"
        f"Configurations and tokenizer are those of\n\n{bases}\n"
    )
