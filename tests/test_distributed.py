"""Two processes against one: equal rows, losses and gradients, however a batch is split between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from telme.distributed import barrier, gather_objects, gather_rows, is_main, rank, world_size
from telme.encoders import Encoded
from telme.fusion import FusionSettings, build_fusion
from telme.objectives import Classification, Distillation, FusionObjective, Loss

ROWS = 5
CLASSES = 3
SPLITS = ((3, 2), (1, 4), (5, 0))  # of the rows between two ranks
TENSORS = {
    "float": torch.arange(10.0).reshape(5, 2),
    "integer": torch.arange(5),
    "boolean": torch.tensor([True, False, True, True, False]),
    "deep": torch.arange(5 * 2 * 3.0).reshape(5, 2, 3),
}
OBJECTIVES = ("classification", "distillation", "fusion")


class Encoder(nn.Module):
    """A vector -> 768 -> the class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(4, 768)
        self.classifier = nn.Linear(768, CLASSES)

    def forward(self, values: Tensor) -> Encoded:
        embedding = self.projection(values).tanh()
        return Encoded(embedding, self.classifier(embedding))


def objective(name: str) -> nn.Module:
    torch.manual_seed(0)
    match name:
        case "classification":
            return Classification(Encoder(), label_smoothing=0.1)
        case "distillation":
            return Distillation(Encoder(), alpha=0.7, beta=5.0, temperature=2.0)
        case _:
            return FusionObjective(
                build_fusion(FusionSettings(attend="dialogue"), classes=CLASSES), modality_dropout=0.4
            )


def batch(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 2, 1, 2, 0])
    if name == "fusion":
        return {
            "labels": labels,
            "leading": torch.randn(ROWS, 768, generator=generator),
            "students": torch.randn(ROWS, 2, 768, generator=generator),
            "present": torch.tensor([[True, True], [True, False], [True, True], [False, True], [True, True]]),
            "conversation": torch.tensor([0, 0, 0, 1, 1]),  # the split 1 + 4 cuts through the first
        }
    inputs = {"labels": labels, "values": torch.randn(ROWS, 4, generator=generator)}
    if name == "distillation":
        inputs["teacher_embedding"] = torch.randn(ROWS, 768, generator=generator)
        inputs["teacher_logits"] = torch.randn(ROWS, CLASSES, generator=generator)
    return inputs


def result(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    torch.manual_seed(2)  # of the dropout
    loss: Loss = model(**inputs)
    loss["loss"].backward()
    gradients = {name.removeprefix("module."): parameter.grad for name, parameter in model.named_parameters()}
    return {
        "loss": loss["loss"].detach(),
        "logits": loss["logits"].detach(),
        "terms": {name: term.detach() for name, term in loss["terms"].items()},
        "gradients": gradients,
    }


def mine(tensor: Tensor, split: tuple[int, int]) -> Tensor:
    begin = sum(split[: rank()])
    return tensor[begin : begin + split[rank()]]


def with_filler(inputs: dict[str, Tensor], split: tuple[int, int]) -> dict[str, Tensor]:
    """This rank's rows; a rank without any takes the first row of the batch as a filler."""
    if split[rank()]:
        return {name: mine(tensor, split) for name, tensor in inputs.items()}
    return {name: tensor[:1] for name, tensor in inputs.items()} | {"real": torch.tensor([False])}


def work(number: int, folder: Path) -> None:
    """What each of the two processes does: everything that the tests ask about, saved for them to read."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    results: dict[Any, Any] = {
        "process": (rank(), world_size(), is_main()),
        "objects": gather_objects({"rank": rank()}),
        "rows": {(name, split): gather_rows(mine(TENSORS[name], split)) for name in TENSORS for split in SPLITS},
    }
    for name in OBJECTIVES:
        for split in SPLITS:
            model = DistributedDataParallel(objective(name))
            results[name, split] = result(model, with_filler(batch(name), split))
    barrier()
    torch.save(results, folder / f"{number}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(work, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


def test_each_process_knows_its_place(ranks: list[dict[Any, Any]]) -> None:
    assert [found["process"] for found in ranks] == [(0, 2, True), (1, 2, False)]
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    barrier()


def test_objects_are_gathered_in_rank_order(ranks: list[dict[Any, Any]]) -> None:
    assert [found["objects"] for found in ranks] == [[{"rank": 0}, {"rank": 1}]] * 2
    assert gather_objects("alone") == ["alone"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", TENSORS)
def test_rows_are_gathered_in_rank_order(ranks: list[dict[Any, Any]], name: str, split: tuple[int, int]) -> None:
    for found in ranks:
        torch.testing.assert_close(found["rows"][name, split], TENSORS[name], rtol=0, atol=0)


def test_one_process_gets_the_very_rows_it_gave() -> None:
    rows = torch.ones(3, 2)
    assert gather_rows(rows) is rows


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_train_as_one(ranks: list[dict[Any, Any]], name: str, split: tuple[int, int]) -> None:
    alone = result(objective(name), batch(name))
    assert all(gradient.abs().max() > 1e-4 for gradient in alone["gradients"].values())
    for found in ranks:
        torch.testing.assert_close(found[name, split], alone, rtol=1e-6, atol=1e-6)
