"""`fit`: it learns, keeps the best epoch, and an interrupted fit ends exactly as an undisturbed one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

import telme.training
from telme.encoders import Encoded, TextEncoder
from telme.objectives import Classification, Loss
from telme.optimisation import parameter_groups
from telme.recipes import Fitting
from telme.training import WHOLE, Fitted, Metrics, fit

ROWS = 22  # at 4 a batch: 6 steps an epoch, the last of 2 rows
STEPS = 6
FITTING = Fitting(epochs=3, batch_size=4, learning_rate=0.05, weight_decay=0.01)

Validate = Callable[[nn.Module], Metrics]


class Encoder(nn.Module):
    """A small network with dropout, so that a fit depends on the state of the random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(8, 3)

    def forward(self, values: Tensor) -> Encoded:
        hidden = self.dropout(self.hidden(values).relu())
        return Encoded(hidden, self.classifier(hidden))


class Interrupted(BaseException):
    """Stands for the kill."""


class Objective(Classification):
    """Counts its steps, and dies at the beginning of step `dies_at`, counted from 1."""

    def __init__(self, dies_at: int | None = None) -> None:
        torch.manual_seed(5)
        super().__init__(Encoder())
        self.steps, self.dies_at = 0, dies_at
        self.weights: list[dict[str, Tensor]] = []  # before each step

    def forward(self, labels: Tensor, real: Tensor | None = None, **inputs: Tensor) -> Loss:
        self.steps += 1
        if self.steps == self.dies_at:
            raise Interrupted
        self.weights.append(copied(self))
        return super().forward(labels, real, **inputs)


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def data() -> tuple[Tensor, Tensor]:
    """Values (ROWS, 4) whose first three numbers tell the class, with noise."""
    labels = torch.arange(ROWS) % 3
    noise = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
    return F.one_hot(labels, 4) * 3.0 + 0.5 * noise, labels


def collate(rows: list[int]) -> dict[str, Tensor]:
    values, labels = data()
    return {"values": values[rows], "labels": labels[rows]}


def accuracy(objective: nn.Module) -> Metrics:
    """A dev score on the training rows; in eval mode, as every `validate` must be."""
    assert isinstance(objective, Classification)
    objective.eval()
    values, labels = data()
    with torch.no_grad():
        logits = objective.encoder(values).logits
    return {
        "dev_loss": float(F.cross_entropy(logits, labels)),
        "dev_weighted_f1": float((logits.argmax(dim=1) == labels).float().mean()),
    }


def scripted(scores: Iterable[float]) -> tuple[Validate, list[dict[str, Tensor]]]:
    """A `validate` that returns these scores in turn, and the weights it was shown."""
    seen: list[dict[str, Tensor]] = []
    remaining = iter(scores)

    def validate(objective: nn.Module) -> Metrics:
        seen.append(copied(objective))
        return {"dev_weighted_f1": next(remaining)}

    return validate, seen


def run_fit(
    objective: nn.Module, folder: Path, *, validate: Validate = accuracy, fitting: Fitting = FITTING, seed: int = 9
) -> Fitted:
    return fit(
        objective,
        range(ROWS),
        lengths=[1 + row % 5 for row in range(ROWS)],
        collate=collate,
        validate=validate,
        fitting=fitting,
        seed=seed,
        folder=folder,
        title="test",
    )


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The network is too small for more, and waiting for a second thread would take most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def checkpoint_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telme.training, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(telme.training, "CHECKPOINT_SHARE", 0)


def test_it_learns(tmp_path: Path) -> None:
    objective = Objective()
    before = accuracy(objective)
    fitted = run_fit(objective, tmp_path, fitting=replace(FITTING, epochs=8))
    after = accuracy(objective)
    assert before["dev_weighted_f1"] < 0.9
    assert after["dev_weighted_f1"] == 1.0
    assert fitted.history[-1]["train_loss"] < 0.5 * fitted.history[0]["train_loss"]


def test_history_tells_of_every_epoch(tmp_path: Path) -> None:
    fitted = run_fit(Objective(), tmp_path)
    assert [epoch["epoch"] for epoch in fitted.history] == [1, 2, 3]
    for epoch in fitted.history:
        assert set(epoch) == {"epoch", "train_loss", "dev_loss", "dev_weighted_f1"}


def test_the_train_loss_is_the_mean_of_the_epochs_steps(tmp_path: Path) -> None:
    losses: list[float] = []

    class Recorded(Objective):
        def forward(self, labels: Tensor, real: Tensor | None = None, **inputs: Tensor) -> Loss:
            loss = super().forward(labels, real, **inputs)
            losses.append(loss["loss"].item())
            return loss

    fitted = run_fit(Recorded(), tmp_path)
    for epoch in fitted.history:
        of_epoch = losses[STEPS * (int(epoch["epoch"]) - 1) :][:STEPS]
        assert epoch["train_loss"] == pytest.approx(sum(of_epoch) / STEPS, rel=2e-2)


@pytest.mark.parametrize("weight_average", [0.0, 0.9])
@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.9, 0.5), 2), ((0.9, 0.5, 0.1), 1), ((0.1, 0.5, 0.9), 3), ((0.5, 0.5, 0.5), 1)]
)
def test_the_best_epochs_weights_are_kept(
    tmp_path: Path, scores: tuple[float, ...], best: int, weight_average: float
) -> None:
    validate, seen = scripted(scores)
    objective = Objective()
    fitted = run_fit(objective, tmp_path, validate=validate, fitting=replace(FITTING, weight_average=weight_average))
    assert fitted.best_epoch == best
    assert [epoch["dev_weighted_f1"] for epoch in fitted.history] == list(scores)
    assert_same(copied(objective), seen[best - 1])
    assert all(differ(seen[best - 1], other) for epoch, other in enumerate(seen, start=1) if epoch != best)


def test_the_average_is_the_moving_average_of_the_weights(tmp_path: Path) -> None:
    validate, seen = scripted([0.1, 0.2, 0.3])
    objective = Objective()
    run_fit(objective, tmp_path, validate=validate, fitting=replace(FITTING, weight_average=0.6))
    # After step n the weights are those before step n + 1; after the last step nobody shows them.
    after_step = objective.weights[1:]
    average = after_step[0]
    for updates, weights in enumerate(after_step[1 : 2 * STEPS], start=1):
        kept = min(0.6, (1 + updates) / (10 + updates))
        average = {name: kept * average[name] + (1 - kept) * weights[name] for name in weights}
        if updates + 1 in (STEPS, 2 * STEPS):
            for name, tensor in seen[(updates + 1) // STEPS - 1].items():
                torch.testing.assert_close(tensor, average[name])


def test_the_average_changes_nothing_about_the_weights_themselves(tmp_path: Path) -> None:
    plain, averaged = Objective(), Objective()
    run_fit(plain, tmp_path / "plain")
    run_fit(averaged, tmp_path / "averaged", fitting=replace(FITTING, weight_average=0.9))
    for one, other in zip(plain.weights, averaged.weights, strict=True):
        assert_same(one, other)


def test_one_seed_one_result(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("one", 9), ("same", 9), ("other", 10)):
        objective = Objective()
        run_fit(objective, tmp_path / name, seed=seed)
        weights.append(copied(objective))
    assert_same(weights[0], weights[1])
    assert differ(weights[0], weights[2])


def test_weights_that_are_frozen_stay(tmp_path: Path) -> None:
    objective = Objective()
    objective.encoder.get_submodule("hidden").requires_grad_(False)
    before = copied(objective)
    run_fit(objective, tmp_path)
    moved = {name for name, tensor in copied(objective).items() if not torch.equal(tensor, before[name])}
    assert moved == {"encoder.classifier.weight", "encoder.classifier.bias"}


@pytest.fixture(scope="module", params=[0.0, 0.9], ids=["weights", "average"])
def fitting(request: pytest.FixtureRequest) -> Fitting:
    return replace(FITTING, weight_average=request.param)


@pytest.fixture(scope="module")
def undisturbed(fitting: Fitting, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fitted, dict[str, Tensor]]:
    objective = Objective()
    fitted = run_fit(objective, tmp_path_factory.mktemp("undisturbed"), fitting=fitting)
    return fitted, copied(objective)


def interrupted(folder: Path, fitting: Fitting, dies_at: Sequence[int]) -> int:
    """Number of steps that fits took which died at these steps of theirs."""
    steps = 0
    for step in dies_at:
        objective = Objective(dies_at=step)
        with pytest.raises(Interrupted):
            run_fit(objective, folder, fitting=fitting)
        steps += objective.steps - 1
    return steps


def assert_ends_like(undisturbed: tuple[Fitted, dict[str, Tensor]], folder: Path, fitting: Fitting) -> Objective:
    """Goes on in the folder, and takes the same way: `results.json` holds the history in its order."""
    torch.manual_seed(12345)  # a new process starts with other random numbers
    objective = Objective()
    fitted = run_fit(objective, folder, fitting=fitting)
    assert_same(copied(objective), undisturbed[1])
    assert repr(fitted) == repr(undisturbed[0])
    return objective


@pytest.mark.parametrize("dies_at", [(1,), (6,), (7,), (9,), (18,), (3, 3, 3), (8, 5, 2)])
@pytest.mark.usefixtures("checkpoint_every_step")
def test_with_a_checkpoint_at_every_step(
    tmp_path: Path,
    fitting: Fitting,
    undisturbed: tuple[Fitted, dict[str, Tensor]],
    dies_at: tuple[int, ...],
) -> None:
    steps = interrupted(tmp_path, fitting, dies_at)
    objective = assert_ends_like(undisturbed, tmp_path, fitting)
    assert steps + objective.steps == 3 * STEPS, "a step that was saved is not taken again"


@pytest.mark.parametrize("dies_at", [(3,), (7,), (10,), (18,), (8, 5)])
def test_before_the_first_checkpoint_was_due(
    tmp_path: Path,
    fitting: Fitting,
    undisturbed: tuple[Fitted, dict[str, Tensor]],
    dies_at: tuple[int, ...],
) -> None:
    interrupted(tmp_path, fitting, dies_at)
    assert_ends_like(undisturbed, tmp_path, fitting)


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.usefixtures("checkpoint_every_step")
def test_died_while_it_validated(
    tmp_path: Path, fitting: Fitting, undisturbed: tuple[Fitted, dict[str, Tensor]], epoch: int
) -> None:
    calls = 0

    def dying(objective: nn.Module) -> Metrics:
        nonlocal calls
        calls += 1
        if calls == epoch:
            raise Interrupted
        return accuracy(objective)

    with pytest.raises(Interrupted):
        run_fit(Objective(), tmp_path, fitting=fitting, validate=dying)
    assert_ends_like(undisturbed, tmp_path, fitting)


@pytest.mark.usefixtures("checkpoint_every_step")
def test_finished_and_called_again(
    tmp_path: Path, fitting: Fitting, undisturbed: tuple[Fitted, dict[str, Tensor]]
) -> None:
    run_fit(Objective(), tmp_path, fitting=fitting)
    assert assert_ends_like(undisturbed, tmp_path, fitting).steps == 0


@pytest.mark.parametrize(("best", "dies_at"), [(1, 8), (1, 15), (2, 15), (3, 8)])
@pytest.mark.usefixtures("checkpoint_every_step")
def test_the_best_epoch_is_remembered(tmp_path: Path, fitting: Fitting, best: int, dies_at: int) -> None:
    scores = [0.9 if epoch == best else 0.1 * epoch for epoch in (1, 2, 3)]
    validate, seen = scripted(scores)
    with pytest.raises(Interrupted):
        run_fit(Objective(dies_at), tmp_path, fitting=fitting, validate=validate)
    objective = Objective()
    fitted = run_fit(objective, tmp_path, fitting=fitting, validate=validate)
    assert fitted.best_epoch == best
    assert_same(copied(objective), seen[best - 1])


@pytest.mark.usefixtures("checkpoint_every_step")
@pytest.mark.parametrize("mark", [None, "0.0.1"])
def test_a_checkpoint_that_is_not_whole_or_of_another_version_is_ignored(
    tmp_path: Path, fitting: Fitting, undisturbed: tuple[Fitted, dict[str, Tensor]], mark: str | None
) -> None:
    interrupted(tmp_path, fitting, [10])
    newest = tmp_path / "checkpoint-9"
    (newest / WHOLE).unlink()
    if mark:
        (newest / WHOLE).write_text(mark)
    (newest / "optimizer.pt").write_bytes(b"half")
    assert_ends_like(undisturbed, tmp_path, fitting)


@pytest.mark.parametrize("dies_at_removal", [1, 5, 6])
@pytest.mark.usefixtures("checkpoint_every_step")
def test_died_while_an_old_checkpoint_was_removed(
    tmp_path: Path,
    fitting: Fitting,
    undisturbed: tuple[Fitted, dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    dies_at_removal: int,
) -> None:
    removals = 0
    rmtree: Any = shutil.rmtree

    def dying(path: str | Path, *rest: Any, **named: Any) -> None:
        nonlocal removals
        removals += Path(path).name.startswith("checkpoint-")
        if removals == dies_at_removal:
            # What of a folder goes first is up to the file system; the largest file is the worst case.
            max((file for file in Path(path).iterdir()), key=lambda file: file.stat().st_size).unlink()
            raise Interrupted
        rmtree(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", dying)
        with pytest.raises(Interrupted):
            run_fit(Objective(), tmp_path, fitting=fitting)
    assert_ends_like(undisturbed, tmp_path, fitting)


@pytest.mark.parametrize(("best", "dies_at"), [(1, 15), (1, None), (3, None)])
@pytest.mark.usefixtures("checkpoint_every_step")
def test_the_folder_may_be_moved(tmp_path: Path, fitting: Fitting, best: int, dies_at: int | None) -> None:
    scores = [0.9 if epoch == best else 0.1 * epoch for epoch in (1, 2, 3)]
    validate, seen = scripted(scores)
    if dies_at:
        with pytest.raises(Interrupted):
            run_fit(Objective(dies_at), tmp_path / "here", fitting=fitting, validate=validate)
    else:
        run_fit(Objective(), tmp_path / "here", fitting=fitting, validate=validate)
    (tmp_path / "here").rename(tmp_path / "there")
    objective = Objective()
    run_fit(objective, tmp_path / "there", fitting=fitting, validate=validate)
    assert_same(copied(objective), seen[best - 1])


@pytest.mark.usefixtures("checkpoint_every_step")
def test_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    counts: list[int] = []

    class Counting(Objective):
        def forward(self, labels: Tensor, real: Tensor | None = None, **inputs: Tensor) -> Loss:
            counts.append(len(list(tmp_path.glob("checkpoint-*"))))
            return super().forward(labels, real, **inputs)

    run_fit(Counting(), tmp_path)
    assert max(counts) == 1


def test_checkpoints_are_rare(tmp_path: Path) -> None:
    run_fit(Objective(), tmp_path)
    assert list(tmp_path.glob("checkpoint-*")) == []


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "gpt2"])
def test_learning_rates_by_depth(backbone_folder: dict[str, str], family: str) -> None:
    encoder = TextEncoder(AutoModel.from_pretrained(backbone_folder[family]), classes=3)
    fitting = replace(FITTING, learning_rate=1e-3, layer_decay=0.5, head_learning_rate=7e-3)
    objective = Classification(encoder)
    rates = {id(weight): group["lr"] for group in parameter_groups(objective, fitting) for weight in group["params"]}
    first, last = ("h.0.", "h.1.") if family == "gpt2" else ("encoder.layer.0.", "encoder.layer.1.")
    by_rate: dict[float, set[str]] = {}
    for name, weight in objective.named_parameters():
        by_rate.setdefault(rates[id(weight)], set()).add(name)
    assert set(by_rate) == {7e-3, 1e-3, 0.5e-3, 0.25e-3}
    assert by_rate[7e-3] == {
        f"encoder.{part}.{kind}" for part in ("projection", "classifier") for kind in ("weight", "bias")
    }
    assert all(name.startswith(f"encoder.backbone.{first}") for name in by_rate[0.5e-3])
    assert {
        name for name in by_rate[0.25e-3] if "embeddings" not in name and ".wte" not in name and ".wpe" not in name
    } == set()
    assert f"encoder.backbone.{last}" in {name[: len(f"encoder.backbone.{last}")] for name in by_rate[1e-3]}
    assert not any(first in name or "embed" in name or ".wte" in name for name in by_rate[1e-3])


def test_without_layer_decay_all_learn_alike(backbone_folder: dict[str, str]) -> None:
    objective = Classification(TextEncoder(AutoModel.from_pretrained(backbone_folder["bert"]), classes=3))
    (group,) = parameter_groups(objective, FITTING)
    assert group["lr"] == FITTING.learning_rate
    assert len(group["params"]) == len(list(objective.parameters()))


def test_frozen_parameters_are_in_no_group(backbone_folder: dict[str, str]) -> None:
    encoder = TextEncoder(AutoModel.from_pretrained(backbone_folder["bert"]), classes=3)
    encoder.backbone.requires_grad_(False)
    (group,) = parameter_groups(Classification(encoder), replace(FITTING, head_learning_rate=1.0))
    assert (group["lr"], len(group["params"])) == (1.0, 4)
