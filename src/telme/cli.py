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

CorpusName = Annotated[
    Positional[Literal["meld", "iemocap", "manifest"]],
    arg(metavar="CORPUS", help="The corpus: meld, iemocap, or manifest, conversations of your own."),
]
Root = Annotated[
    Positional[Path], arg(metavar="ROOT", help="Folder the corpus lies in; of manifest, the JSONL file or its folder.")
]
Model = Annotated[Positional[str], arg(metavar="MODEL", help="A model folder, a Hub id, or mini, the bundled one.")]


@dataclass(frozen=True, slots=True)
class Demo:
    """The whole system in small, offline: make up a corpus, check and prepare it, train, ablate, predict, report.

    Takes minutes on two cores. Killed at any moment, the same command goes on; finished, it shows its results again.
    """

    out: Path = Path("runs/demo")
    """Folder for all of it."""

    def run(self) -> int:
        from rich.console import Console

        from telme.demo import demo

        console = Console()
        for told in demo(self.out):
            console.print(told, markup=False, highlight=False)
        return OK


@dataclass(frozen=True, slots=True)
class Check:
    """The data doctor: find every defect of a corpus, and say what `prepare` will do about it. Edits nothing.

    Exits with 0 if the corpus is clean or can be repaired, 3 if utterances are lost or have text only though their
    split has clips, 2 if it cannot be used.
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
class Synth:
    """Make up a corpus of real media files, laid out as the real one is, to try everything without it."""

    out: Annotated[Positional[Path], arg(metavar="OUT", help="Folder for the corpus; new or empty.")]
    corpus: Literal["meld", "iemocap"] = "meld"
    """Whose layout and emotions it has."""
    dialogues: int = 36
    """How many dialogues, of 4 to 10 turns each."""
    seed: int = 0
    """The same seed makes the same files."""
    defects: bool = False
    """Plant the defects that the real corpus is known for; planted.json lists what `telme check` must find."""

    def run(self) -> int:
        from telme.corpora.synthetic import write_synthetic

        write_synthetic(self.out, corpus=self.corpus, dialogues=self.dialogues, seed=self.seed, defects=self.defects)
        _say(f"wrote {self.out}; read it with telme check {self.corpus} {self.out}")
        return OK


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
        from telme.prepare import find_prepared, prepare, problems_table

        corpus = read_corpus(self.corpus, self.root)
        finished = find_prepared(corpus, self.out)
        store = finished or prepare(corpus, self.out)
        for split, conversations in corpus.splits.items():
            clips = store.clips(split)
            _say(
                f"{split}: {len(conversations):,} conversations, {len(clips):,} utterances; "
                f"{sum(map(bool, clips.samples)):,} with a voice, {sum(clips.has_frames):,} with a face"
            )
        for (check, action), count in Counter((repair.check, repair.action) for repair in corpus.repairs).items():
            _say(f"{check}: {count:,} times, such as: {action}")
        if problems := store.problems():
            _print_tables([problems_table(problems)])
        _say(f"{'nothing to do, there is' if finished else 'wrote'} {self.out} ({store.name})")
        return OK


@dataclass(frozen=True, slots=True)
class Train:
    """Train by a recipe. Killed at any moment, the same command goes on and ends with the same result."""

    preset: Annotated[
        Positional[str],
        arg(
            metavar="PRESET",
            help="meld, iemocap, meld-released, iemocap-released, mini, tiny, or a recipe.json of your own.",
        ),
    ]
    store: Path
    """Store that `telme prepare` wrote."""
    out: Path
    """Folder of the run."""
    stage: Literal["all", "teach", "distil", "fuse"] = "all"
    """A single stage, or all that are not done yet."""
    seed: int | None = None
    """Instead of the recipe's."""
    text_backbone: str | None = None
    """Folder or Hub id of the text encoder, instead of the recipe's."""
    audio_backbone: str | None = None
    """Folder or Hub id of the audio encoder, instead of the recipe's."""
    visual_backbone: str | None = None
    """Folder or Hub id of the visual encoder, instead of the recipe's."""

    def run(self) -> int:
        from telme.distributed import is_main
        from telme.recipes import load_recipe
        from telme.report import results_table
        from telme.stages import train
        from telme.store import Store

        recipe = load_recipe(self.preset)
        if self.seed is not None:
            recipe = replace(recipe, seed=self.seed)
        for modality in ("text", "audio", "visual"):
            if backbone := getattr(self, f"{modality}_backbone"):
                recipe = recipe.with_backbone(modality, backbone)
        run = train(recipe, Store(self.store), self.out, stage=None if self.stage == "all" else self.stage)
        if not run.is_finished:
            _say(f"stage {self.stage} is done; the other stages are left")
            return OK
        if is_main():
            _print_tables(results_table(results) for results in run.results["results"])
            for name, fitted in run.results["stages"].items():
                _say(f"{name}: padding efficiency {fitted['padding_efficiency']:.3f} (real / computed in training)")
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
    as_released: bool = False
    """Of a model that import-released made: also repeat the authors' evaluation, and show both scores."""

    def run(self) -> int:
        from telme.distributed import is_main, join
        from telme.evaluation import evaluate
        from telme.figures import write_figures
        from telme.files import write_json
        from telme.released import comparison_table, evaluate_as_released
        from telme.report import results_table
        from telme.store import Store

        join()
        store = Store(self.store)
        recognizer = _load(self.model)
        read = (recognizer.model, recognizer.prompter, store, self.split)
        released = evaluate_as_released(*read).to_dict() if self.as_released else None
        results = evaluate(*read, name=self.model).to_dict()
        if not is_main():
            return OK
        _print_tables([results_table(results)])
        if released:
            _print_tables([comparison_table(results, released)])
            results["as_released"] = released
        if self.json:
            write_json(self.json, results)
            figures = write_figures(results, self.json.parent)
            _say(f"wrote {self.json}, {', '.join(map(str, figures))}")
        return OK


@dataclass(frozen=True, slots=True)
class ImportReleased:
    """Bring the weights that TelME's authors published into a model folder. Nothing in their files is run.

    The folder holds teacher.bin, student_audio/total_student.bin, student_video/total_student.bin and total_fusion.bin.
    """

    folder: Annotated[Positional[Path], arg(metavar="DIR", help="The authors' save_model folder.")]
    out: Path
    """Folder of the model."""
    text_backbone: str = "FacebookAI/roberta-large"
    """Folder or Hub id with the text encoder's configuration and tokenizer."""
    audio_backbone: str = "facebook/data2vec-audio-base-960h"
    """Folder or Hub id with the audio encoder's configuration."""
    visual_backbone: str = "facebook/timesformer-base-finetuned-k400"
    """Folder or Hub id with the visual encoder's configuration."""

    def run(self) -> int:
        from telme.released import import_released

        backbones = {"text": self.text_backbone, "audio": self.audio_backbone, "visual": self.visual_backbone}
        model = import_released(self.folder, self.out, backbones=backbones)
        _say(f"wrote {self.out}: {model.config.label_set}, labels {', '.join(model.config.labels)}")
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
    media: Path | None = None
    """Recording of the conversation, in which its times are seconds; instead of the one that FILE names."""

    def run(self) -> int:
        from telme.transcripts import WRITERS, predictions_table, read

        conversations = read(self.file)
        if self.media is not None:
            conversations = [replace(conversation, media=str(self.media)) for conversation in conversations]
        results = _predict(self.model, conversations)
        for _, predictions in results:
            for number, prediction in enumerate(predictions, start=1):
                if prediction.problems:
                    _say(f"utterance {number}, {prediction.utterance.speaker}: {', '.join(prediction.problems)}")
        if self.format == "table" or (self.format == "auto" and sys.stdout.isatty()):
            _print_tables(predictions_table(results))
        else:
            sys.stdout.write(WRITERS["json" if self.format == "auto" else self.format](results))
        return OK


Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Synth, subcommand("synth")]
    | Annotated[Prepare, subcommand("prepare")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[ImportReleased, subcommand("import-released")]
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


def parse(
    arguments: Sequence[str] | None = None,
) -> Demo | Check | Synth | Prepare | Train | Evaluate | Predict | ImportReleased:
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
    return list(zip(conversations, _load(model)(conversations, title="reading clips"), strict=True))


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
