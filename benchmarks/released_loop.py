"""The three stages with the data flow of the authors' release: what a batch needs is decoded and encoded on the spot.

Every stage decodes voice and face of every clip in every epoch, whether it reads them or not; the frozen teacher runs
at every step of a student, the three frozen encoders at every step of the fusion. Backbones, objectives and optimiser
are telme's, so that this data flow is all that differs. Left out, in the loop's favour: the test split, which the
release scores whenever dev has improved and once more at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, cast

import cv2
import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import (
    VideoMAEImageProcessorPil,
    Wav2Vec2FeatureExtractor,
    get_linear_schedule_with_warmup,
    set_seed,
)

from telme.backbones import VoiceSettings, load_audio_backbone, load_text_backbone, load_visual_backbone
from telme.collate import pad_prompts
from telme.compat import LONGEST_SECONDS, MOST_SAMPLES, SILENCE_SAMPLES, ReleasedPrompter
from telme.conversation import Modality
from telme.corpora import Corpus
from telme.encoders import AudioEncoder, Encoded, TextEncoder, VisualEncoder
from telme.fusion import build_fusion
from telme.media import FRAME_SIZE, FRAMES
from telme.metrics import weighted_f1
from telme.objectives import Classification, Distillation, FusionObjective
from telme.recipes import Fitting, Recipe

TOLD_RATE = 16_000  # Hz, what the feature extractor is told; librosa gives 22,050
STUDENTS: tuple[Modality, ...] = ("audio", "visual")

Batch = dict[str, Any]  # "labels", and by modality what its encoder takes


class Sample(NamedTuple):
    """An utterance: its clip, the conversation up to it as numbers of speakers with texts, and its class."""

    file: str
    turns: list[tuple[int, str]]
    label: int


class ReleasedLoop:
    """Training by a recipe from a corpus of clips, stage by stage.

    Args:
        recipe: With text as the teacher, and `labels`.
        corpus: Every utterance of `train` and `dev` has a label and a clip.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus) -> None:
        assert recipe.audio is not None
        assert recipe.visual is not None
        set_seed(recipe.seed)
        self.recipe = recipe
        self.train, self.dev = _samples(recipe, corpus, "train"), _samples(recipe, corpus, "dev")
        classes = len(recipe.labels or ())
        text, tokenizer = load_text_backbone(
            recipe.text.backbone,
            overrides=recipe.text.overrides,
            prompt=recipe.text.prompt,
            transcripts=[turn.text for conversation in corpus.splits["train"] for turn in conversation],
        )
        audio, _ = load_audio_backbone(recipe.audio.backbone, overrides=recipe.audio.overrides)
        visual, face = load_visual_backbone(recipe.visual.backbone, overrides=recipe.visual.overrides)
        voice = VoiceSettings(normalize=False, pooling="first")  # normalised by the feature extractor
        self.encoders = nn.ModuleDict(
            {
                "text": TextEncoder(text, classes=classes),
                "audio": AudioEncoder(audio, classes=classes, settings=voice),
                "visual": _PixelEncoder(VisualEncoder(visual, classes=classes, settings=face)),
            }
        )
        self.fusion = build_fusion(recipe.fusion, classes=classes)
        self.collate = _Collate(ReleasedPrompter(tokenizer, recipe.text.prompt))

    def teach(self) -> None:
        """Stage 1."""
        self._fit(
            Classification(self.encoders["text"]),
            lambda batch: batch["text"],
            partial(self._logits, "text"),
            self.recipe.teach,
        )

    def distil(self) -> None:
        """Stage 2, one student after the other."""
        assert self.recipe.distil is not None
        self.encoders["text"].requires_grad_(False).eval()
        for student in STUDENTS:
            self._fit(
                Distillation(self.encoders[student], **asdict(self.recipe.distillation)),
                partial(self._student_inputs, student),
                partial(self._logits, student),
                self.recipe.distil,
            )

    def fuse(self) -> None:
        """Stage 3."""
        assert self.recipe.fuse is not None
        self.encoders.requires_grad_(False).eval()
        self._fit(
            FusionObjective(self.fusion, modality_dropout=self.recipe.modality_dropout),
            self._fusion_inputs,
            lambda batch: self.fusion(**self._fusion_inputs(batch)).logits,
            self.recipe.fuse,
        )

    def _student_inputs(self, student: Modality, batch: Batch) -> dict[str, Tensor]:
        teacher = self._encode("text", batch)
        return {**batch[student], "teacher_embedding": teacher.embedding, "teacher_logits": teacher.logits}

    def _fusion_inputs(self, batch: Batch) -> dict[str, Tensor]:
        students = torch.stack([self._encode(student, batch).embedding for student in STUDENTS], dim=1)
        present = torch.ones(students.shape[:2], dtype=torch.bool)
        return {"leading": self._encode("text", batch).embedding, "students": students, "present": present}

    def _logits(self, modality: Modality, batch: Batch) -> Tensor:
        return self._encode(modality, batch).logits

    def _encode(self, modality: Modality, batch: Batch) -> Encoded:
        encoded: Encoded = self.encoders[modality](**batch[modality])
        return encoded

    def _fit(
        self,
        objective: nn.Module,
        inputs: Callable[[Batch], dict[str, Tensor]],
        logits: Callable[[Batch], Tensor],
        fitting: Fitting,
    ) -> None:
        """Fits the objective and leaves it with the weights of the epoch that was best on dev."""
        loader = self._batches(self.train, fitting.batch_size, shuffle=True)
        dev = self._batches(self.dev, fitting.batch_size, shuffle=False)
        weights = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=fitting.learning_rate, weight_decay=fitting.weight_decay)
        steps = len(loader)
        schedule = get_linear_schedule_with_warmup(
            optimizer, round(steps * fitting.warmup_epochs), steps * fitting.epochs
        )
        best, best_weights = -1.0, objective.state_dict()
        for _ in range(fitting.epochs):
            objective.train()
            for batch in loader:
                loss = objective(labels=batch["labels"], **inputs(batch))["loss"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(weights, fitting.max_grad_norm)
                optimizer.step()
                schedule.step()
            objective.eval()
            with torch.no_grad():
                guessed = [(batch["labels"], logits(batch).argmax(dim=1)) for batch in dev]
            labels, predicted = (torch.cat(parts).numpy() for parts in zip(*guessed, strict=True))
            if (f1 := weighted_f1(labels, predicted)) > best:
                best, best_weights = f1, copy.deepcopy(objective.state_dict())
        objective.load_state_dict(best_weights)

    def _batches(self, samples: list[Sample], batch_size: int, *, shuffle: bool) -> DataLoader[Any]:
        rows = cast(Dataset[Any], samples)
        return DataLoader(rows, batch_size=batch_size, shuffle=shuffle, collate_fn=self.collate)


class _PixelEncoder(nn.Module):
    """A visual encoder of what the image processor returns, brought to the backbone's size as telme does."""

    def __init__(self, encoder: VisualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor) -> Encoded:
        size = self.encoder.backbone.config.image_size
        frames = pixel_values.flatten(0, 1)
        if frames.shape[-1] != size:
            frames = F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True)
        return self.encoder.read(frames.unflatten(0, pixel_values.shape[:2]))


class _Collate:
    """Samples -> batch: reads the three modalities of each, whichever stage it is for."""

    def __init__(self, prompter: ReleasedPrompter) -> None:
        self.prompter = prompter
        self.pad_id = prompter.tokenizer.pad_token_id
        self.extractor, self.processor = Wav2Vec2FeatureExtractor(), VideoMAEImageProcessorPil()

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        voices, faces = [], []
        for sample in samples:
            too_long = librosa.get_duration(y=librosa.load(sample.file)[0]) > LONGEST_SECONDS
            voices.append(np.zeros(SILENCE_SAMPLES, np.float32) if too_long else self._voice(sample.file))
            faces.append(torch.zeros(FRAMES, 3, FRAME_SIZE, FRAME_SIZE) if too_long else self._face(sample.file))
        prompts = [self.prompter.write(sample.turns) for sample in samples]
        return {
            "text": pad_prompts(prompts, pad_id=self.pad_id),
            "audio": _pad_on_the_left(voices),
            "visual": {"pixel_values": torch.stack(faces)},
            "labels": torch.tensor([sample.label for sample in samples]),
        }

    def _voice(self, file: str) -> NDArray[np.float32]:
        sound, _ = librosa.load(file)
        normalized: NDArray[np.float32] = self.extractor(sound, sampling_rate=TOLD_RATE)["input_values"][0]
        return normalized[-MOST_SAMPLES:]

    def _face(self, file: str) -> Tensor:
        capture, frames = cv2.VideoCapture(file), []
        while True:
            more, frame = capture.read()
            if not more:
                break
            frames.append(frame)
        step = max(len(frames) // FRAMES, 1)
        kept = frames[step - 1 :: step][:FRAMES]
        kept += [kept[-1]] * (FRAMES - len(kept))
        pixels: Tensor = self.processor(kept, return_tensors="pt")["pixel_values"][0]
        return pixels


def _pad_on_the_left(voices: Sequence[NDArray[np.float32]]) -> dict[str, Tensor]:
    """As lists of numbers, and without a mask: the zeros count as a part of the voice."""
    longest = max(map(len, voices))
    waveforms = torch.tensor([[0.0] * (longest - len(voice)) + voice.tolist() for voice in voices])
    return {"waveforms": waveforms, "samples": torch.full((len(voices),), longest)}


def _samples(recipe: Recipe, corpus: Corpus, split: str) -> list[Sample]:
    samples = []
    for conversation in corpus.splits[split]:
        numbers: dict[str, int] = {}
        turns: list[tuple[int, str]] = []
        for utterance in conversation:
            assert utterance.id is not None
            assert utterance.label is not None
            turns.append((numbers.setdefault(utterance.speaker, len(numbers) + 1), utterance.text))
            label = (recipe.labels or ()).index(utterance.label)
            samples.append(Sample(corpus.sources[utterance.id].file, list(turns), label))
    return samples
