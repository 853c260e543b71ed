"""Objective + rows -> fitted weights: Hugging Face's Trainer behind one function, `fit`.

A fit may be killed at any moment and called again: it goes on from its last whole checkpoint and ends with the same
weights, bit for bit, as a fit that was never disturbed. Under `torchrun` every process takes its share of each batch;
the batches, and with them the losses, are those of one process.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from telme.collate import LengthGroupedBatches
from telme.distributed import barrier, gather_objects, is_main, rank, world_size
from telme.objectives import Loss
from telme.optimisation import averaged, device_has_bf16, parameter_groups
from telme.progress import StageProgress
from telme.recipes import Fitting

Metrics = Mapping[str, float]

SELECTED_BY = "dev_weighted_f1"  # the dev metric whose best epoch is kept
WHOLE = "whole"  # the file that marks a checkpoint as completely written, and by which version of TelME
CHECKPOINT_SECONDS = 60  # between checkpoints, at least;
CHECKPOINT_SHARE = 20  # writing them takes at most about 1/20 of the time
STEPS_BETWEEN_QUESTIONS = 20  # of several processes, that have to agree on when to save
LOADING_PROCESSES = 8  # beside a GPU, which would wait for the clips to be unpacked


class Rows(Protocol):
    """The training rows, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a fit did.

    Args:
        history: Per epoch: `epoch` from 1, `train_loss`, and the dev metrics that `validate` returned.
        best_epoch: The epoch whose weights were kept.
        padding_efficiency: Real tokens / computed tokens over all epochs.
    """

    history: tuple[Metrics, ...]
    best_epoch: int
    padding_efficiency: float


def fit(
    objective: nn.Module,
    rows: Rows,
    *,
    lengths: Sequence[int],
    collate: Callable[[list[Any]], dict[str, Tensor]],
    validate: Callable[[nn.Module], Metrics],
    fitting: Fitting,
    seed: int,
    folder: Path,
    title: str,
) -> Fitted:
    """Minimises the objective; on return it holds the weights of the epoch that was best on dev.

    Args:
        objective: Batch -> `Loss`; its parameters that require a gradient are fitted. It may be given `real`, see
            `telme.objectives`.
        rows: The training rows, by number.
        lengths: Of each row, in tokens, samples or frames; rows of similar length share a batch.
        collate: Rows -> the batch that the objective takes.
        validate: Objective -> its metrics, each named `dev_...`, `dev_weighted_f1` among them.
        fitting: Optimisation settings.
        seed: Of batch order and dropout; the caller has initialised the weights.
        folder: For checkpoints; the caller removes it once the result is safe.
        title: Names the stage in the progress bar.
    """
    batches = LengthGroupedBatches(lengths, batch_size=fitting.batch_size, seed=seed)
    optimizer = torch.optim.AdamW(parameter_groups(objective, fitting), weight_decay=fitting.weight_decay, fused=True)
    steps = len(batches) * fitting.epochs
    schedule = get_linear_schedule_with_warmup(
        optimizer,
        round(len(batches) * fitting.warmup_epochs),
        round(len(batches) * (fitting.schedule_epochs or fitting.epochs)),
    )
    model = _Averaging(objective, fitting.weight_average)
    with StageProgress(title, steps=steps, epochs=fitting.epochs, silent=not is_main()) as progress:
        trainer = _Trainer(
            model,
            rows=rows,
            batches=batches,
            collate=collate,
            validate=validate,
            optimizer=optimizer,
            schedule=schedule,
            progress=progress,
            args=_arguments(fitting, seed=seed, folder=folder),
        )
        trainer.train(resume_from_checkpoint=_last_whole_checkpoint(folder))
    objective.load_state_dict(model.best.state_dict())
    return Fitted(
        history=_history(trainer.state),
        best_epoch=int(model.best_epoch),
        padding_efficiency=batches.padding_efficiency(epochs=fitting.epochs),
    )


class _Averaging(nn.Module):
    """An objective, with the moving average of its weights where there is one, and the best weights so far.

    A checkpoint holds all of it.
    """

    best_epoch: Tensor
    loss_sum: Tensor
    losses: Tensor

    def __init__(self, objective: nn.Module, decay: float) -> None:
        super().__init__()
        self.objective = objective
        self.average = averaged(objective, decay) if decay else None
        self.best = copy.deepcopy(objective).requires_grad_(False)
        self.register_buffer("best_epoch", torch.zeros((), dtype=torch.int64))
        # Trainer's own sum starts anew when a run is resumed.
        self.register_buffer("loss_sum", torch.zeros(()))
        self.register_buffer("losses", torch.zeros(()))

    @property
    def evaluated(self) -> nn.Module:
        return self.objective if self.average is None else self.average.module

    def forward(self, **batch: Tensor) -> Loss:
        loss: Loss = self.objective(**batch)
        self.loss_sum += loss["loss"].detach()
        self.losses += 1
        return loss

    def keep(self, *, epoch: int) -> None:
        """Remembers the weights that are evaluated as the best so far."""
        self.best.load_state_dict(self.evaluated.state_dict())
        self.best_epoch.fill_(epoch)

    def mean_loss(self) -> float:
        """Mean training loss since the last call."""
        mean = float(self.loss_sum / self.losses)
        self.loss_sum.zero_()
        self.losses.zero_()
        return mean


def _arguments(fitting: Fitting, *, seed: int, folder: Path) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=fitting.epochs,
        per_device_train_batch_size=fitting.batch_size,
        max_grad_norm=fitting.max_grad_norm,
        bf16=device_has_bf16(),
        use_cpu=not torch.cuda.is_available(),  # Trainer wants to hear it before it computes in bfloat16 there
        seed=seed,
        eval_strategy="epoch",
        save_strategy="no",  # see _Checkpoints
        logging_strategy="no",
        metric_for_best_model=SELECTED_BY,
        greater_is_better=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        ddp_find_unused_parameters=True,  # LayerDrop leaves out layers
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs want several processes, not threads of this one
    return arguments


class _Share:
    """This process's share of each batch; one that would be left empty is given a filler, written as ~row."""

    def __init__(self, batches: LengthGroupedBatches) -> None:
        self.batches = batches
        self.batch_size, self.drop_last = batches.batch_size, batches.drop_last

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            first, end = (len(batch) * share // world_size() for share in (rank(), rank() + 1))
            yield batch[first:end] or [~batch[0]]


class _Rows(Dataset[tuple[Any, bool]]):
    """Rows with whether they are real."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, bool]:
        return (self.rows[row], True) if row >= 0 else (self.rows[~row], False)


@dataclass(frozen=True, slots=True)
class _Collate:
    collate: Callable[[list[Any]], dict[str, Tensor]]

    def __call__(self, rows: list[tuple[Any, bool]]) -> dict[str, Tensor]:
        batch = self.collate([row for row, _ in rows])
        if all(real for _, real in rows):
            return batch
        return {**batch, "real": torch.zeros_like(batch["labels"], dtype=torch.bool)}  # a filler stands alone


class _Trainer(Trainer):
    """Trainer with our batches, and with `validate` as its evaluation."""

    def __init__(
        self,
        model: _Averaging,
        *,
        rows: Rows,
        batches: LengthGroupedBatches,
        collate: Callable[[list[Any]], dict[str, Tensor]],
        validate: Callable[[nn.Module], Metrics],
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LambdaLR,
        progress: StageProgress,
        args: TrainingArguments,
    ) -> None:
        data = _Rows(rows)
        super().__init__(
            model,
            args,
            train_dataset=data,
            eval_dataset=data,  # Trainer insists on one; `evaluate` below asks `validate` instead
            data_collator=_Collate(collate),
            optimizers=(optimizer, schedule),
            callbacks=[_AverageWeights(model), _Checkpoints(), _ShowProgress(progress)],
        )
        self.remove_callback(PrinterCallback)
        self.averaging, self.batches, self.validate = model, batches, validate

    def get_train_dataloader(self) -> DataLoader[Any]:
        # With a generator of its own, so that starting an iterator does not move the random state of the dropout.
        loader: DataLoader[Any] = DataLoader(
            cast(Dataset[Any], self.train_dataset),
            batch_sampler=cast(Any, _Share(self.batches)),
            collate_fn=self.data_collator,
            generator=torch.Generator(),
            num_workers=min(LOADING_PROCESSES, os.cpu_count() or 1) if self.args.device.type == "cuda" else 0,
            persistent_workers=False,
            pin_memory=self.args.device.type == "cuda",
        )
        # As for one process: the batches are shared out already.
        prepared: DataLoader[Any] = prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, rng_types=[]
        )
        return prepared

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: object, **__: object) -> Tensor:
        loss: Loss = model(**inputs)
        return loss["loss"]

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        epoch = {"train_loss": self.averaging.mean_loss(), **self.validate(self.averaging.evaluated)}
        if self.state.best_metric is None or epoch[SELECTED_BY] > self.state.best_metric:
            self.averaging.keep(epoch=round(self.state.epoch or 0))
        metrics = {f"eval_{name}": value for name, value in epoch.items()}
        self.averaging.train()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _AverageWeights(TrainerCallback):
    def __init__(self, model: _Averaging) -> None:
        self.model = model

    def on_step_end(self, *_: object, **__: object) -> None:
        if self.model.average is not None:
            self.model.average.update_parameters(self.model.objective)


class _Checkpoints(TrainerCallback):
    """Saves as often as that stays cheap, within epochs too; keeps the newest whole checkpoint."""

    def __init__(self) -> None:
        self.saved = self.began = time.monotonic()
        self.cost = 0.0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        # An epoch's last step is saved after its validation: resumed from before that, the epoch would go without.
        if state.global_step % (state.max_steps // state.num_train_epochs):
            control.should_save = self._is_due(state.global_step)
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        control.should_save = self._is_due(STEPS_BETWEEN_QUESTIONS)
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        barrier()  # until every process has written its random state
        if is_main():
            folder = Path(str(args.output_dir))
            newest = _checkpoint(folder, state.global_step)
            (newest / WHOLE).write_text(version("telme"))
            for checkpoint in folder.glob("checkpoint-*"):
                if checkpoint != newest:
                    (checkpoint / WHOLE).unlink(missing_ok=True)  # before it is taken apart
                    shutil.rmtree(checkpoint)
        self.saved = time.monotonic()
        self.cost = self.saved - self.began

    def _is_due(self, step: int) -> bool:
        self.began = time.monotonic()
        due = self.began - self.saved > max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * self.cost)
        if world_size() > 1:  # clocks differ, and all save or none
            due = step % STEPS_BETWEEN_QUESTIONS == 0 and gather_objects(due)[0]
        return due


class _ShowProgress(TrainerCallback):
    def __init__(self, progress: StageProgress) -> None:
        self.progress = progress

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: object, **__: object) -> None:
        self.progress.at(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: object, **__: object) -> None:
        self.progress.at(state.global_step)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **shown: Any) -> None:
        dev = {name.removeprefix("eval_"): value for name, value in shown["metrics"].items()}
        self.progress.epoch_ended(round(state.epoch or 0), dev, best_before=state.best_metric)


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"


def _last_whole_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint of this version of TelME; others are removed, whose weights may have other names."""
    whole = []
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1])):
        mark = checkpoint / WHOLE
        if mark.is_file() and mark.read_text() == version("telme"):
            whole.append(str(checkpoint))
        elif is_main():
            shutil.rmtree(checkpoint)
    barrier()
    return whole[-1] if whole else None


def _history(state: TrainerState) -> tuple[Metrics, ...]:
    """One entry an epoch, from what the Trainer logged; the same keys in the same order whether resumed or not."""
    entries = [entry for entry in state.log_history if f"eval_{SELECTED_BY}" in entry]
    names = sorted(name.removeprefix("eval_") for name in entries[0] if name.startswith("eval_dev"))
    return tuple(
        {"epoch": round(entry["epoch"]), **{name: entry[f"eval_{name}"] for name in ("train_loss", *names)}}
        for entry in entries
    )
