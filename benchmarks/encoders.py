"""Times the audio and the visual encoder against the other ways to the same numbers, side by side, as Markdown.

    python benchmarks/encoders.py --device cuda
    python benchmarks/encoders.py --device cpu --clips 4 --only norm

Weights are random: they do not change the time. Lengths of clips are drawn like MELD's (mean 3.1 s, 0.25 to 25 s).
Every way is run once per round, in turn, so that a busy machine slows all of them; the table shows medians.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, Data2VecAudioConfig, PreTrainedConfig, TimesformerConfig, Wav2Vec2Config
from transformers.models.timesformer.modeling_timesformer import TimesformerLayer, TimesformerSelfAttention

from telme.collate import LengthGroupedBatches, batches_by_size, pad_waveforms
from telme.encoders import AudioEncoder, Encoded, FaceSettings, VisualEncoder, VoiceSettings
from telme.encoders.audio import SAMPLES_PER_BATCH, Lengths, SpeechNorm
from telme.encoders.visual import FusedSelfAttention

Batch = dict[str, Tensor]
Run = Callable[[], object]

ROUNDS = 5
TRAINING_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, default=12, help="of the backbones, which are of base size otherwise")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--only", choices=("norm", "audio", "visual"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device, layers, clips = torch.device(arguments.device), arguments.layers, arguments.clips
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{hardware}, PyTorch {torch.__version__}, {layers} layers, {clips} clips.")
    print("Inference in float32; training in bfloat16 on a GPU, in float32 on a CPU.\n")
    waveforms = [
        np.random.default_rng(seed).normal(size=samples).astype(np.float32)
        for seed, samples in enumerate(meld_like_samples(clips))
    ]
    if arguments.only in (None, "norm"):
        time_norm(meld_like_samples(min(clips, 16)), device)
    if arguments.only in (None, "audio"):
        for config in (Data2VecAudioConfig, Wav2Vec2Config):
            time_audio(config(num_hidden_layers=layers, layerdrop=0.0), waveforms, device)
    if arguments.only in (None, "visual"):
        time_visual(TimesformerConfig(num_hidden_layers=layers), min(clips, 64), device)


def meld_like_samples(clips: int) -> list[int]:
    """Samples of clips whose length is distributed like that of MELD's utterances."""
    seconds = np.random.default_rng(0).gamma(1.45, 2.15, clips).clip(0.25, 25)
    return [int(16_000 * second) for second in seconds]


def time_norm(samples: list[int], device: torch.device) -> None:
    """wav2vec2's GroupNorm over one batch: of each row's speech, by masked sums, and over the padding too."""
    lengths = Lengths([10], [5])
    lengths.samples = torch.tensor(samples, device=device)
    norm = SpeechNorm(nn.GroupNorm(512, 512, device=device), lengths)
    hidden = torch.randn(len(samples), 512, int(lengths.after().max()), device=device)

    def infer_norm() -> None:
        with torch.inference_mode():
            norm(hidden)

    def learn_norm() -> None:
        norm(hidden.clone().requires_grad_()).square().sum().backward()

    for what, run in (("inference", infer_norm), ("training", learn_norm)):
        ways: dict[str, Run] = {
            "ours": run,
            "masked sums": masked_sums(run),
            "transformers' (not exact)": patched(run, nn.GroupNorm.forward),
        }
        compare(f"GroupNorm, {what}", ways, device)


def time_audio(config: PreTrainedConfig, waveforms: list[np.ndarray], device: torch.device) -> None:
    """A pass over all clips: padded as transformers pads, each clip alone, and ours."""
    encoder = AudioEncoder(AutoModel.from_config(config), classes=7, settings=VoiceSettings()).to(device)
    with mock.patch("telme.encoders.audio._keep_padding_out"):
        leaking = AudioEncoder(AutoModel.from_config(config), classes=7, settings=VoiceSettings()).to(device)
    lengths = [len(waveform) for waveform in waveforms]

    def collate(batches: list[list[int]]) -> list[Batch]:
        return [to(device, pad_waveforms([waveforms[row] for row in batch])) for batch in batches]

    single = collate([[row] for row in range(len(waveforms))])
    for what, run, batched in (
        ("inference", infer, collate(batches_by_size(lengths, budget=SAMPLES_PER_BATCH))),
        ("training", learn, collate(list(LengthGroupedBatches(lengths, batch_size=TRAINING_BATCH, seed=0)))),
    ):
        ways: dict[str, Run] = {
            "ours": partial(run, encoder, batched),
            "transformers' mask alone (not exact)": partial(run, leaking, batched),
            "one clip at a time": partial(run, encoder, single),
        }
        if what == "inference" and device.type == "cuda":
            ways["convolutions in TF32 (1e-3 from exact)"] = partial(infer, encoder, batched, tf32=True)
        if config.model_type == "wav2vec2":
            ways["masked sums in GroupNorm"] = masked_sums(partial(run, encoder, batched))
        compare(f"{config.model_type}, {what}", ways, device)


def time_visual(config: PreTrainedConfig, clips: int, device: torch.device) -> None:
    """A pass over all clips with transformers' attention, with ours, and with ours over space only."""
    encoder = VisualEncoder(AutoModel.from_config(config), classes=7, settings=FaceSettings()).to(device)
    frames = torch.randint(0, 256, (min(clips, 8), 8, 224, 224, 3), dtype=torch.uint8, device=device)
    batches = [{"frames": frames}] * max(1, clips // 8)
    for what, run in (("inference", infer), ("training", learn)):
        ways: dict[str, Run] = {
            "ours": partial(run, encoder, batches),
            "transformers' attention": unfused(encoder, partial(run, encoder, batches), over_space=True),
            "ours over space, transformers' over time": unfused(
                encoder, partial(run, encoder, batches), over_space=False
            ),
        }
        compare(f"{config.model_type}, {what}", ways, device)


def infer(encoder: nn.Module, batches: list[Batch], *, tf32: bool = False) -> None:
    encoder.eval()
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
        for batch in batches:
            encoder(**batch)


def learn(encoder: nn.Module, batches: list[Batch]) -> None:
    encoder.train()
    for batch in batches:
        device = next(iter(batch.values())).device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):  # as Trainer does
            encoded: Encoded = encoder(**batch)
        encoded.logits.float().square().sum().backward()
        encoder.zero_grad()


def masked_sums(run: Run) -> Run:
    """The run with GroupNorm's statistics as sums over masked tensors."""

    def forward(norm: SpeechNorm, hidden: Tensor) -> Tensor:
        steps = norm._lengths.after(1)[:, None, None]
        padding = torch.arange(hidden.shape[2], device=hidden.device) >= steps
        centred = hidden - hidden.masked_fill(padding, 0).sum(dim=2, keepdim=True) / steps
        variance = centred.masked_fill(padding, 0).square().sum(dim=2, keepdim=True) / steps
        return centred * (variance + norm.eps).rsqrt() * norm.weight[:, None] + norm.bias[:, None]

    return patched(run, forward)


def patched(run: Run, forward: Callable[[SpeechNorm, Tensor], Tensor]) -> Run:
    """The run with another way to normalise."""

    def with_forward() -> None:
        with mock.patch.object(SpeechNorm, "forward", forward):
            run()

    return with_forward


def unfused(encoder: VisualEncoder, run: Run, *, over_space: bool) -> Run:
    """The run with transformers' attention over time, and over space too if asked for."""

    def with_attention() -> None:
        layers = [module for module in encoder.modules() if isinstance(module, TimesformerLayer)]
        attentions = [layer.temporal_attention.attention for layer in layers]
        attentions += [layer.attention.attention for layer in layers if over_space]
        for attention in attentions:
            attention.__class__ = TimesformerSelfAttention
        run()
        for attention in attentions:
            attention.__class__ = FusedSelfAttention

    return with_attention


def compare(title: str, ways: dict[str, Run], device: torch.device) -> None:
    """Prints the median time of each way and its ratio to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(ROUNDS + 1):
        for name, run in ways.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            if round_number:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    print(f"| {title} | seconds | ratio |\n| --- | --- | --- |")
    ours = median(next(iter(seconds.values())))
    for name, times in seconds.items():
        print(f"| {name} | {median(times):.3f} | {median(times) / ours:.2f} |")
    print(flush=True)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def to(device: torch.device, batch: Batch) -> Batch:
    return {name: tensor.to(device) for name, tensor in batch.items()}


if __name__ == "__main__":
    main()
