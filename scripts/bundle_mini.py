"""Makes the bundled model from finished runs that differ in their seed alone: the one with the best dev score.

    python scripts/bundle_mini.py runs/mini-1 runs/mini-2 runs/mini-3 --store runs/meld-text

Its weights are rounded to half precision, and it is these that are evaluated for the card and for `results.json`.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from telme.evaluation import evaluate
from telme.files import write_folder, write_json, write_whole
from telme.model_card import BACKBONES, CORPORA, model_card
from telme.recognizer import BUNDLED, Recognizer
from telme.run import RECIPE, RESULTS
from telme.store import Store

LICENSE = Path("/usr/share/common-licenses/Apache-2.0")  # of the base model; on every Debian machine


@dataclass(frozen=True)
class Bundle:
    """Picks, rounds, evaluates and writes the bundled model."""

    runs: Positional[tuple[Path, ...]]
    """Finished runs of one recipe."""
    store: Path
    """The store they were trained on."""
    out: Path = BUNDLED / "mini"
    """Where the model goes."""


def main(bundle: Bundle) -> None:
    store = Store(bundle.store)
    results = {run: json.loads((run / RESULTS).read_bytes())["results"] for run in bundle.runs}
    best = max(bundle.runs, key=lambda run: _score(results[run], "dev"))
    recipe = json.loads((best / RECIPE).read_bytes())

    def fill(folder: Path) -> None:
        recognizer = Recognizer.from_pretrained(best / "model")
        recognizer.model.half().save_pretrained(folder)
        recognizer.prompter.tokenizer.save_pretrained(folder)
        rounded = Recognizer.from_pretrained(folder)
        measured = [
            evaluate(rounded.model, rounded.prompter, store, split, name="mini").to_dict() for split in ("dev", "test")
        ]
        card = model_card(
            name="mini",
            license="apache-2.0",
            languages=["en"],
            bases={"text": BACKBONES[recipe["text"]["backbone"]]},
            corpus=CORPORA["meld"],
            recipe=recipe,
            results=measured,
            other_seeds=[record for run in bundle.runs if run != best for record in results[run]],
        )
        write_whole(folder / "README.md", card)
        write_json(folder / RESULTS, measured)
        shutil.copyfile(best / RECIPE, folder / RECIPE)
        shutil.copyfile(LICENSE, folder / "LICENSE")

    write_folder(bundle.out, fill)
    sys.stderr.write(f"bundled {best}, whose dev weighted F1 is {_score(results[best], 'dev'):.4f}\n")


def _score(results: list[dict[str, Any]], split: str) -> float:
    return float(next(record["weighted_f1"] for record in results if record["split"] == split))


if __name__ == "__main__":
    main(tyro.cli(Bundle))
