"""A run's folder: which experiment it is, what its stages have made so far, and what it ends with.

`recipe.json` and `environment.json` are written first, what a stage makes lies in `stages/` under a name that tells
all it depends on, and `model/`, `report.html` and `results.json` appear, whole and in this order, at the end.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from telme.distributed import barrier, is_main
from telme.errors import TelMEError
from telme.files import write_json, write_whole
from telme.optimisation import device_has_bf16
from telme.recipes import Recipe, load_recipe
from telme.store import Store

RECIPE, ENVIRONMENT, RESULTS = "recipe.json", "environment.json", "results.json"


class Run:
    """One experiment's folder.

    Args:
        path: The folder; `begin` makes it.
        recipe: The experiment.
        store: What it reads.
        stages: Folder of what the stages make, where several runs share it; a run's own by default.

    Raises:
        TelMEError: The folder holds something else: another recipe, another store's run, or no run at all.
    """

    def __init__(self, path: str | Path, recipe: Recipe, store: Store, *, stages: Path | None = None) -> None:
        self.path, self.recipe, self.store = Path(path), recipe, store
        self.owns_stages = stages is None
        self.stages = stages or self.path / "stages"
        if (self.path / RECIPE).is_file():
            self._check_same()
            return
        if self.path.exists() and (not self.path.is_dir() or not all(map(_is_beginning, self.path.iterdir()))):
            raise TelMEError(f"{path}: exists and is not a run; name a new or empty folder")

    def begin(self) -> None:
        """Writes down which experiment this is, unless that is done; called once nothing can be refused any more."""
        if not (self.path / RECIPE).is_file() and is_main():
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / ENVIRONMENT, _environment(self.store))
            write_whole(self.path / RECIPE, self.recipe.to_json())
        barrier()

    def stage(self, name: str, depends_on: Any) -> Path:
        """Folder of what a stage makes, there once it is done.

        Args:
            depends_on: All that decides the outcome beside the store, as values for JSON.
        """
        facts = json.dumps([self.store.name, depends_on], sort_keys=True)
        return self.stages / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"

    @property
    def model(self) -> Path:
        """The model folder, there once a run is finished."""
        return self.path / "model"

    @property
    def is_finished(self) -> bool:
        """Whether every stage is done and its results are written."""
        return (self.path / RESULTS).is_file()

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and store the run began with."""
        return self._read(ENVIRONMENT)

    @property
    def results(self) -> dict[str, Any]:
        """Every number of the finished run."""
        return self._read(RESULTS)

    def finish(self, results: dict[str, Any]) -> None:
        """Writes `results.json`, the last file of a run."""
        write_json(self.path / RESULTS, results)

    def _read(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / name).read_bytes())
        return content

    def _check_same(self) -> None:
        if load_recipe(str(self.path / RECIPE)) != self.recipe:
            raise TelMEError(f"{self.path / RECIPE}: another recipe or seed was begun here; name another --out")
        if self.environment["store"] != self.store.name:
            raise TelMEError(
                f"{self.path}: begun with store {self.environment['store']}, not {self.store.name}; name another folder"
            )


def _is_beginning(file: Path) -> bool:
    """Whether a run that was killed before it had written its recipe can have left this file."""
    return file.name.removesuffix(".unfinished") in (RECIPE, ENVIRONMENT)


def _environment(store: Store) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "store": store.name,
        "telme": version("telme"),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "datasets", "accelerate", "numpy")},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if device_has_bf16() else "float32",
    }
