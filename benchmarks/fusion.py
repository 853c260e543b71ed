"""Times an epoch of the fusion stage on cached columns against one with the encoders in the loop, as Markdown.

    python benchmarks/fusion.py
    python benchmarks/fusion.py --text-layers 2 --layers 1

The encoders have the paper's sizes and random weights: these do not change the time. Prompts are as long as MELD's in
context, waveforms 2.6 s on average. Both ways fit the same fusion on the same batches from the same seed, an epoch of
one after an epoch of the other, so that a busy machine slows both; at the end their scores must be equal.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, Data2VecAudioConfig, RobertaConfig, TimesformerConfig

from telme.encoders import AudioEncoder, FaceSettings, TextEncoder, VisualEncoder, VoiceSettings
from telme.fusion import FusionSettings, build_fusion
from telme.objectives import FusionObjective
from telme.prompt import Prompt

CLASSES = 7
BATCH = 4  # of recipe `meld`, as its other settings below
TOLERANCE = 1e-5

Columns = dict[str, Tensor]


class Encoders:
    """The three frozen encoders with their made-up utterances; calling it encodes some of these."""

    def __init__(self, utterances: int, *, text_layers: int, layers: int) -> None:
        random = np.random.default_rng(0)
        roberta = RobertaConfig(
            num_hidden_layers=text_layers,
            max_position_embeddings=514,
            hidden_size=1024,
            num_attention_heads=16,
            intermediate_size=4096,
        )
        self.text = TextEncoder(AutoModel.from_config(roberta), classes=CLASSES)
        data2vec = Data2VecAudioConfig(num_hidden_layers=layers)
        self.audio = AudioEncoder(AutoModel.from_config(data2vec), classes=CLASSES, settings=VoiceSettings())
        timesformer = TimesformerConfig(num_hidden_layers=layers)
        self.visual = VisualEncoder(AutoModel.from_config(timesformer), classes=CLASSES, settings=FaceSettings())
        lengths = random.integers(30, 228, utterances)  # 129 tokens on average
        self.prompts = [Prompt(random.integers(10, 50_000, n).tolist(), int(n) - 1) for n in lengths]
        samples = random.uniform(0.5, 4.7, utterances) * 16_000
        self.waveforms = [random.normal(size=int(n)).astype(np.float32) for n in samples]
        self.frames = list(random.integers(0, 256, (utterances, 8, 224, 224, 3), dtype=np.uint8))

    def __call__(self, rows: list[int]) -> Columns:
        """What the fusion is given of these utterances."""
        text = self.text.encode([self.prompts[row] for row in rows])
        audio = self.audio.encode([self.waveforms[row] for row in rows])
        visual = self.visual.encode([self.frames[row] for row in rows])
        students = torch.stack([audio.embedding, visual.embedding], dim=1)
        return {"leading": text.embedding.clone(), "students": students.clone()}  # clones take part in a gradient


class Stage:
    """The fusion stage of recipe `meld`, one epoch at a time.

    Args:
        columns: Row numbers -> their columns.
        utterances: Rows in all.
    """

    def __init__(self, columns: Callable[[list[int]], Columns], utterances: int) -> None:
        torch.manual_seed(0)
        self.columns = columns
        self.fusion = build_fusion(FusionSettings(), classes=CLASSES)
        self.objective = FusionObjective(self.fusion, modality_dropout=0.1)
        self.optimizer = torch.optim.AdamW(self.fusion.parameters(), lr=1e-5, fused=True)
        self.batches = torch.randperm(utterances).split(BATCH)
        self.labels = torch.randint(CLASSES, (utterances,))
        self.epochs = 0

    def epoch(self) -> float:
        """Seconds that the next epoch took."""
        torch.manual_seed(self.epochs)  # of the dropout
        self.epochs += 1
        start = time.perf_counter()
        for batch in self.batches:
            present = torch.ones(len(batch), 2, dtype=torch.bool)
            loss = self.objective(self.labels[batch], present=present, **self.columns(batch.tolist()))["loss"]
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.fusion.parameters(), 10.0)
            self.optimizer.step()
        return time.perf_counter() - start

    @torch.inference_mode()
    def scores(self, columns: Columns) -> Tensor:
        """Logits of all rows."""
        logits: Tensor = self.fusion.eval()(**columns, present=torch.ones(len(self.labels), 2).bool()).logits
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--text-layers", type=int, default=24)
    parser.add_argument("--layers", type=int, default=12, help="of the audio and of the visual backbone")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    utterances = arguments.utterances
    encoders = Encoders(utterances, text_layers=arguments.text_layers, layers=arguments.layers)

    start = time.perf_counter()
    cache = encoders(list(range(utterances)))
    once = time.perf_counter() - start
    cached = Stage(lambda rows: {name: column[rows] for name, column in cache.items()}, utterances)
    in_loop = Stage(encoders, utterances)
    cached_seconds, in_loop_seconds = zip(
        *((cached.epoch(), in_loop.epoch()) for _ in range(arguments.epochs)), strict=True
    )
    difference = float((cached.scores(cache) - in_loop.scores(cache)).abs().max())
    assert difference <= TOLERANCE, f"the scores differ by {difference:.1e}"

    fast, slow = median(cached_seconds), median(in_loop_seconds)
    lines = (
        f"CPU, {torch.get_num_threads()} thread(s), PyTorch {torch.__version__}, float32, batches of {BATCH}; "
        f"{utterances} utterances, {arguments.epochs} epochs; the scores differ by {difference:.1e} at most\n",
        "| fusion stage | seconds an epoch | ratio |",
        "| --- | --- | --- |",
        f"| on columns | {fast:.3f} | 1 |",
        f"| with the encoders in the loop | {slow:.1f} | {slow / fast:.0f} |",
        f"| writing the columns, once | {once:.1f} | {once / fast:.0f} |",
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
