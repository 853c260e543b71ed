"""`telme demo`: the whole system in small, from media files to a report, in minutes on a laptop's CPU, offline.

What a step has made stays in the demo's folder: a demo that was killed goes on, a finished one is shown again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from telme.conversation import Conversation
from telme.corpora import Corpus, read_corpus
from telme.corpora.synthetic import write_synthetic
from telme.doctor import examine, findings_table
from telme.experiments import Row, run_ablation
from telme.files import write_folder, write_json, write_whole
from telme.findings import Finding
from telme.prepare import prepare, problems_table
from telme.recipes import Recipe, tiny
from telme.recognizer import Recognizer
from telme.report import Content, Readings, ablation_table, results_table, write_report
from telme.run import Run
from telme.store import Store
from telme.transcripts import predictions_table, predictions_to_json, read, to_json

DIALOGUES = 48
PLANTED = "planted.json"  # of a made-up corpus, what was planted in it

MADE_UP = (
    "The corpus is made up: sentences of a phrasebook, synthetic voices, drawn faces, and the defects that MELD is "
    "known for. Scores on it show that the parts work together; they say nothing about people."
)
NO_VERDICT = (
    "Rows as in the paper's Table 3. On one small split, rows whose intervals overlap are not told apart, and they may "
    "come in another order than the paper's."
)
HELD_OUT = "A dialogue of the test split, which is neither trained on nor selected on, read from its own media files."

Chapter = tuple[str, Sequence[Content]]  # heading and what there is to tell


def demo(out: str | Path, *, recipe: Recipe | None = None) -> Iterator[RenderableType]:
    """Yields what there is to tell of each step, for the terminal; the last one writes `report.html`.

    Args:
        out: Folder that ends with `corpus`, `findings.json`, `store`, `ablation` (its runs), `model`,
            `conversation.json`, `predictions.json`, `results.json` and `report.html`.
        recipe: Of the model and of the last row of the ablation; `tiny` by default.

    Raises:
        TelMEError: The folder holds something else.
    """
    out, recipe = Path(out), recipe or tiny()
    torch.set_num_threads(1)  # the models are so small that threads would only wait for each other

    yield MADE_UP
    corpus = _made_up(out / "corpus")
    findings = _findings(corpus, out / "findings.json")
    checked = ("Checking the corpus", (_comparison(findings, corpus), findings_table(findings)))
    yield from _told(checked)

    store = prepare(corpus, out / "store")
    problems = store.problems()
    prepared = ("Preparing the store", (_splits_table(store), *([problems_table(problems)] if problems else [])))
    yield from _told(prepared)

    yield from _told(("Training teacher, students and fusion, in four variants", ()))
    rows = []
    for row in run_ablation(recipe, store, out / "ablation"):
        yield f"{row.variant.name}: {row.runs[0].path}"
        rows.append(row)
    run = rows[-1].runs[0]
    on_test = [record for record in run.results["results"] if record["split"] == "test"]
    _write_results(out, rows, run)
    ablated = ("Ablation", (NO_VERDICT, ablation_table([row.to_dict("test") for row in rows])))
    yield from _told(ablated)
    yield from map(results_table, on_test)

    write_whole(out / "conversation.json", to_json(_held_out(corpus, findings, out)) + "\n")
    conversations = read(out / "conversation.json")
    predictions = Recognizer.from_pretrained(out / "model")(conversations, title="reading clips")
    results = list(zip(conversations, predictions, strict=True))
    write_whole(out / "predictions.json", predictions_to_json(results))
    unseen = ("A conversation that it has not seen", (HELD_OUT, Readings(results, recipe.fusion.theta)))
    yield from _told(unseen)

    write_report(
        out / "report.html",
        title="TelME in small",
        recipe=asdict(run.recipe),
        environment=run.environment,
        histories={name: fitted["history"] for name, fitted in run.results["stages"].items()},
        results=on_test,
        notes=[MADE_UP],
        chapters=dict([unseen, ablated, prepared, checked]),
    )
    yield f"wrote {out / 'report.html'}, and beside it the corpus, the store, the runs and the model"


def _told(chapter: Chapter) -> Iterator[RenderableType]:
    """A chapter as the terminal shows it."""
    heading, contents = chapter
    yield Text(f"\n{heading}", style="bold")
    for content in contents:
        yield from predictions_table(content.results) if isinstance(content, Readings) else [content]


def _made_up(root: Path) -> Corpus:
    if not (root / PLANTED).is_file():
        write_synthetic(root, dialogues=DIALOGUES, defects=True)
    return read_corpus("meld", root)


def _findings(corpus: Corpus, file: Path) -> list[Finding]:
    """What the doctor finds, kept in a file."""
    if not file.is_file():
        write_json(file, [finding.to_dict() for finding in examine(corpus)])
    return [Finding(**fields) for fields in json.loads(file.read_bytes())]


def _comparison(findings: Sequence[Finding], corpus: Corpus) -> str:
    """How many of the planted defects were found."""
    planted = [(p["check"], p["utterance"]) for p in json.loads((Path(corpus.root) / PLANTED).read_bytes())]
    missed = Counter(planted) - Counter((finding.check, finding.utterance) for finding in findings)
    return (
        f"{len(findings):,} findings of {len({finding.check for finding in findings})} kinds; of {len(planted):,} "
        f"planted defects, {missed.total() or 'none'} {'were' if missed.total() > 1 else 'was'} missed."
    )


def _splits_table(store: Store) -> Table:
    """What the store holds."""
    table = Table("split")
    for heading in ("conversations", "utterances", "with a voice", "with a face"):
        table.add_column(heading, justify="right")
    for split in store.splits:
        clips = store.clips(split)
        counts = (len(store.conversations(split)), len(clips), sum(map(bool, clips.samples)), sum(clips.has_frames))
        table.add_row(split, *(f"{count:,}" for count in counts))
    return table


def _write_results(out: Path, rows: Sequence[Row], run: Run) -> None:
    """Writes the scores of all runs, and the model of the last."""
    splits = [record["split"] for record in run.results["results"]]
    ablation = [row.to_dict(split) for split in splits for row in rows]
    write_json(out / "results.json", {**run.results, "ablation": ablation})
    if not (out / "model").is_dir():
        write_folder(out / "model", lambda folder: _copy(run.model, folder))


def _copy(folder: Path, target: Path) -> None:
    shutil.copytree(folder, target, dirs_exist_ok=True)


def _held_out(corpus: Corpus, findings: Sequence[Finding], folder: Path) -> Conversation:
    """The first of the test dialogues with the fewest defects; the paths of its clips count from the folder."""
    defects = Counter(finding.utterance for finding in findings if finding.check != "surround-audio")
    chosen = min(corpus.splits["test"], key=lambda dialogue: sum(defects[turn.id] for turn in dialogue))
    clips = (Path(os.path.relpath(corpus.sources[str(turn.id)].file, folder)).as_posix() for turn in chosen)
    # Their times are places in an episode, which nobody has.
    turns = (replace(turn, start=None, end=None, media=clip) for turn, clip in zip(chosen, clips, strict=True))
    return replace(chosen, utterances=tuple(turns))
