"""What is saved is what is loaded: weights, labels, prompt and temperature, in another process, without a pickle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, LABELS
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, RobertaConfig

from telme.collate import pad_prompts
from telme.conversation import MELD, LabelSet
from telme.model import TelMEConfig, TelMEModel
from telme.prompt import Prompt, PromptSettings

PROMPT = PromptSettings(template=None, max_length=40, speakers=4, further_speakers="refuse")
INPUTS = pad_prompts([Prompt([7, 8, 9, 10], 3), Prompt([11, 12], 0)], pad_id=1)

# What anybody would write: only the import of telme.model is ours.
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


def build(folder: str, *, labels: LabelSet = LABELS) -> TelMEModel:
    torch.manual_seed(0)
    config = TelMEConfig.of(labels, text=AutoConfig.from_pretrained(folder), prompt=PROMPT, seed=5)
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
    model.config.temperature = 1.7
    model.config.selected_on = "dev"
    model.save_pretrained(tmp_path)
    config = AutoModel.from_pretrained(tmp_path).config
    assert isinstance(config, TelMEConfig)
    assert config.labels == labels
    assert config.prompt_settings == PROMPT
    assert (config.temperature, config.seed, config.selected_on) == (1.7, 5, "dev")
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
    model.config.temperature = temperature
    scores = torch.tensor([[1.0, 2.0, 4.0], [80.0, 0.0, -80.0]])
    probabilities = model.probabilities(scores)
    powers = (scores.double() / temperature).exp()
    torch.testing.assert_close(probabilities, powers / powers.sum(dim=1, keepdim=True))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, dtype=torch.float64))


def test_bare_configurations_have_the_papers_prompt_and_no_temperature() -> None:
    assert TelMEConfig().prompt_settings == PromptSettings()
    assert TelMEConfig().temperature == 1
