"""Makes the bundled model from finished runs that differ in their seed alone: the one with the best dev score.

    python scripts/bundle_mini.py runs/mini-1 runs/mini-2 runs/mini-3 --store runs/meld-text

Its weights are rounded to half precision, and it is these that are evaluated for the card and for `results.json`.
"""

from __future__ import annotations

import json
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
from telme.run import RESULTS
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
    rounded = bundle.out.parent / "rounded"

    def fill_rounded(folder: Path) -> None:
        recognizer = Recognizer.from_pretrained(best / "model")
        recognizer.model.half().save_pretrained(folder)
        recognizer.prompter.tokenizer.save_pretrained(folder)

    write_folder(rounded, fill_rounded)
    recognizer = Recognizer.from_pretrained(rounded)
    measured = [
        evaluate(recognizer.model, recognizer.prompter, store, split, name="mini").to_dict()
        for split in ("dev", "test")
    ]
    recipe = json.loads((best / "recipe.json").read_bytes())
    card = model_card(
        name="mini",
        license="apache-2.0",
        languages=["en"],
        base=BACKBONES[recipe["text"]["backbone"]],
        corpus=CORPORA["meld"],
        recipe=recipe,
        results=measured,
        other_seeds=[record for run in bundle.runs if run != best for record in results[run]],
    )
    write_whole(rounded / "README.md", card)
    write_whole(rounded / "recipe.json", (best / "recipe.json").read_text(encoding="utf-8"))
    write_json(rounded / RESULTS, measured)
    write_whole(rounded / "LICENSE", LICENSE.read_text(encoding="utf-8"))
    write_folder(bundle.out, lambda folder: _move_all(rounded, folder))
    sys.stderr.write(f"bundled {best} (dev {_score(measured, 'dev'):.4f}, test {_score(measured, 'test'):.4f})\n")


def _score(results: list[dict[str, Any]], split: str) -> float:
    return float(next(record["weighted_f1"] for record in results if record["split"] == split))


def _move_all(source: Path, target: Path) -> None:
    for file in source.iterdir():
        file.rename(target / file.name)
    source.rmdir()


if __name__ == "__main__":
    main(tyro.cli(Bundle))
