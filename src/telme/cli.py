"""The command line: one frozen dataclass a command. Heavy imports are inside `run`, so that `--help` is immediate."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from telme.errors import TelMEError

if TYPE_CHECKING:
    from rich.table import Table

    from telme.conversation import Conversation
    from telme.recognizer import Recognizer
    from telme.transcripts import Results

OK, USER_ERROR, INTERRUPTED = 0, 2, 130

CorpusName = Annotated[Positional[Literal["meld"]], arg(metavar="CORPUS", help="The corpus: meld.")]
Root = Annotated[Positional[Path], arg(metavar="ROOT", help="Folder the corpus lies in.")]
Model = Annotated[Positional[str], arg(metavar="MODEL", help="A model folder, a Hub id, or mini, the bundled one.")]


@dataclass(frozen=True, slots=True)
class Demo:
    """Read the emotions of an example conversation with the bundled model, offline."""

    out: Path = Path("runs/demo")
    """Folder for the conversation and its predictions."""

    def run(self) -> int:
        from telme.conversation import Conversation
        from telme.files import write_whole
        from telme.transcripts import predictions_table, predictions_to_json

        source = Path(__file__).parent / "examples" / "office.json"
        results = _predict("mini", [Conversation.from_file(str(source))])
        _print_tables(predictions_table(results))
        self.out.mkdir(parents=True, exist_ok=True)
        write_whole(self.out / source.name, source.read_text(encoding="utf-8"))
        write_whole(self.out / "predictions.json", predictions_to_json(results))
        _say(f"wrote {self.out / source.name} and {self.out / 'predictions.json'}")
        return OK


@dataclass(frozen=True, slots=True)
class Check:
    """The data doctor: find every defect of a corpus, and say what `prepare` will do about it. Edits nothing.

    Exits with 0 if the corpus is clean or can be repaired, 3 if utterances are lost, 2 if it cannot be used.
    """

    corpus: CorpusName
    root: Root
    json: Path | None = None
    """File to write all findings to, as JSON."""

    def run(self) -> int:
        from telme.corpora import read_corpus
        from telme.doctor import examine, exit_code, findings_table
        from telme.files import write_json

        findings = examine(read_corpus(self.corpus, self.root))
        _print_tables([findings_table(findings)])
        if self.json:
            write_json(self.json, [finding.to_dict() for finding in findings])
            _say(f"wrote {len(findings):,} findings to {self.json}")
        return exit_code(findings)


@dataclass(frozen=True, slots=True)
class Prepare:
    """Write a corpus as a store, the form that training and evaluation read."""

    corpus: CorpusName
    root: Root
    out: Path
    """Folder of the store."""

    def run(self) -> int:
        from collections import Counter

        from telme.corpora import read_corpus
        from telme.store import prepare

        corpus = read_corpus(self.corpus, self.root)
        store = prepare(corpus, self.out)
        for split, conversations in corpus.splits.items():
            utterances = sum(map(len, conversations))
            _say(f"{split}: {len(conversations):,} conversations, {utterances:,} utterances")
        for (check, action), count in Counter((repair.check, repair.action) for repair in corpus.repairs).items():
            _say(f"{check}: {count:,} times, such as: {action}")
        _say(f"wrote {self.out} ({store.name})")
        return OK


@dataclass(frozen=True, slots=True)
class Train:
    """Train by a recipe. Killed at any moment, the same command goes on and ends with the same result."""

    preset: Annotated[
        Positional[str], arg(metavar="PRESET", help="mini, tiny, meld, iemocap, or a recipe.json of your own.")
    ]
    store: Path
    """Store that `telme prepare` wrote."""
    out: Path
    """Folder of the run."""
    stage: Literal["all", "teach"] = "all"
    """A single stage, or all that are not done yet."""
    seed: int | None = None
    """Instead of the recipe's."""
    text_backbone: str | None = None
    """Folder or Hub id of the text encoder, instead of the recipe's."""

    def run(self) -> int:
        from telme.recipes import load_recipe
        from telme.report import results_table
        from telme.stages import train
        from telme.store import Store

        recipe = load_recipe(self.preset)
        if self.seed is not None:
            recipe = replace(recipe, seed=self.seed)
        if self.text_backbone is not None:
            recipe = replace(recipe, text=replace(recipe.text, backbone=self.text_backbone))
        run = train(recipe, Store(self.store), self.out, stage=None if self.stage == "all" else self.stage)
        _print_tables(results_table(results) for results in run.results["results"])
        efficiency = run.results["stages"]["teach"]["padding_efficiency"]
        _say(f"padding efficiency {efficiency:.3f} (real tokens / computed tokens of training)")
        _say(f"wrote {run.path}: model/, results.json, report.html")
        return OK


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Score a model on a split: weighted F1 with its interval, each emotion, confusion, calibration."""

    model: Model
    store: Path
    """Store that `telme prepare` wrote."""
    split: str = "test"
    """Split to score on."""
    json: Path | None = None
    """File to write the results to; figures are written beside it."""

    def run(self) -> int:
        from telme.evaluation import evaluate
        from telme.figures import write_figures
        from telme.files import write_json
        from telme.report import results_table
        from telme.store import Store

        store = Store(self.store)
        recognizer = _load(self.model)
        results = evaluate(recognizer.model, recognizer.prompter, store, self.split, name=self.model).to_dict()
        _print_tables([results_table(results)])
        if self.json:
            write_json(self.json, results)
            figures = write_figures(results, self.json.parent)
            _say(f"wrote {self.json}, {', '.join(map(str, figures))}")
        return OK


@dataclass(frozen=True, slots=True)
class Predict:
    """Read the emotion of every utterance of one conversation or of several."""

    model: Model
    file: Annotated[
        Positional[str], arg(metavar="FILE", help="Conversation as .json, .jsonl or .csv; - is standard input.")
    ]
    format: Literal["auto", "table", "json", "csv"] = "auto"
    """Form of the output; auto is a table on a terminal and JSON elsewhere."""

    def run(self) -> int:
        from telme.transcripts import WRITERS, predictions_table, read

        results = _predict(self.model, read(self.file))
        if self.format == "table" or (self.format == "auto" and sys.stdout.isatty()):
            _print_tables(predictions_table(results))
        else:
            sys.stdout.write(WRITERS["json" if self.format == "auto" else self.format](results))
        return OK


Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Prepare, subcommand("prepare")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Predict, subcommand("predict")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; its exit status is 0, 2 for a user's error, 3 for lost utterances, 130 when interrupted."""
    # What is imported lives until the end. To look through it for garbage as often as Python does by default, and once
    # more at exit, takes a fifth of the time of a short command (docs/experiments.md).
    gc.set_threshold(100_000)
    # Hugging Face's own progress bars and reports would stand between our lines; an engineer can still ask for them.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        status = parse(arguments).run()
        sys.stdout.flush()
    except TelMEError as error:
        status = _refuse(str(error))
    except BrokenPipeError:  # the reader of our output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = OK
    except OSError as error:
        if error.filename is None:
            raise
        status = _refuse(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        status = INTERRUPTED
    gc.freeze()
    sys.exit(status)


def parse(arguments: Sequence[str] | None = None) -> Demo | Check | Prepare | Train | Evaluate | Predict:
    """The command that the arguments ask for.

    Raises:
        TelMEError: Arguments that do not fit; one line in place of tyro's box.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                Command,
                prog="telme",
                description="Multimodal emotion recognition in conversation.",
                args=arguments,
                config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone),
            )
    except SystemExit as end:
        if end.code != USER_ERROR:
            raise
        raise TelMEError(_one_line(box.getvalue())) from None


def _one_line(box: str) -> str:
    """What tyro says in a box, drawn in Unicode or ASCII, without its last section, which tells where the help is."""
    sections = [""]
    for line in box.splitlines()[1:-1]:
        words = line.strip("│| ")
        if set(words) <= {"─", "-"}:
            sections.append("")
        else:
            sections[-1] = f"{sections[-1]} {words}".strip()
    return "; ".join([*(section.rstrip(".") for section in sections[:-1] if section), "see telme --help"])


def _predict(model: str, conversations: Sequence[Conversation]) -> Results:
    return list(zip(conversations, _load(model)(conversations), strict=True))


def _load(model: str) -> Recognizer:
    from telme.progress import waiting
    from telme.recognizer import Recognizer

    with waiting(f"loading {model}"):
        return Recognizer.from_pretrained(model)


def _print_tables(tables: Iterable[Table]) -> None:
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


def _refuse(message: str) -> int:
    _say(" ".join(message.split()))
    return USER_ERROR


def _say(line: str) -> None:
    sys.stderr.write(f"telme: {line}\n")
