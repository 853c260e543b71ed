"""What is saved is what is loaded: weights, labels, prompt and temperatures, in another process, without a pickle."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, LABELS
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoProcessor, RobertaConfig

from telme.backbones import load_audio_backbone, load_visual_backbone
from telme.collate import pad_prompts
from telme.columns import Encoder
from telme.conversation import MELD, MODALITIES, Conversation, LabelSet, Modality, Utterance
from telme.encoders import AudioEncoder, Encoded, TextEncoder, VisualEncoder
from telme.errors import TelMEError
from telme.fusion import FusionSettings
from telme.model import TelMEConfig, TelMEModel, TelMEProcessor
from telme.prompt import Prompt, PromptSettings
from telme.recognizer import Recognizer
from telme.run import Run
from telme.store import Store, Voiced

PROMPT = PromptSettings(template=None, max_length=40, speakers=4, further_speakers="refuse")
INPUTS = pad_prompts([Prompt([7, 8, 9, 10], 3), Prompt([11, 12], 0)], pad_id=1)

# What anybody would write: only the imports of telme are ours.
LOAD = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
import telme.model
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder)
    with torch.inference_mode():
        save_file({"logits": model.text(**load_file(f"{folder}/inputs.safetensors")).logits}, f"{folder}/logits")
"""
READ = """
import sys
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor
import telme.model
from telme.store import Store
folder, path, out = sys.argv[1:]
model, processor, store = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder), Store(path)
row, probabilities, clips = 0, {}, store.clips("test")
for conversation in store.conversations("test"):
    features = processor(conversation, [clips[row + turn] for turn in range(len(conversation))])
    probabilities[conversation.id] = model(**features).probabilities
    row += len(conversation)
save_file(probabilities, out)
"""


def build(folder: str, *, labels: LabelSet = LABELS, temperatures: dict[str, float] | None = None) -> TelMEModel:
    torch.manual_seed(0)
    text = TextEncoder(AutoModel.from_pretrained(folder), classes=len(labels))
    config = TelMEConfig.of(labels, encoders={"text": text}, prompt=PROMPT, temperatures=temperatures, seed=5)
    model = TelMEModel(config)
    model.eval()
    return model


@torch.inference_mode()
def logits(model: TelMEModel, inputs: dict[str, Tensor] = INPUTS) -> Tensor:
    scores: Tensor = model.text(**inputs).logits
    return scores


def test_another_process_gives_the_same_logits(backbone_folder: dict[str, str], tmp_path: Path) -> None:
    expected = {}
    for family in FAMILIES:
        model = build(backbone_folder[family])
        # As after training: nothing that another process would draw by chance.
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        expected[family] = logits(model)
        model.save_pretrained(tmp_path / family)
        save_file(INPUTS, tmp_path / family / "inputs.safetensors")
    folders = [str(tmp_path / family) for family in FAMILIES]
    subprocess.run([sys.executable, "-c", LOAD, *folders], check=True, capture_output=True)
    for family in FAMILIES:
        assert torch.equal(load_file(tmp_path / family / "logits")["logits"], expected[family])


def test_a_saved_model_is_a_configuration_and_weights_without_a_pickle(
    backbone_folder: dict[str, str], tmp_path: Path
) -> None:
    build(backbone_folder["bert"]).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"config.json", "model.safetensors"}


def test_everything_needed_to_write_the_input_and_read_the_output_survives(
    backbone_folder: dict[str, str], tmp_path: Path
) -> None:
    # Twelve labels, against an order like that of the strings "0", "1", "10", "11", "2".
    labels = LabelSet("dozen", tuple(f"feeling {letter}" for letter in "lkjihgfedcba"))
    model = build(backbone_folder["roberta"], labels=labels)
    model.config.temperatures = {"text": 1.7, "fusion": 0.9}
    model.config.selected_on = "dev"
    model.save_pretrained(tmp_path)
    config = AutoModel.from_pretrained(tmp_path).config
    assert isinstance(config, TelMEConfig)
    assert config.labels == labels
    assert config.prompt_settings == PROMPT
    assert config.temperatures == {"text": 1.7, "fusion": 0.9}
    assert (config.seed, config.selected_on, config.teacher, config.modalities) == (5, "dev", "text", ("text",))
    assert isinstance(config.text_config, RobertaConfig)
    assert config.label2id == {label: index for index, label in enumerate(labels)}


def test_the_configuration_is_readable_json(backbone_folder: dict[str, str], tmp_path: Path) -> None:
    build(backbone_folder["bert"], labels=MELD).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["model_type"] == "telme"
    assert saved["text_config"]["hidden_size"] == 16
    assert saved["prompt"] == {"template": None, "max_length": 40, "speakers": 4, "further_speakers": "refuse"}
    assert list(saved["id2label"].values()) == list(MELD)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_probabilities_are_the_softmax_at_the_temperature(temperature: float, backbone_folder: dict[str, str]) -> None:
    model = build(backbone_folder["bert"])
    model.config.temperatures = {"audio": temperature, "text": 9.0}
    scores = torch.tensor([[1.0, 2.0, 4.0], [80.0, 0.0, -80.0]])
    probabilities = model.probabilities(scores, head="audio")
    powers = (scores.double() / temperature).exp()
    torch.testing.assert_close(probabilities, powers / powers.sum(dim=1, keepdim=True))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, dtype=torch.float64))


def test_bare_configurations_have_the_papers_prompt_and_no_temperature() -> None:
    assert TelMEConfig().prompt_settings == PromptSettings()
    assert TelMEConfig().temperatures is None


def test_a_head_without_a_temperature_has_1(backbone_folder: dict[str, str]) -> None:
    scores = torch.tensor([[1.0, 2.0, 4.0]])
    for temperatures in (None, {"audio": 3.0}):
        model = build(backbone_folder["bert"], temperatures=temperatures)
        torch.testing.assert_close(model.probabilities(scores), scores.double().softmax(dim=1))


@pytest.fixture(scope="module")
def trained(media_run: Run) -> TelMEModel:
    model: TelMEModel = AutoModel.from_pretrained(media_run.model)
    return model


@pytest.fixture(scope="module")
def processor(media_run: Run) -> Any:
    return AutoProcessor.from_pretrained(media_run.model)


class TestWholeModel:
    """Of all three modalities, trained."""

    def test_another_process_gives_the_same_probabilities(
        self, media_run: Run, media_store: Store, trained: TelMEModel, processor: Any, tmp_path: Path
    ) -> None:
        arguments = [str(media_run.model), str(media_store.path), str(tmp_path / "probabilities")]
        subprocess.run([sys.executable, "-c", READ, *arguments], check=True, capture_output=True)
        there = load_file(tmp_path / "probabilities")
        recognizer = Recognizer.from_pretrained(media_run.model)
        clips = iter(media_store.clips("test"))
        for conversation in media_store.conversations("test"):
            seen_and_heard = [next(clips) for _ in conversation]
            here = trained(**processor(conversation, seen_and_heard)).probabilities
            torch.testing.assert_close(there[conversation.id], here, rtol=0, atol=1e-6)
            # Nor does it matter that the processor pads a conversation's rows to one length.
            together = torch.zeros(len(conversation), dtype=torch.int64)
            alone = recognizer.model.read(*encode(recognizer, conversation, seen_and_heard), together).probabilities
            torch.testing.assert_close(here, alone, rtol=0, atol=1e-5)

    def test_the_folder_holds_no_pickle(self, media_run: Run) -> None:
        assert {path.suffix for path in media_run.model.rglob("*")} == {".json", ".safetensors", ".md"}

    def test_the_processor_comes_back(self, processor: Any, media_run: Run) -> None:
        assert isinstance(processor, TelMEProcessor)
        assert processor.prompter.facts() == Recognizer.from_pretrained(media_run.model).prompter.facts()

    def test_features_without_clips_are_those_of_text(self, processor: Any, trained: TelMEModel) -> None:
        conversation = Conversation("two", (Utterance("Ann", "I love it"), Utterance("Bob", "we meet at noon")))
        output = trained(**processor(conversation))
        assert torch.equal(output.probabilities, output.alone)
        assert not output.shift.any()
        empty = trained(**processor(conversation, [Voiced(None, None)] * 2))
        torch.testing.assert_close(empty.probabilities, output.probabilities, rtol=0, atol=1e-6)
        with pytest.raises(TelMEError, match="1 clips for 2 utterances"):
            processor(conversation, [Voiced(None, None)])

    def test_an_utterance_of_nothing_is_read_from_its_past(self, processor: Any, trained: TelMEModel) -> None:
        silent = Conversation("two", (Utterance("Ann", "I love it"), Utterance("Bob", "", media="gone.mp4")))
        for clips in (None, [Voiced(None, None)] * 2):
            output = trained(**processor(silent, clips))
            torch.testing.assert_close(output.probabilities.sum(dim=1), torch.ones(2, dtype=torch.float64))

    def test_presence_is_left_as_it_was(self, processor: Any, trained: TelMEModel) -> None:
        features = processor(Conversation("one", (Utterance("Ann", " ", media="gone.mp4"),)))
        before = features["present"].clone()
        trained(**features)
        assert torch.equal(features["present"], before)


def encode(
    recognizer: Recognizer, conversation: Conversation, clips: list[Voiced]
) -> tuple[dict[Modality, Encoded], dict[Modality, Tensor]]:
    """What each encoder makes of a conversation, one utterance at a time; zeros where it lacks the modality."""
    model = recognizer.model
    items: dict[Modality, list[Any]] = {
        "text": recognizer.prompter(conversation),
        "audio": [clip.waveform for clip in clips],
        "visual": [clip.frames for clip in clips],
    }
    nothing = Encoded(torch.zeros(1, 768), torch.zeros(1, len(LABELS)))
    encoded: dict[Modality, Encoded] = {}
    for modality, of_modality in items.items():
        encoder: Any = model.encoder(modality)
        parts = [nothing if item is None else encoder.encode([item]) for item in of_modality]
        encoded[modality] = Encoded(*map(torch.cat, zip(*parts, strict=True)))
    present = {modality: torch.tensor([item is not None for item in items[modality]]) for modality in MODALITIES}
    return encoded, present


def random_model(*, teacher: Modality = "text", fusion: FusionSettings | None = None, folder: str) -> TelMEModel:
    """All modalities with random weights everywhere."""
    torch.manual_seed(0)
    audio, voice = load_audio_backbone("scratch", overrides={})
    visual, face = load_visual_backbone("scratch", overrides={})
    encoders: dict[Modality, Encoder] = {
        "text": TextEncoder(AutoModel.from_pretrained(folder), classes=3),
        "audio": AudioEncoder(audio, classes=3, settings=replace(voice, pooling="first")),
        "visual": VisualEncoder(visual, classes=3, settings=replace(face, mean=(0.1, 0.2, 0.3))),
    }
    temperatures = {"text": 1.5, "audio": 0.5, "visual": 2.0, "fusion": 1.25}
    config = TelMEConfig.of(
        LABELS, encoders=encoders, prompt=PROMPT, fusion=fusion, teacher=teacher, temperatures=temperatures
    )
    model = TelMEModel(config)
    if model.fusion is not None:
        for parameter in model.fusion.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    return model


ROWS = 5
CONVERSATION = torch.tensor([0, 0, 0, 1, 1])


def outputs() -> dict[Modality, Encoded]:
    generator = torch.Generator().manual_seed(3)
    return {
        modality: Encoded(torch.randn(ROWS, 768, generator=generator), torch.randn(ROWS, 3, generator=generator))
        for modality in MODALITIES
    }


def there(*modalities: Modality, rows: int = ROWS) -> dict[Modality, Tensor]:
    return {modality: torch.full((rows,), modality in modalities) for modality in MODALITIES}


@pytest.fixture(scope="module", params=["text", "audio", "visual"])
def model(request: pytest.FixtureRequest, backbone_folder: dict[str, str]) -> TelMEModel:
    return random_model(teacher=request.param, fusion=FusionSettings(heads=4), folder=backbone_folder["bert"])


class TestReading:
    """By whatever of text, voice and face there is."""

    def test_the_teacher_alone_is_the_teacher(self, model: TelMEModel) -> None:
        teacher, encoded = model.config.teacher, outputs()
        reading = model.read(encoded, there(teacher))
        alone = model.probabilities(encoded[teacher].logits, head=teacher)
        assert torch.equal(reading.probabilities, alone)
        assert torch.equal(reading.alone, alone)
        assert not reading.shift.any()

    def test_students_without_their_teacher_are_averaged(self, model: TelMEModel) -> None:
        encoded, students = outputs(), model.config.students
        each = [model.probabilities(encoded[student].logits, head=student) for student in students]
        torch.testing.assert_close(model.read(encoded, there(*students)).probabilities, (each[0] + each[1]) / 2)
        torch.testing.assert_close(model.read(encoded, there(students[1])).probabilities, each[1])
        assert not model.read(encoded, there(*students)).alone.any()

    def test_with_its_students_it_is_the_fusion(self, model: TelMEModel) -> None:
        encoded, students = outputs(), model.config.students
        assert model.fusion is not None
        with torch.inference_mode():
            fused = model.fusion(
                encoded[model.config.teacher].embedding,
                torch.stack([encoded[student].embedding for student in students], dim=1),
                torch.ones(ROWS, 2, dtype=torch.bool),
            )
        reading = model.read(encoded, there(*MODALITIES))
        torch.testing.assert_close(reading.probabilities, model.probabilities(fused.logits, head="fusion"))
        torch.testing.assert_close(reading.shift, fused.shift)
        assert (reading.shift > 0).all()

    def test_what_a_row_lacks_is_not_looked_at(self, model: TelMEModel) -> None:
        encoded = outputs()
        for modality in MODALITIES:
            present = there(*(other for other in MODALITIES if other != modality))
            damaged = {**encoded, modality: Encoded(*(torch.full_like(part, 1e9) for part in encoded[modality]))}
            for mine, theirs in zip(model.read(damaged, present), model.read(encoded, present), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=0)

    def test_rows_that_differ_in_what_they_have(self, model: TelMEModel) -> None:
        encoded = outputs()
        kinds: list[tuple[Modality, ...]] = [MODALITIES, ("text",), ("audio", "visual"), ("text", "visual"), ("audio",)]
        present = {modality: torch.tensor([modality in kind for kind in kinds]) for modality in MODALITIES}
        together = model.read(encoded, present)
        for row, kind in enumerate(kinds):
            one = {modality: Encoded(*(part[row : row + 1] for part in encoded[modality])) for modality in MODALITIES}
            for mine, theirs in zip(model.read(one, there(*kind, rows=1)), together, strict=True):
                torch.testing.assert_close(mine[0], theirs[row], rtol=0, atol=1e-6)


def test_a_dialogues_future_is_not_attended_to(backbone_folder: dict[str, str]) -> None:
    settings = FusionSettings(heads=4, attend="dialogue")
    model, encoded = random_model(fusion=settings, folder=backbone_folder["bert"]), outputs()
    whole = model.read(encoded, there(*MODALITIES), CONVERSATION).probabilities
    for rows in ([0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 0, 4, 1]):
        some = {modality: Encoded(*(part[rows] for part in encoded[modality])) for modality in MODALITIES}
        read = model.read(some, there(*MODALITIES, rows=len(rows)), CONVERSATION[rows]).probabilities
        torch.testing.assert_close(read, whole[rows], rtol=0, atol=1e-6)
    alone = {modality: Encoded(*(part[2:3] for part in encoded[modality])) for modality in MODALITIES}
    without_past = model.read(alone, there(*MODALITIES, rows=1), CONVERSATION[2:3]).probabilities
    assert (without_past[0] - whole[2]).abs().max() > 1e-4


def test_the_settings_of_voice_and_face_survive(backbone_folder: dict[str, str], tmp_path: Path) -> None:
    model = random_model(fusion=FusionSettings(heads=4, theta=0.3), teacher="audio", folder=backbone_folder["bert"])
    model.save_pretrained(tmp_path)
    loaded: TelMEModel = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded.audio, AudioEncoder)
    assert isinstance(loaded.visual, VisualEncoder)
    assert loaded.audio.settings.pooling == "first"
    assert tuple(loaded.visual.settings.mean) == (0.1, 0.2, 0.3)
    assert loaded.fusion is not None
    assert loaded.fusion.settings.theta == 0.3
    assert (loaded.config.teacher, loaded.config.students) == ("audio", ("text", "visual"))
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(samples, dtype=np.float32) for samples in (5000, 7000)]
    frames = [rng.integers(256, size=(8, 32, 32, 3), dtype=np.uint8) for _ in range(2)]
    assert isinstance(model.audio, AudioEncoder)
    assert isinstance(model.visual, VisualEncoder)
    for mine, theirs in (
        (loaded.audio.encode(waveforms), model.audio.encode(waveforms)),
        (loaded.visual.encode(frames), model.visual.encode(frames)),
    ):
        assert torch.equal(mine.logits, theirs.logits)


def test_a_teacher_that_needs_a_voice_reads_text_by_its_student(backbone_folder: dict[str, str]) -> None:
    model = random_model(fusion=FusionSettings(heads=4), teacher="audio", folder=backbone_folder["bert"])
    output = model(**INPUTS)
    expected = model.probabilities(logits(model), head="text")
    torch.testing.assert_close(output.probabilities, expected)
    assert not output.alone.any()
