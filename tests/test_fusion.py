"""ASF: the released code's values, the paper's equations, and what each scope of the attention lets a row depend on."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from telme.errors import TelMEError
from telme.fusion import Concatenation, Fused, Fusion, FusionSettings, ShiftingFusion, build_fusion

CLASSES = 7
SCOPES: tuple[Literal["utterance", "dialogue", "batch"], ...] = ("utterance", "dialogue", "batch")
FUSIONS = (*(FusionSettings(attend=scope) for scope in SCOPES), FusionSettings(kind="concatenation"))
# The released names -> ours.
NAMES = {
    "multihead_attn": "attention",
    "AV_LayerNorm": "attention_norm",
    "W_hav": "gate",
    "W_av": "displacement",
    "LayerNorm": "norm",
    "W": "classifier",
}
few = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 10_000)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fusion(settings: FusionSettings) -> Fusion:
    """With random weights everywhere, those for absent students too."""
    torch.manual_seed(0)
    made = build_fusion(settings, classes=CLASSES).eval()
    torch.nn.init.normal_(made.absent)
    return made


MADE = {fused: fusion(fused) for fused in FUSIONS}


def inputs(rows: int, *, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "leading": torch.randn(rows, 768, generator=generator),
        "students": torch.randn(rows, 2, 768, generator=generator),
        "present": torch.rand(rows, 2, generator=generator) < 0.7,
        "conversation": torch.randint(3, (rows,), generator=generator),
    }


def pick(batch: dict[str, Tensor], rows: Tensor | slice) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in batch.items()}


def assert_same(found: Fused, expected: Fused) -> None:
    for name in Fused._fields:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)


# Parity.


def pattern(shape: tuple[int, ...], k: int, scale: float) -> Tensor:
    """The formula by which the recorded run's weights and inputs are given."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(0.37 * i + 1.7 * k + 0.11 * ((i * i) % 97))).float().reshape(shape)


@pytest.mark.parametrize(("attend", "recorded"), [("utterance", "alone"), ("dialogue", "alone"), ("batch", "batch5")])
@pytest.mark.parametrize("corpus", ["meld", "iemocap"])
def test_it_is_the_released_fusion(
    corpus: str, attend: Literal["utterance", "dialogue", "batch"], recorded: str
) -> None:
    if "TELME_PARITY" not in os.environ:
        pytest.skip("TELME_PARITY names no folder of recorded values")
    folder = Path(os.environ["TELME_PARITY"])
    run = json.loads((folder / "fusion.json").read_text(encoding="utf-8"))
    weights = {"absent": torch.zeros(2, 768)}
    for number, (released, shape) in enumerate(run["parameters"]):
        module, _, weight = released.partition(".")
        offset = 1 if released.endswith("LayerNorm.weight") else 0
        weights[f"{NAMES[module]}.{weight}"] = pattern(tuple(shape), run["k"] + number, 0.05) + offset
    made = ShiftingFusion(FusionSettings(**run["settings"][corpus], attend=attend), classes=CLASSES).eval()
    made.load_state_dict(weights)
    text, audio, visual = (pattern((5, 768), run["k"] + 100 + number, 1.0) for number in range(3))
    text[1] *= 40
    text[2] *= 0.05
    # In the recorded run each row is a conversation of its own, but for the one call with all five.
    found = made(text, torch.stack([audio, visual], dim=1), torch.ones(5, 2, dtype=torch.bool), torch.arange(5))
    expected = load_file(folder / "fusion.safetensors")[f"{corpus}_logits_{recorded}"]
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("heads", [3, 4])
@pytest.mark.parametrize("attend", SCOPES)
def test_alone_it_is_multihead_attention_over_one_token(
    attend: Literal["utterance", "dialogue", "batch"], heads: int
) -> None:
    made = fusion(FusionSettings(attend=attend, heads=heads))
    assert isinstance(made, ShiftingFusion)
    batch = inputs(1)
    row = torch.where(batch["present"].unsqueeze(-1), batch["students"], made.absent).flatten(1)
    expected, _ = made.attention(row, row, row)
    torch.testing.assert_close(made._attend(row, batch["conversation"]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("theta", [0.01, 0.1, 50.0])
def test_it_is_equations_16_to_19(theta: float) -> None:
    made = fusion(FusionSettings(theta=theta)).requires_grad_(False)
    assert isinstance(made, ShiftingFusion)
    batch = inputs(4)
    batch["leading"] *= torch.tensor([1.0, 40.0, 0.01, 1.0]).unsqueeze(1)
    f_av = torch.where(batch["present"].unsqueeze(-1), batch["students"], made.absent).flatten(1)
    f_att = made.attention_norm(torch.cat([made.attention(row[None], row[None], row[None])[0] for row in f_av]) + f_av)
    for row, f_t in enumerate(batch["leading"]):
        g = made.gate(torch.cat([f_att[row], f_t])).relu()
        h = g * made.displacement(f_att[row])
        lambda_ = min(float(f_t.norm() / h.norm()) * theta, 1.0)
        z = f_t + lambda_ * h
        found = made(**pick(batch, slice(row, row + 1)))
        torch.testing.assert_close(found.embedding[0], z, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.logits[0], made.classifier(made.norm(z)), rtol=1e-4, atol=1e-4)
        assert found.shift.item() == pytest.approx(lambda_ * float(h.norm() / f_t.norm()), rel=1e-4)


@given(seed=SEEDS, theta=st.floats(0.001, 3))
@few
def test_the_shift_is_how_far_the_embedding_moved_and_at_most_theta(seed: int, theta: float) -> None:
    made = fusion(FusionSettings(theta=theta))
    batch = inputs(4, seed=seed)
    fused = made(**batch)
    moved = (fused.embedding - batch["leading"]).norm(dim=1) / batch["leading"].norm(dim=1)
    torch.testing.assert_close(fused.shift, moved, rtol=1e-3, atol=1e-5)
    assert (fused.shift <= theta * (1 + 1e-5)).all()


def test_the_plain_concatenation_is_a_linear_map_of_all_three() -> None:
    made = fusion(FusionSettings(kind="concatenation"))
    assert isinstance(made, Concatenation)
    batch = inputs(5)
    batch["present"][:] = True
    row = torch.cat([batch["leading"], batch["students"][:, 0], batch["students"][:, 1]], dim=1)
    assert_same(made(**batch), Fused(row, made.classifier(row), torch.zeros(5)))


# What a row's result depends on.


@pytest.mark.parametrize("attend", SCOPES)
@given(seed=SEEDS, rows=st.integers(1, 6))
@few
def test_the_order_of_rows_is_only_the_order_of_results(
    attend: Literal["utterance", "dialogue", "batch"], seed: int, rows: int
) -> None:
    made, batch = MADE[FusionSettings(attend=attend)], inputs(rows, seed=seed)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    if attend == "dialogue":  # in which rows of one conversation keep their order
        order = batch["conversation"].argsort(stable=True)
    fused = made(**batch)
    assert_same(made(**pick(batch, order)), Fused(*(column[order] for column in fused)))


@pytest.mark.parametrize("chosen", [FUSIONS[0], FUSIONS[-1]], ids=["utterance", "concatenation"])
@given(seed=SEEDS, rows=st.integers(2, 6))
@few
def test_neighbours_do_not_matter(chosen: FusionSettings, seed: int, rows: int) -> None:
    made, batch = MADE[chosen], inputs(rows, seed=seed)
    assert_same(Fused(*(column[:1] for column in made(**batch))), made(**pick(batch, slice(0, 1))))


@given(seed=SEEDS, rows=st.integers(2, 6), cut=st.integers(1, 5))
@few
def test_in_a_dialogue_later_rows_do_not_matter(seed: int, rows: int, cut: int) -> None:
    made, batch = MADE[FusionSettings(attend="dialogue")], inputs(rows, seed=seed)
    assert_same(Fused(*(column[:cut] for column in made(**batch))), made(**pick(batch, slice(cut))))


@given(seed=SEEDS, rows=st.integers(2, 6))
@few
def test_in_a_dialogue_other_conversations_do_not_matter(seed: int, rows: int) -> None:
    made, batch = MADE[FusionSettings(attend="dialogue")], inputs(rows, seed=seed)
    own = batch["conversation"] == batch["conversation"][-1]
    assert_same(Fused(*(column[own] for column in made(**batch))), made(**pick(batch, own)))


@pytest.mark.parametrize("attend", ["dialogue", "batch"])
def test_earlier_rows_in_scope_do_matter(attend: Literal["dialogue", "batch"]) -> None:
    made, batch = MADE[FusionSettings(attend=attend)], inputs(2)
    batch["conversation"][:] = 0
    alone = made(**pick(batch, slice(1, 2))).logits
    assert (made(**batch).logits[1] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("chosen", FUSIONS, ids=str)
@pytest.mark.parametrize("value", [1e6, math.nan, math.inf])
def test_an_absent_student_is_never_looked_at(chosen: FusionSettings, value: float) -> None:
    made, batch = MADE[chosen], inputs(6, seed=3)
    assert not batch["present"].all()
    expected = made(**batch)
    batch["students"][~batch["present"]] = value
    found = made(**batch)
    assert_same(found, expected)
    made.zero_grad()
    found.logits.sum().backward()
    assert made.absent.grad is not None
    assert made.absent.grad.isfinite().all()
    assert made.absent.grad.abs().max() > 0


def test_absence_is_not_the_same_as_silence() -> None:
    made, batch = MADE[FusionSettings()], inputs(1)
    batch["students"][:] = 0
    batch["present"][:] = True
    silent = made(**batch).logits
    batch["present"][:] = False
    assert (made(**batch).logits - silent).abs().max() > 1e-3


# Degenerate inputs.


@pytest.mark.parametrize("chosen", FUSIONS, ids=str)
@pytest.mark.parametrize("leading", [0.0, 1e-20, 1.0, 1e15])
@pytest.mark.parametrize("students", [0.0, 1e-20, 1.0, 1e15])
def test_values_and_gradients_are_finite(chosen: FusionSettings, leading: float, students: float) -> None:
    made, batch = MADE[chosen], inputs(3)
    batch["leading"] *= leading
    batch["students"] *= students
    made.zero_grad()
    fused = made(**batch)
    assert all(column.isfinite().all() for column in fused)
    if leading == 0:
        assert fused.shift.tolist() == [0, 0, 0]
    (fused.logits.sum() + fused.shift.sum()).backward()
    for parameter in made.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_a_displacement_of_nothing_leaves_the_leading_embedding() -> None:
    made, batch = fusion(FusionSettings()), inputs(3)
    assert isinstance(made, ShiftingFusion)
    torch.nn.init.constant_(made.gate.bias, -1e6)  # shuts the gate: H = 0
    fused = made(**batch)
    assert torch.equal(fused.embedding, batch["leading"])
    assert fused.shift.tolist() == [0, 0, 0]
    fused.logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_dropout_is_for_training_only() -> None:
    made, batch = fusion(FusionSettings(dropout=0.5)), inputs(3)
    assert_same(made(**batch), made(**batch))
    made.train()
    assert (made(**batch).logits - made(**batch).logits).abs().max() > 1e-3


# Settings.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 5}, "heads is 5; valid is a divisor of 1536, as 3 or 4"),
        ({"heads": 0}, "heads is 0; valid is a divisor of 1536, as 3 or 4"),
        ({"heads": -3}, "heads is -3; valid is a divisor of 1536, as 3 or 4"),
        ({"theta": 0.0}, "theta is 0.0; valid is above 0"),
        ({"theta": math.nan}, "theta is nan; valid is above 0"),
        ({"dropout": 1.0}, "dropout is 1.0; valid is from 0 to below 1"),
        ({"dropout": -0.1}, "dropout is -0.1; valid is from 0 to below 1"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(TelMEError) as caught:
        FusionSettings(**wrong)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_a_dialogue_needs_its_conversations() -> None:
    batch = inputs(2)
    del batch["conversation"]
    with pytest.raises(TelMEError, match="needs to know which conversation"):
        MADE[FusionSettings(attend="dialogue")](**batch)
