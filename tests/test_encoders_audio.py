"""A clip's embedding, and the gradient it gives, are those of the clip alone: no padding and no neighbour in them."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, Data2VecAudioConfig, Data2VecAudioModel, PreTrainedModel

from telme.backbones import AUDIO_FAMILIES
from telme.collate import pad_waveforms
from telme.encoders import EMBEDDING_SIZE, AudioEncoder, Encoded, VoiceSettings

Waveform = NDArray[np.float32]

CLASSES = 3
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 8, 5),
    "conv_stride": (8, 8, 5),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "mask_time_length": 3,
    "do_stable_layer_norm": False,
}
NO_RANDOMNESS = dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "mask_time_prob"), 0.0
)
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}  # as the -large models are
KINDS: dict[str, dict[str, Any]] = {
    **{family: {"num_conv_pos_embeddings": 16} for family in AUDIO_FAMILIES},
    "data2vec-audio": {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19},
    "hubert with BatchNorm": {"num_conv_pos_embeddings": 16, "conv_pos_batch_norm": True},
    **{f"{family} large": {"num_conv_pos_embeddings": 15, **LARGE} for family in AUDIO_FAMILIES[1:]},
}


def make_backbone(kind: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    family = kind.partition(" ")[0]
    backbone: PreTrainedModel = AutoModel.from_config(
        AutoConfig.for_model(family, **{**SMALL, **KINDS[kind], **changes})
    )
    # Biases that are zero, as they are drawn, would hide a padded position that leaks.
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone


def make_encoder(kind: str, settings: VoiceSettings, **changes: Any) -> AudioEncoder:
    return AudioEncoder(make_backbone(kind, **changes), classes=CLASSES, settings=settings)


def noise(samples: int, *, seed: int) -> Waveform:
    """Loud or soft noise beside zero, so that normalising matters."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=samples) * rng.uniform(0.1, 3) + rng.uniform(-1, 1)).astype(np.float32)


def alone(encoder: AudioEncoder, waveforms: Sequence[Waveform]) -> Encoded:
    """The definition: transformers' own model, with the same weights, reads each clip without padding or mask."""
    backbone = AutoModel.from_config(encoder.backbone.config).eval()  # the same as training, without randomness
    named: dict[str, Tensor] = dict(encoder.backbone.named_parameters())
    read = []
    for waveform in waveforms:
        samples = torch.from_numpy(waveform)
        if encoder.settings.normalize:
            samples = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
        hidden = torch.func.functional_call(backbone, named, (samples[None],)).last_hidden_state
        embedding = encoder.projection(hidden[:, 0] if encoder.settings.pooling == "first" else hidden.mean(dim=1))
        read.append(Encoded(embedding, encoder.classifier(embedding)))
    return Encoded(*(torch.cat(parts) for parts in zip(*read, strict=True)))


def gradients(encoder: AudioEncoder, encoded: Encoded) -> dict[str, Tensor]:
    """Of every weight, for a loss that weighs every class of every row differently."""
    weights = torch.linspace(-1, 1, encoded.logits.numel()).view_as(encoded.logits)
    named = dict(encoder.named_parameters())
    found = torch.autograd.grad((encoded.logits * weights).sum(), list(named.values()))
    return dict(zip(named, found, strict=True))


def assert_close(actual: Encoded, expected: Encoded) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("normalize", [True, False])
def test_values_and_gradients_are_those_of_each_clip_alone(
    kind: str, normalize: bool, pooling: Literal["mean", "first"], training: bool
) -> None:
    encoder = make_encoder(kind, VoiceSettings(normalize=normalize, pooling=pooling), **NO_RANDOMNESS).train(training)
    clips = [noise(samples, seed=samples) for samples in (4000, 9000, 4321, 6007)]
    inputs = pad_waveforms(clips)
    inputs["waveforms"] += ~(torch.arange(9000) < inputs["samples"][:, None]) * 7.0  # whatever the padding holds
    encoded, expected = encoder(**inputs), alone(encoder, clips)
    assert_close(encoded, expected)
    actual = gradients(encoder, encoded)
    for name, gradient in gradients(encoder, expected).items():
        scale = gradient.abs().max().clamp(min=1)
        close = torch.allclose(actual[name] / scale, gradient / scale, atol=1e-5, rtol=0)
        assert close, f"gradient of {name}"


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 12_000), min_size=1, max_size=5), budget=st.integers(1, 50_000))
def test_encode_returns_each_clip_alone_in_the_callers_order(kind: str, lengths: list[int], budget: int) -> None:
    encoder = make_encoder(kind, VoiceSettings())
    clips = [noise(samples, seed=row) for row, samples in enumerate(lengths)]
    encoded = encoder.encode(clips, samples_per_batch=budget)
    assert encoded.embedding.shape == (len(clips), EMBEDDING_SIZE)
    assert encoded.embedding.dtype == encoded.logits.dtype == torch.float32
    # What is shorter than 0.25 s stands for itself with silence behind it.
    with torch.inference_mode():
        assert_close(encoded, alone(encoder, [np.pad(clip, (0, max(0, 4000 - len(clip)))) for clip in clips]))


def test_encode_does_not_read_everything_first() -> None:
    lengths = list(range(4000, 6000, 100))
    read: list[int] = []
    read_when_computed: list[int] = []

    class Lazy(Sequence[Waveform]):
        """Clips that are decoded when they are asked for."""

        def __len__(self) -> int:
            return len(lengths)

        def __getitem__(self, row: Any) -> Any:
            read.append(row)
            return noise(lengths[row], seed=row)

    encoder = make_encoder("data2vec-audio", VoiceSettings())
    encoder.classifier.register_forward_hook(lambda *_: read_when_computed.append(len(read)))
    encoder.encode(Lazy(), samples=lengths, samples_per_batch=1)
    assert set(read) == set(range(20))
    assert read_when_computed[0] <= 6  # two batches of one clip, and what beartype looks at as it checks arguments
    assert len(read) <= 20 + 6


class GatheringError(Exception):
    """Stops a rank where it would wait for the others."""


@pytest.mark.parametrize("count", [7, 1])  # one clip leaves a rank without work
def test_ranks_share_the_batches_and_each_gets_all(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder("data2vec-audio", VoiceSettings())
    clips = [noise(4000 + 137 * row, seed=row) for row in range(count)]
    expected = encoder.encode(clips, samples_per_batch=9000)
    gathered: list[Any] = []

    def stop(parts: Any) -> None:
        gathered.append(parts)
        raise GatheringError

    shared = "telme.encoders.encoder"
    monkeypatch.setattr(f"{shared}.world_size", lambda: 2)
    monkeypatch.setattr(f"{shared}.gather_objects", stop)
    for rank in (0, 1):
        monkeypatch.setattr(f"{shared}.rank", lambda rank=rank: rank)
        with pytest.raises(GatheringError):
            encoder.encode(clips, samples_per_batch=9000)
    assert [len(parts) for parts in gathered] == [(count + 2) // 3, count // 3]  # 5 batches, or 1
    monkeypatch.setattr(f"{shared}.gather_objects", lambda _: gathered)
    assert_close(encoder.encode(clips, samples_per_batch=9000), expected)


def test_a_copy_keeps_padding_out_of_its_own_batches() -> None:
    encoder = make_encoder("wav2vec2", VoiceSettings()).eval()
    twin = copy.deepcopy(encoder)
    with torch.inference_mode():
        encoder(**pad_waveforms([noise(5000, seed=0), noise(4000, seed=1)]))
        clips = [noise(4000, seed=2), noise(9000, seed=3)]
        assert_close(twin(**pad_waveforms(clips)), alone(twin, clips))


def test_checkpointed_gradients_are_the_same() -> None:
    encoder = make_encoder("wav2vec2", VoiceSettings(), **NO_RANDOMNESS).train()
    inputs = pad_waveforms([noise(4000, seed=0), noise(9000, seed=1)])
    expected = gradients(encoder, encoder(**inputs))
    encoder.backbone.activation_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(gradients(encoder, encoder(**inputs)), expected, atol=1e-5, rtol=1e-5)


class TestSpecAugment:
    randomness: ClassVar[dict[str, Any]] = {**NO_RANDOMNESS, "mask_time_prob": 0.3}

    def test_is_drawn_from_numpys_generator_in_training_alone(self, kind: str) -> None:
        encoder = make_encoder(kind, VoiceSettings(), **self.randomness)
        inputs = pad_waveforms([noise(9000, seed=0), noise(7000, seed=1)])
        with torch.no_grad():
            drawn = [self.seeded(encoder.train(), inputs, seed=seed) for seed in (1, 1, 2)]
            plain = [self.seeded(encoder.eval(), inputs, seed=seed) for seed in (1, 2)]
        assert torch.equal(drawn[0], drawn[1])
        assert (drawn[0] - drawn[2]).abs().max() > 1e-3
        assert torch.equal(plain[0], plain[1])

    def test_spares_a_clip_that_is_shorter_than_one_mask(self, kind: str) -> None:
        encoder = make_encoder(kind, VoiceSettings(), **self.randomness, mask_time_length=20)
        short, long = noise(4000, seed=0), noise(12_000, seed=1)  # 12 and 37 frames
        with torch.no_grad():
            expected = alone(encoder, [short, long]).embedding
            for clips in ([short], [short, long]):
                embedding = encoder.train()(**pad_waveforms(clips)).embedding
                torch.testing.assert_close(embedding[0], expected[0], atol=1e-5, rtol=1e-5)
        assert (embedding[1] - expected[1]).abs().max() > 1e-3

    def seeded(self, encoder: AudioEncoder, inputs: dict[str, Tensor], *, seed: int) -> Tensor:
        np.random.seed(seed)
        embedding: Tensor = encoder(**inputs).embedding
        return embedding


@pytest.mark.parametrize("mask_time_prob", [0.0, 0.3])
def test_every_weight_learns(kind: str, mask_time_prob: float) -> None:
    masked_features = {"mask_feature_prob": 0.1, "mask_feature_min_masks": 0}
    encoder = make_encoder(kind, VoiceSettings(), mask_time_prob=mask_time_prob, **masked_features).train()
    encoder(**pad_waveforms([noise(4000, seed=0), noise(9000, seed=1)])).logits.logsumexp(dim=1).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_a_backbone_of_the_embeddings_size_is_not_projected() -> None:
    assert not list(make_encoder("hubert", VoiceSettings(), hidden_size=768).projection.parameters())
    assert make_encoder("hubert", VoiceSettings(), hidden_size=64).projection.weight.shape == (768, 64)


def test_values_of_the_released_encoder() -> None:
    if "TELME_PARITY" not in os.environ:
        pytest.skip("TELME_PARITY does not name a folder of recorded values")
    folder = Path(os.environ["TELME_PARITY"])
    recorded = load_file(folder / "audio.safetensors")
    config = Data2VecAudioConfig(**json.loads((folder / "configs.json").read_bytes())["audio"])
    weights = {name.removeprefix("state_dict."): tensor for name, tensor in recorded.items() if "state_dict." in name}
    encoder = AudioEncoder(
        Data2VecAudioModel(config), classes=7, settings=VoiceSettings(normalize=False, pooling="first")
    ).eval()
    encoder.projection = nn.Identity()  # the recorded model is small, and reads its classes off 48 numbers
    encoder.classifier = nn.Linear(48, len(weights["W.bias"]))
    encoder.backbone.load_state_dict({name.removeprefix("model."): weights[name] for name in weights if name[0] == "m"})
    encoder.classifier.load_state_dict({name: weights[f"W.{name}"] for name in ("weight", "bias")})
    clips = [recorded[f"clip{number}"] for number in range(3)]
    samples = torch.tensor([len(clip) for clip in clips])
    with torch.inference_mode():
        encoded = encoder(nn.utils.rnn.pad_sequence(clips, batch_first=True), samples)
    torch.testing.assert_close(encoded.embedding, recorded["embedding_alone"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.logits, recorded["logits_alone"], atol=1e-5, rtol=0)
