"""Any family loads from a folder; speakers start apart; what cannot work is refused; a scratch backbone learns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, LINES
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    CamembertConfig,
    Data2VecAudioConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TimesformerConfig,
    VideoMAEConfig,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from telme.backbones import (
    SCRATCH,
    FaceSettings,
    VoiceSettings,
    load_audio_backbone,
    load_text_backbone,
    load_visual_backbone,
)
from telme.collate import pad_waveforms, stack_frames
from telme.encoders import AudioEncoder, Encoded, VisualEncoder
from telme.errors import TelMEError
from telme.prompt import Prompter, PromptSettings

SETTINGS = PromptSettings(max_length=48)
TRANSCRIPTS = [line for lines in LINES.values() for line in lines]


def load(
    source: str, *, settings: PromptSettings = SETTINGS, overrides: dict[str, Any] | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    torch.manual_seed(0)
    return load_text_backbone(source, overrides=overrides or {}, prompt=settings, transcripts=TRANSCRIPTS)


def refusal(source: str, *, settings: PromptSettings = SETTINGS, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(TelMEError) as caught:
        load(source, settings=settings, overrides=overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def embeddings(backbone: PreTrainedModel) -> Tensor:
    weight = backbone.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight.detach()


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, backbone_folder: dict[str, str]) -> str:
    return backbone_folder[request.param]


class TestSpeakerEmbeddings:
    # transformers 5 puts all new embeddings on the mean of the old ones, unless told otherwise.
    def test_are_drawn_like_new_weights_and_apart_from_each_other(self, folder: str) -> None:
        backbone, tokenizer = load(folder)
        weights = embeddings(backbone)
        speakers = weights[Prompter(tokenizer, SETTINGS).speaker_ids]
        assert speakers.std() == pytest.approx(backbone.config.initializer_range, rel=0.3)
        middle = weights[: len(weights) - len(speakers)].mean(dim=0, keepdim=True)
        candidates = F.normalize(torch.cat([speakers, middle]))
        cosines = candidates @ candidates.T
        assert cosines.fill_diagonal_(0).max() < 0.9

    def test_leave_all_other_weights_as_they_were(self, folder: str) -> None:
        old, new = AutoModel.from_pretrained(folder).state_dict(), load(folder)[0].state_dict()
        assert old.keys() == new.keys()
        assert sum(len(new[name]) - len(old[name]) for name in old if old[name].dim()) == SETTINGS.speakers
        assert all(torch.equal(old[name], new[name][: len(old[name])]) for name in old if old[name].dim())

    def test_of_a_saved_backbone_are_kept(self, folder: str, tmp_path: Path) -> None:
        backbone, tokenizer = load(folder)
        backbone.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        again, tokenizer_again = load(str(tmp_path))
        assert len(tokenizer_again) == len(tokenizer)
        assert torch.equal(embeddings(again), embeddings(backbone))


def test_half_precision_weights_are_loaded_as_float32(folder: str, tmp_path: Path) -> None:
    AutoModel.from_pretrained(folder).half().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load(str(tmp_path))[0].parameters()} == {torch.float32}


class TestOverrides:
    def test_take_effect(self, folder: str) -> None:
        assert load(folder)[0].config.num_hidden_layers == 2
        backbone, _ = load(folder, overrides={"num_hidden_layers": 1, "initializer_range": 0.5})
        assert backbone.config.num_hidden_layers == 1
        assert not [name for name, _ in backbone.named_parameters() if "layer.1." in name or "h.1." in name]
        assert embeddings(backbone)[-SETTINGS.speakers :].std() > 0.3

    def test_reach_the_dropout_of_the_layers(self, backbone_folder: dict[str, str]) -> None:
        backbone, _ = load(backbone_folder["bert"], overrides={"hidden_dropout_prob": 0.25})
        assert {module.p for module in backbone.modules() if isinstance(module, nn.Dropout)} >= {0.25}

    def test_apply_to_a_new_backbone_too(self) -> None:
        assert load(SCRATCH, overrides={"num_hidden_layers": 1})[0].config.num_hidden_layers == 1

    @pytest.mark.parametrize("name", ["dropuot", "save_pretrained"])
    def test_that_name_no_field_are_refused(self, name: str, backbone_folder: dict[str, str]) -> None:
        assert refusal(backbone_folder["bert"], overrides={name: 1}).startswith(f"override {name!r}: ")

    def test_that_do_not_fit_the_weights_are_refused(self, backbone_folder: dict[str, str]) -> None:
        assert backbone_folder["bert"] in refusal(backbone_folder["bert"], overrides={"hidden_size": 8})


class TestLengthLimit:
    def test_is_exactly_what_the_model_reads(self, folder: str) -> None:
        self.check(folder)

    # These also count positions from the padding token's on, and are not called RoBERTa.
    @pytest.mark.parametrize("kind", [CamembertConfig, MPNetConfig])
    def test_of_relatives_of_roberta(
        self, kind: type[CamembertConfig | MPNetConfig], backbone_folder: dict[str, str], tmp_path: Path
    ) -> None:
        tokenizer = AutoTokenizer.from_pretrained(backbone_folder["roberta"])
        config = kind(
            vocab_size=len(tokenizer),
            max_position_embeddings=66,
            pad_token_id=1,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
        AutoModel.from_config(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        self.check(str(tmp_path))

    def check(self, folder: str) -> None:
        backbone, _ = load(folder, settings=PromptSettings(max_length=64))
        assert backbone(torch.full((1, 64), 7)).last_hidden_state.shape == (1, 64, 16)
        message = refusal(folder, settings=PromptSettings(max_length=65))
        assert message == f"prompt.max_length is 65; {folder} reads at most 64 tokens"

    def test_holds_for_an_override_of_it(self) -> None:
        message = refusal(SCRATCH, overrides={"max_position_embeddings": 40})
        assert message == "prompt.max_length is 48; scratch reads at most 40 tokens"

    def test_of_a_new_backbone_is_the_recipes(self) -> None:
        backbone, _ = load(SCRATCH, settings=PromptSettings(max_length=100))
        assert backbone(torch.full((1, 100), 7)).last_hidden_state.shape[1] == 100


def test_a_new_vocabulary_is_the_same_in_every_process() -> None:
    # Every pair of letters is equally frequent, so that any order but the texts' own would show.
    transcripts = [f"{a}{b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "zyxwvutsrqponmlkjihgfedcba"]
    script = f"""
import json
from telme.backbones import load_text_backbone
from telme.prompt import PromptSettings
transcripts = json.loads({json.dumps(transcripts)!r})
_, tokenizer = load_text_backbone("scratch", overrides={{}}, prompt=PromptSettings(), transcripts=transcripts)
print(json.dumps(sorted(tokenizer.get_vocab().items())))
"""
    here = load_text_backbone(SCRATCH, overrides={}, prompt=PromptSettings(), transcripts=transcripts)[1].get_vocab()
    assert len(here) > 600
    # Another process hashes strings differently.
    there = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    ).stdout
    assert dict(json.loads(there)) == here


class TestWhatCannotBeLoaded:
    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        assert "no such folder" in refusal(str(tmp_path / "nowhere"))

    def test_a_folder_that_holds_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
        assert "not a model folder" in refusal(str(tmp_path))

    @pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_a_folder_that_lacks_a_file(self, missing: str, backbone_folder: dict[str, str], tmp_path: Path) -> None:
        copy = shutil.copytree(backbone_folder["bert"], tmp_path / "copy")
        (copy / missing).unlink()
        assert str(copy) in refusal(str(copy))


VOICE = Data2VecAudioConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7, vocab_size=5
)
FACE = TimesformerConfig(
    image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
)


def write_folder(config: PreTrainedConfig, folder: Path, preprocessor: dict[str, Any] | None = None) -> str:
    AutoModel.from_config(config).half().save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return str(folder)


class TestAudioBackbone:
    @pytest.mark.parametrize(
        ("preprocessor", "normalize"), [(None, True), ({}, True), ({"do_normalize": False}, False)]
    )
    def test_comes_in_float32_with_its_settings(
        self, preprocessor: dict[str, Any] | None, normalize: bool, tmp_path: Path
    ) -> None:
        backbone, settings = load_audio_backbone(write_folder(VOICE, tmp_path, preprocessor), overrides={})
        assert settings == VoiceSettings(normalize=normalize, pooling="mean")
        assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}

    def test_of_a_model_with_a_head_is_its_body(self, tmp_path: Path) -> None:
        config = Wav2Vec2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7
        )
        whole = Wav2Vec2ForCTC(config)
        whole.save_pretrained(tmp_path)
        backbone, _ = load_audio_backbone(str(tmp_path), overrides={})
        torch.testing.assert_close(backbone.state_dict(), whole.wav2vec2.state_dict())

    def test_is_changed_by_overrides(self, tmp_path: Path) -> None:
        overrides = {"mask_time_length": 7, "layerdrop": 0.0}
        backbone, _ = load_audio_backbone(write_folder(VOICE, tmp_path), overrides=overrides)
        assert (backbone.config.mask_time_length, backbone.config.layerdrop) == (7, 0.0)


class TestVisualBackbone:
    @pytest.mark.parametrize("config", [FACE, VideoMAEConfig(**{**FACE.to_dict(), "model_type": "videomae"})])
    def test_comes_in_float32_with_its_settings(self, config: PreTrainedConfig, tmp_path: Path) -> None:
        colours = {"image_mean": [0.45, 0.5, 0.55], "image_std": [0.225, 0.25, 0.275], "do_resize": True}
        backbone, settings = load_visual_backbone(write_folder(config, tmp_path, colours), overrides={})
        assert settings == FaceSettings(mean=(0.45, 0.5, 0.55), std=(0.225, 0.25, 0.275))
        assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}

    def test_without_a_preprocessor_takes_imagenets_colours(self, tmp_path: Path) -> None:
        assert load_visual_backbone(write_folder(FACE, tmp_path), overrides={})[1] == FaceSettings()


@pytest.mark.parametrize(
    ("load_modality", "modality"), [(load_audio_backbone, "audio"), (load_visual_backbone, "visual")]
)
class TestWhatIsNoVoiceOrFace:
    def test_is_refused_by_its_family(self, load_modality: Any, modality: str, tmp_path: Path) -> None:
        folder = write_folder(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2), tmp_path)
        message = self.refusal(load_modality, folder)
        assert message.startswith(f"{modality} backbone {folder!r} is a bert model; valid families: ")

    def test_is_refused_where_nothing_is(self, load_modality: Any, modality: str, tmp_path: Path) -> None:
        message = self.refusal(load_modality, str(tmp_path / "nowhere"))
        assert f"--{modality}-backbone FOLDER (no such folder" in message

    def test_is_refused_without_weights(self, load_modality: Any, modality: str, tmp_path: Path) -> None:
        folder = write_folder({"audio": VOICE, "visual": FACE}[modality], tmp_path)
        (tmp_path / "model.safetensors").unlink()
        assert "its weights are missing or damaged" in self.refusal(load_modality, folder)

    def test_is_refused_with_a_broken_preprocessor(self, load_modality: Any, modality: str, tmp_path: Path) -> None:
        folder = write_folder({"audio": VOICE, "visual": FACE}[modality], tmp_path)
        (tmp_path / "preprocessor_config.json").write_text("{", encoding="utf-8")
        assert "preprocessor_config.json" in self.refusal(load_modality, folder)

    def test_is_refused_with_an_override_of_no_field(self, load_modality: Any, modality: str) -> None:
        assert modality
        assert self.refusal(load_modality, SCRATCH, dropuot=1) == (
            "override 'dropuot': the configuration of scratch has no such field"
        )

    def refusal(self, load_modality: Any, source: str, **overrides: Any) -> str:
        with pytest.raises(TelMEError) as caught:
            load_modality(source, overrides=overrides)
        assert "\n" not in str(caught.value)
        return str(caught.value)


class TestScratch:
    """Learns what can be heard and seen in seconds, so that a demonstration on a laptop shows something."""

    def test_voice_learns_pitch(self) -> None:
        torch.manual_seed(0)
        backbone, settings = load_audio_backbone(SCRATCH, overrides={})
        self.check(AudioEncoder(backbone, classes=3, settings=settings), pad_waveforms, self.voice)

    def test_face_learns_where_the_light_is(self) -> None:
        torch.manual_seed(0)
        backbone, settings = load_visual_backbone(SCRATCH, overrides={})
        self.check(VisualEncoder(backbone, classes=3, settings=settings), stack_frames, self.face)

    def test_voice_has_a_gentle_gradient_in_silence(self) -> None:
        torch.manual_seed(0)
        backbone, settings = load_audio_backbone(SCRATCH, overrides={})
        encoder = AudioEncoder(backbone, classes=3, settings=settings)
        encoder(**pad_waveforms([np.zeros(4000, np.float32)])).logits.logsumexp(dim=1).sum().backward()
        assert 0 < nn.utils.clip_grad_norm_(encoder.parameters(), 1.0) < 1e3

    def check(self, encoder: nn.Module, collate: Any, example: Any) -> None:
        rng = np.random.default_rng(0)
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
        for _ in range(30):
            labels = rng.integers(0, 3, 16)
            encoded: Encoded = encoder.train()(**collate([example(rng, label) for label in labels]))
            F.cross_entropy(encoded.logits, torch.from_numpy(labels)).backward()
            optimizer.step()
            optimizer.zero_grad()
        labels = rng.integers(0, 3, 60)
        with torch.inference_mode():
            predicted = encoder.eval()(**collate([example(rng, label) for label in labels])).logits.argmax(dim=1)
        assert (predicted.numpy() == labels).mean() > 0.8

    def voice(self, rng: np.random.Generator, label: int) -> Any:
        time = np.arange(rng.integers(6_000, 12_000)) / 16_000
        hertz = (120, 200, 330)[label] * rng.uniform(0.9, 1.1)
        tone = sum(np.sin(2 * np.pi * hertz * overtone * time) / overtone for overtone in range(1, 6))
        return (tone + 0.3 * rng.normal(size=len(time))).astype(np.float32)

    def face(self, rng: np.random.Generator, label: int) -> Any:
        frames = rng.integers(0, 100, (8, 48, 48, 3), dtype=np.uint8)
        frames[:, 16 * label : 16 * label + 16] += 100
        return frames
