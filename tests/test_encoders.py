"""An utterance's embedding depends on its own tokens: not on padding, on its side, or on what else is in the batch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, RobertaConfig, RobertaModel

from telme.collate import pad_prompts
from telme.encoders import EMBEDDING_SIZE, Encoded, TextEncoder
from telme.prompt import Prompt

CLASSES = 3
WORDS = range(5, 300)  # ids of ordinary tokens in every family


def prompt_strategy() -> st.SearchStrategy[Prompt]:
    return st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).flatmap(
        lambda ids: st.builds(Prompt, st.just(ids), st.integers(0, len(ids) - 1))
    )


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request: pytest.FixtureRequest, backbone_folder: dict[str, str]) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(AutoModel.from_pretrained(backbone_folder[request.param]), classes=CLASSES).eval()


def padded(prompts: Sequence[Prompt], *, width: int, pad_id: int, left: Sequence[bool]) -> dict[str, Tensor]:
    """A batch of one width, each row padded on the side it asks for."""
    inputs = {
        "input_ids": torch.full((len(prompts), width), pad_id),
        "attention_mask": torch.zeros(len(prompts), width, dtype=torch.int64),
        "position": torch.tensor([prompt.position for prompt in prompts]),
    }
    for row, (prompt, on_the_left) in enumerate(zip(prompts, left, strict=True)):
        first = width - len(prompt.input_ids) if on_the_left else 0
        inputs["input_ids"][row, first : first + len(prompt.input_ids)] = torch.tensor(prompt.input_ids)
        inputs["attention_mask"][row, first : first + len(prompt.input_ids)] = 1
        inputs["position"][row] += first
    return inputs


@torch.inference_mode()
def alone(encoder: TextEncoder, prompt: Prompt) -> Encoded:
    """The definition: the backbone reads the tokens and nothing else."""
    hidden = encoder.backbone(torch.tensor([prompt.input_ids])).last_hidden_state
    embedding = encoder.projection(hidden[:, prompt.position])
    return Encoded(embedding, encoder.classifier(embedding))


def assert_close(encoded: Encoded, expected: Sequence[Encoded]) -> None:
    for actual, parts in zip(encoded, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(actual, torch.cat(parts), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(prompt_strategy(), st.booleans()), min_size=1, max_size=5),
    extra=st.integers(0, 20),
    filler=st.sampled_from(WORDS),
)
def test_padding_and_neighbours_change_nothing(
    encoder: TextEncoder, rows: list[tuple[Prompt, bool]], extra: int, filler: int
) -> None:
    prompts, left = zip(*rows, strict=True)
    width = max(len(prompt.input_ids) for prompt in prompts) + extra
    pad_id = filler if encoder.backbone.config.pad_token_id is None else encoder.pad_id
    with torch.inference_mode():
        encoded = encoder(**padded(prompts, width=width, pad_id=pad_id, left=left))
    assert_close(encoded, [alone(encoder, prompt) for prompt in prompts])


@settings(max_examples=25, deadline=None)
@given(prompts=st.lists(prompt_strategy(), min_size=1, max_size=12), tokens_per_batch=st.integers(1, 200))
def test_encode_returns_rows_in_the_callers_order(
    encoder: TextEncoder, prompts: list[Prompt], tokens_per_batch: int
) -> None:
    encoded = encoder.encode(prompts, tokens_per_batch=tokens_per_batch)
    assert encoded.embedding.shape == (len(prompts), EMBEDDING_SIZE)
    assert encoded.logits.shape == (len(prompts), CLASSES)
    assert encoded.embedding.dtype == encoded.logits.dtype == torch.float32
    assert_close(encoded, [alone(encoder, prompt) for prompt in prompts])


def test_what_is_read_depends_on_the_position(encoder: TextEncoder) -> None:
    ids = [7, 8, 9, 10]
    rows = encoder.encode([Prompt(ids, position) for position in range(4)]).embedding
    assert torch.pdist(rows).min() > 1e-2


def test_encode_switches_dropout_off(backbone_folder: dict[str, str]) -> None:
    backbone = AutoModel.from_pretrained(backbone_folder["bert"])
    assert backbone.config.hidden_dropout_prob > 0
    encoder = TextEncoder(backbone, classes=CLASSES).train()
    prompt = Prompt([7, 8, 9], 1)
    assert torch.equal(encoder.encode([prompt]).embedding, encoder.encode([prompt]).embedding)
    assert not encoder.training


def test_every_weight_learns(encoder: TextEncoder) -> None:
    encoder.zero_grad(set_to_none=True)
    inputs = pad_prompts([Prompt([7, 8, 9], 1), Prompt([10, 11], 1)], pad_id=encoder.pad_id)
    encoder(**inputs).logits.logsumexp(dim=1).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    assert not [name for name in encoder.state_dict() if "pooler" in name]


def test_values_of_the_released_teacher() -> None:
    if "TELME_PARITY" not in os.environ:
        pytest.skip("TELME_PARITY does not name a folder of recorded values")
    folder = Path(os.environ["TELME_PARITY"])
    recorded = load_file(folder / "teacher.safetensors")
    config = RobertaConfig(**json.loads((folder / "configs.json").read_bytes())["teacher"])
    encoder = TextEncoder(RobertaModel(config), classes=recorded["logits"].shape[1]).eval()
    ours = {"text_model": "backbone", "W": "projection", "classifier": "classifier"}
    weights = {}
    for name, weight in recorded.items():
        module, _, rest = name.removeprefix("state_dict.").partition(".")
        if module in ours and not rest.startswith("pooler"):
            weights[f"{ours[module]}.{rest}"] = weight
    encoder.load_state_dict(weights)
    mask = recorded["attention_mask"]
    assert (mask[:, 0] == 0).any()
    assert mask[:, -1].all()
    with torch.inference_mode():
        encoded = encoder(recorded["input_ids"], mask, torch.full((len(mask),), mask.shape[1] - 1))
    torch.testing.assert_close(encoded.embedding, recorded["embedding"], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.logits, recorded["logits"], atol=1e-5, rtol=0)
