"""The table, the figures, the HTML page and the model card say what the results say, and odd names do no harm."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from huggingface_hub import ModelCard
from rich.console import Console
from rich.table import Table

from telme.conversation import Conversation, Modality, Utterance
from telme.figures import write_figures
from telme.metrics import Results, score
from telme.model_card import Source, model_card
from telme.prediction import Prediction
from telme.report import Readings, ablation_table, results_table, write_report

ODD = "<b>&$x_1$ [red]|"  # HTML, mathematics of Matplotlib, markup of Rich, a cell's end in Markdown
NAMES = ("neutral", "joy", ODD)
HISTORY = [
    {"epoch": 1, "train_loss": 1.5, "dev_loss": 1.25, "dev_weighted_f1": 0.5, "seconds": 60.0},
    {"epoch": 2, "train_loss": 0.75, "dev_loss": 1.0, "dev_weighted_f1": 0.61234, "seconds": 61.0},
]


@pytest.fixture
def record() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=50)
    probabilities = rng.dirichlet((1, 1, 1), size=50) * 0.8 + np.eye(3)[labels] * 0.2
    scores = score(probabilities, labels, rng.integers(9, size=50), NAMES)
    return Results(
        split="test", scores=scores, subsets={}, selected_on="dev", seed=3, model=f"runs/{ODD}", store="s"
    ).to_dict()


def findings() -> Table:
    table = Table("check", title="What was found", caption=f"in {ODD}")
    table.add_column("utterances", justify="right")
    table.add_row(ODD, "12")
    return table


def conversation() -> tuple[Conversation, list[Prediction]]:
    said = Conversation("dia0", (Utterance("Ann", f"No way {ODD}", label=ODD), Utterance("Bob", "Yes.")))
    ann, bob = (
        Prediction(
            utterance=utterance,
            label="joy",
            probabilities={"neutral": 0.25, "joy": 0.625, ODD: 0.125},
            modalities=("visual",),
            text_only={},
            shift=0.0,
        )
        for utterance in said
    )
    alone = {"neutral": 0.5, "joy": 0.375, ODD: 0.125}
    return said, [replace(ann, modalities=("text", "audio"), text_only=alone, shift=0.05), bob]


@pytest.fixture
def page(record: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    write_report(
        path,
        title=f"Run {ODD}",
        recipe={"name": "mini", "teach": {"epochs": 4, "labels": [1, 2], "path": ODD}},
        environment={"torch": "2.13.0", "gpu": None},
        histories={"teacher": HISTORY},
        results=[record, record | {"split": "dev"}],
        notes=[f"A note {ODD}"],
        chapters={"Findings": (f"A paragraph {ODD}", findings()), "Said": (Readings([conversation()], theta=0.1),)},
    )
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def test_table_shows_every_emotion_and_the_whole_in_percent(record: dict[str, Any]) -> None:
    printed = io.StringIO()
    Console(width=100, file=printed).print(results_table(record))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.getvalue().splitlines()]
    low, high = record["weighted_f1_interval"]
    for label in NAMES:
        assert [label, percent(record["per_class"][label]), str(record["support"][label])] in lines
    assert ["weighted F1", percent(record["weighted_f1"]), f"95 %: {percent(low)} to {percent(high)}"] in lines
    assert ["accuracy", percent(record["accuracy"]), ""] in lines


def test_figures_are_the_same_bytes_each_time_and_hold_the_labels(record: dict[str, Any], tmp_path: Path) -> None:
    first = write_figures(record, tmp_path / "a")
    second = write_figures(record, tmp_path / "b")
    assert [path.name for path in first] == ["test-confusion.svg", "test-reliability.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    texts = {element.text for element in ElementTree.parse(first[0]).iter() if element.tag.endswith("text")}
    assert set(NAMES) <= texts
    assert str(record["confusion"][0][0]) in texts


class Outline(HTMLParser):
    """Every element with its attributes, all text, and whether elements close in order."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert not parser.open
    return parser


def test_page_holds_the_numbers(page: str, record: dict[str, Any]) -> None:
    text = outline(page).text
    assert f"{percent(record['weighted_f1'])} %" in text
    assert {percent(f1) for f1 in record["per_class"].values()} <= set(text)
    assert {str(count) for row in record["confusion"] for count in row} <= set(text)
    assert {"Results on test", "Results on dev", "teach.epochs", "4", "1, 2", "null", "61.23", "0.7500"} <= set(text)


def test_page_shows_each_stage_and_what_each_modality_is_worth(record: dict[str, Any], tmp_path: Path) -> None:
    record["subsets"] = {
        name: {"utterances": 50 - number, "weighted_f1": 0.1 * number, "weighted_f1_interval": [0.0, 0.9]}
        for number, name in enumerate(("text", "audio", "text+audio"), start=1)
    }
    write_report(
        tmp_path / "report.html",
        title="Run",
        recipe={},
        environment={},
        histories={"text teacher": HISTORY, "audio student": HISTORY[:1], "fusion": HISTORY},
        results=[record],
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = outline(page).text
    assert re.findall(r"<h2>Training: (.*?)</h2>", page) == ["text teacher", "audio student", "fusion"]
    assert [text.count(part) for part in ("text + audio", "30.00", "0.00 to 90.00")] == [1, 1, 3]
    printed = io.StringIO()
    Console(width=100, file=printed).print(results_table(record))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.getvalue().splitlines()]
    assert ["text + audio", "30.00", "47"] in lines


def test_page_says_which_split_the_weights_were_selected_on(page: str) -> None:
    assert "selected on dev" in page
    tiles = re.findall(r"weighted F1 on (\w+)<strong>.*?</div>", page)
    optimistic = re.findall(r"weighted F1 on (\w+)<strong>[^/]*?/strong>(?:(?!</div>).)*optimistic", page)
    assert (tiles, optimistic) == (["test", "dev"], ["dev"])


def test_page_escapes_names_and_needs_nothing_from_elsewhere(page: str) -> None:
    parsed = outline(page)
    assert "".join(parsed.text).count(ODD) >= 6  # title, heading, model, note, tables, recipe
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"b", "script", "link", "img", "iframe"}
    references = [
        attrs[key] or "" for _, attrs in parsed.elements for key in ("href", "src", "xlink:href") if key in attrs
    ]
    assert all(reference.startswith("#") for reference in references)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_page_tells_a_table_as_the_terminal_does(page: str) -> None:
    text = outline(page).text
    at = text.index("Findings")
    assert [part for part in text[at : at + 16] if part.strip()][:7] == [
        "Findings",
        f"A paragraph {ODD}",
        f"What was found; in {ODD}",
        "check",
        "utterances",
        ODD,
        "12",
    ]


def test_page_shows_how_far_voice_and_face_moved_a_reading(page: str) -> None:
    assert {"Ann", f"No way {ODD}", "neutral 50%", "text + audio", "62.5%", "5.0%"} <= set(outline(page).text)
    shares = re.findall(r'<span class="bar (\w+)" style="--share:([\d.]+)">', page)
    # Of the probability, out of 1; of the shift, out of theta.
    assert shares == [("blue", "0.625"), ("orange", "0.500"), ("blue", "0.625"), ("orange", "0.000")]


def ablated(variant: str, *scores: float) -> dict[str, Any]:
    return {
        "variant": variant,
        "split": "test",
        "utterances": 34,
        "weighted_f1": scores[0],
        "weighted_f1_spread": None if len(scores) == 1 else 0.0123,
        "weighted_f1_interval": [0.4, 0.6],
        "weighted_f1_by_seed": dict(zip("345", scores, strict=False)),
        "selected_on": "dev",
    }


@pytest.mark.parametrize(
    ("scores", "shown", "caption"), [((0.5,), "50.00", "seed 3"), ((0.5, 0.6), "50.00 ± 1.23", "seeds 3, 4")]
)
def test_ablation_says_what_it_was_selected_on_and_how_far_it_may_be_off(
    scores: tuple[float, ...], shown: str, caption: str
) -> None:
    printed = io.StringIO()
    Console(width=100, file=printed).print(ablation_table([ablated("ASF", *scores), ablated("both", *scores)]))
    text = printed.getvalue()
    assert text.count(f"{shown} ") == text.count("40.00 to 60.00") == 2
    assert re.search(rf"selected on dev, {caption}\s", text)


TEXT = Source(name="Encoder", about="Small.", license="Apache-2.0", hub="someone/encoder")


def card(
    record: dict[str, Any], *, other_seeds: tuple[dict[str, Any], ...] = (), bases: dict[Modality, Source] | None = None
) -> str:
    return model_card(
        name=ODD,
        license="apache-2.0",
        languages=["en"],
        bases=bases or {"text": TEXT},
        corpus=Source(name="Corpus", about="Acted."),
        recipe={"name": "mini", "seed": 3},
        results=[record | {"split": "dev"}, record],
        other_seeds=other_seeds,
    )


def test_card_carries_metadata_that_the_hub_reads(record: dict[str, Any]) -> None:
    data: Any = ModelCard(card(record)).data
    assert (data.library_name, data.license, data.language) == ("telme", "apache-2.0", ["en"])
    assert data.base_model == ["someone/encoder"]
    assert (data.pipeline_tag, data.metrics, data.model_name) == ("text-classification", ["f1"], ODD)
    assert [(r.dataset_name, r.dataset_split, r.metric_value) for r in data.eval_results] == [
        ("Corpus", split, round(record["weighted_f1"], 4)) for split in ("dev", "test")
    ]


def test_card_says_scores_limits_and_terms(record: dict[str, Any]) -> None:
    text = card(record)
    low, high = record["weighted_f1_interval"]
    assert f"| **{percent(record['weighted_f1'])}** |" in text
    assert f"{percent(low)} to {percent(high)}" in text
    assert "selected on dev, so scores on dev are optimistic" in text
    for line in ("Article 5(1)(f)", "Article 50(3)", "expressed, not felt", "Text only", "Acted.", "(Apache-2.0)"):
        assert line in text
    assert "Corpus (licence not recorded" in text
    assert r"F1 of \<b\>\&$x\_1$ \[red\]\|" in text


def test_card_gives_mean_and_deviation_over_seeds(record: dict[str, Any]) -> None:
    assert "other seeds" not in card(record)
    best = record | {"weighted_f1": 0.6}
    text = card(best, other_seeds=(best | {"seed": 4, "weighted_f1": 0.5},))
    assert "| test | 60.00 (seed 3), 50.00 (seed 4) | 55.00 ± 7.07 |" in text


def test_card_says_what_else_than_text_is_read_and_what_is_left_without_it(record: dict[str, Any]) -> None:
    subsets = {"text": {"weighted_f1": 0.5}, "text+visual": {"weighted_f1": 0.51}}
    faces = Source(name="Faces", about="Random weights.")
    text = card(record | {"subsets": subsets}, bases={"text": TEXT, "visual": faces})
    assert "It reads text, visual, whatever of them there is" in text
    assert "Text only" not in text
    assert "This model reads them wherever it is given them" in text
    assert "- Base model, visual: Faces (licence not recorded" in text
    assert "| text + visual | 51.00 | 51.00 |" in text
