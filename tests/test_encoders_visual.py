"""A clip of any size and length becomes what the video model expects, and is read as transformers would."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    PreTrainedConfig,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
)

from telme.collate import stack_frames
from telme.encoders import EMBEDDING_SIZE, FaceSettings, VisualEncoder

CLASSES = 3
SMALL: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TIMESFORMERS = {
    "timesformer": TimesformerConfig(num_frames=8, **SMALL),
    "timesformer, joint": TimesformerConfig(num_frames=8, attention_type="joint_space_time", **SMALL),
}
KINDS: dict[str, PreTrainedConfig] = {
    **TIMESFORMERS,
    "videomae": VideoMAEConfig(num_frames=16, use_mean_pooling=True, **SMALL),
    "videomae, pretrained only": VideoMAEConfig(num_frames=16, use_mean_pooling=False, **SMALL),
}


def make_encoder(config: PreTrainedConfig, settings: FaceSettings | None = None) -> VisualEncoder:
    torch.manual_seed(0)
    backbone = AutoModel.from_config(config)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return VisualEncoder(backbone, classes=CLASSES, settings=settings or FaceSettings()).eval()


def clip(seed: int, *, size: tuple[int, int] = (32, 32)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (8, *size, 3), dtype=np.uint8)


def pixels(*clips: NDArray[np.uint8]) -> Tensor:
    """The clips as a model of 8 frames and their size takes them, with ImageNet's colours."""
    colours = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3) / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    values: Tensor = (colours - mean) / std
    return values


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest) -> VisualEncoder:
    return make_encoder(KINDS[request.param])


def test_encode_returns_each_clip_alone_in_the_callers_order(encoder: VisualEncoder) -> None:
    clips = [clip(seed) for seed in range(5)]
    encoded = encoder.encode(clips, clips_per_batch=2)
    assert encoded.embedding.shape == (5, EMBEDDING_SIZE)
    assert encoded.logits.shape == (5, CLASSES)
    with torch.inference_mode():
        for row, frames in enumerate(clips):
            alone = encoder(**stack_frames([frames]))
            torch.testing.assert_close(encoded.embedding[row], alone.embedding[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(encoded.logits[row], alone.logits[0], atol=1e-5, rtol=1e-5)


def test_every_weight_learns(encoder: VisualEncoder) -> None:
    encoder.train()(**stack_frames([clip(0), clip(1)])).logits.logsumexp(dim=1).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_what_is_read_is_the_class_token_or_else_the_mean() -> None:
    for kind, config in KINDS.items():
        encoder = make_encoder(config)
        values = torch.randn(2, config.num_frames, 3, 32, 32)
        with torch.inference_mode():
            hidden = encoder.backbone(values).last_hidden_state
            expected = encoder.projection(hidden.mean(dim=1) if "videomae" in kind else hidden[:, 0])
            assert torch.equal(encoder.read(values).embedding, expected)


@pytest.mark.parametrize("kind", TIMESFORMERS)
def test_attention_is_that_of_transformers(kind: str) -> None:
    encoder = make_encoder(TIMESFORMERS[kind])
    reference = TimesformerModel(TIMESFORMERS[kind]).eval()
    reference.load_state_dict(encoder.backbone.state_dict())  # under the same names
    values = torch.randn(2, 8, 3, 32, 32)
    ours, theirs = encoder.backbone(values).last_hidden_state, reference(values).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(-1, 1, ours.numel()).view_as(ours)
    gradients = torch.autograd.grad((ours * weights).sum(), list(encoder.backbone.parameters()))
    expected = torch.autograd.grad((theirs * weights).sum(), list(reference.parameters()))
    for (name, _), gradient, other in zip(reference.named_parameters(), gradients, expected, strict=True):
        scale = other.abs().max().clamp(min=1)
        assert torch.allclose(gradient / scale, other / scale, atol=1e-5, rtol=0), name


def test_attention_drops_out_in_training_alone() -> None:
    config = TimesformerConfig(attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0, **SMALL)
    encoder, values = make_encoder(config), torch.randn(1, 8, 3, 32, 32)
    with torch.no_grad():
        for training in (True, False):
            encoder.train(training)
            assert torch.equal(encoder.read(values).embedding, encoder.read(values).embedding) != training


def test_attention_weights_can_be_asked_for() -> None:
    encoder, values = make_encoder(KINDS["timesformer"]), torch.randn(1, 8, 3, 32, 32)
    attentions = encoder.backbone(values, output_attentions=True).attentions
    assert [attention.shape for attention in attentions] == [(8, 2, 17, 17)] * 2


class TestPixels:
    def test_are_normalised_as_the_settings_say(self) -> None:
        frames = torch.from_numpy(clip(0))[None]
        own = make_encoder(KINDS["timesformer"], FaceSettings(mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0)))
        with torch.inference_mode():
            imagenet = make_encoder(KINDS["timesformer"])
            torch.testing.assert_close(imagenet(frames), imagenet.read(pixels(clip(0))), atol=1e-5, rtol=1e-5)
            colours = frames.permute(0, 1, 4, 2, 3) / 255
            values = torch.stack([colours[:, :, 0] * 2 - 1, colours[:, :, 1] - 0.25, colours[:, :, 2] / 2], dim=2)
            torch.testing.assert_close(own(frames), own.read(values), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("size", [(64, 64), (224, 224), (48, 80), (16, 16)])
    def test_are_resized_without_aliasing(self, size: tuple[int, int]) -> None:
        encoder, frames = make_encoder(KINDS["timesformer"]), clip(0, size=size)
        resized = F.interpolate(pixels(frames)[0], size=(32, 32), mode="bilinear", antialias=True)[None]
        two_shades = 2 / 255 / min(encoder.settings.std)
        torch.testing.assert_close(encoder._pixels(**stack_frames([frames])), resized, atol=two_shades, rtol=0)

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (16, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
            (8, [0, 1, 2, 3, 4, 5, 6, 7]),
            (4, [1, 3, 5, 7]),
            (12, [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7]),
        ],
    )
    def test_repeat_frames_evenly(self, wanted: int, expected: list[int]) -> None:
        encoder = make_encoder(VideoMAEConfig(num_frames=wanted, **SMALL))
        with torch.inference_mode():
            read = encoder.read(pixels(clip(0))[:, expected])
            torch.testing.assert_close(encoder(**stack_frames([clip(0)])), read, atol=1e-5, rtol=1e-5)


def test_values_of_the_released_encoder() -> None:
    if "TELME_PARITY" not in os.environ:
        pytest.skip("TELME_PARITY does not name a folder of recorded values")
    folder = Path(os.environ["TELME_PARITY"])
    recorded = load_file(folder / "visual.safetensors")
    config = TimesformerConfig(**json.loads((folder / "configs.json").read_bytes())["visual"])
    weights = {name.removeprefix("state_dict."): tensor for name, tensor in recorded.items() if "state_dict." in name}
    encoder = VisualEncoder(TimesformerModel(config), classes=7, settings=FaceSettings()).eval()
    encoder.projection = nn.Identity()  # the recorded model is small, and reads its classes off 48 numbers
    encoder.classifier = nn.Linear(48, len(weights["W.bias"]))
    encoder.backbone.load_state_dict({name.removeprefix("model."): weights[name] for name in weights if name[0] == "m"})
    encoder.classifier.load_state_dict({name: weights[f"W.{name}"] for name in ("weight", "bias")})
    with torch.inference_mode():
        encoded = encoder.read(recorded["pixel_values"])
    torch.testing.assert_close(encoded.embedding, recorded["embedding"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.logits, recorded["logits"], atol=1e-5, rtol=0)
