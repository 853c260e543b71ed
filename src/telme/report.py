"""What people read of results: a table for the terminal and one self-contained HTML page for a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from telme.figures import reliability_svg, themed, training_svg
from telme.files import write_whole
from telme.prediction import Prediction
from telme.transcripts import Results

Record = Mapping[str, Any]  # one evaluation, as `Results.to_dict` makes it and `results.json` holds it


class Readings(NamedTuple):
    """Predictions to be shown, and theta (Eq. 19), the most that voice and face may shift one."""

    results: Results
    theta: float


Content = str | Table | Readings  # a paragraph, a table as the terminal shows it, or predictions

_CSS = """
:root { color-scheme: light dark;
  --page: #ffffff; --ink: #1b1f24; --grey: #6b727b; --line: #d9dde2; --blue: #0072b2; --orange: #d55e00;
  --heat: 0 114 178 }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171a; --ink: #e6e8ea; --grey: #979ea7; --line: #343a41; --blue: #56b4e9; --orange: #e69f00 } }
* { box-sizing: border-box }
body { margin: 2.5rem auto; max-width: 60rem; padding: 0 1.25rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere }
h2 { margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); font-size: 1.2rem }
h3 { margin: 0 0 .5rem; font-size: 1rem }
p { margin: .5rem 0 }
.quiet, caption, .of { color: var(--grey) }
.scores { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.25rem 0 }
.scores > div { flex: 1 1 14rem; padding: .9rem 1.1rem; border: 1px solid var(--line); border-radius: .5rem }
.scores strong { display: block; font-size: 2.3rem; line-height: 1.2; font-variant-numeric: tabular-nums }
.beside { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; margin-bottom: 1.75rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
caption { caption-side: bottom; padding-top: .4rem; text-align: left }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child { text-align: left; white-space: nowrap }
thead th { font-weight: 600; vertical-align: bottom }
tbody th, tfoot th { font-weight: normal }
tfoot tr:first-child > * { border-top: 2px solid var(--grey); font-weight: 600 }
.facts th { vertical-align: top }
.facts tbody th { color: var(--grey) }
.facts th, .facts td { text-align: left }
.facts td { overflow-wrap: anywhere }
.confusion td { min-width: 3.6rem; text-align: center; line-height: 1.25; border: 1px solid var(--page);
  background: rgb(var(--heat) / calc(.75 * var(--share))) }
.confusion .of { display: block; font-size: .75rem; color: inherit }
.confusion thead th { text-align: center }
.told th, .told td { text-align: left; vertical-align: top }
.told .right { text-align: right; white-space: nowrap }
.told td:first-child { white-space: nowrap }
.wide + .wide { margin-top: 1.25rem }
.bar { display: block; min-width: 5rem; padding: 0 .35rem; border-radius: .2rem;
  background: linear-gradient(to right, rgb(var(--tint) / .35) calc(100% * var(--share)), transparent 0) }
.bar.blue { --tint: 0 114 178 }
.bar.orange { --tint: 213 94 0 }
figure { margin: 0 }
svg { max-width: 100%; height: auto }
@media print { body { margin: 0; max-width: none; font-size: 12px } .confusion td { print-color-adjust: exact }
  table, svg, .scores { break-inside: avoid } h2, h3 { break-after: avoid } }
"""


def results_table(results: Record) -> Table:
    """Scores of one evaluation in percent, for the terminal: each emotion, then the whole."""
    table = Table(
        title=Text(f"{results['split']}: {results['utterances']:,} utterances"),
        caption=Text(f"selected on {results['selected_on']}, seed {results['seed']}"),
    )
    table.add_column("emotion")
    table.add_column("F1", justify="right")
    table.add_column("utterances", justify="right")
    for label, f1 in results["per_class"].items():
        table.add_row(Text(label), _percent(f1), f"{results['support'][label]:,}")
    table.add_section()
    for name, value, remark in _totals(results):
        table.add_row(name, value, remark)
    if len(results["subsets"]) > 1:
        table.add_section()
        for name, subset in results["subsets"].items():
            table.add_row(name.replace("+", " + "), _percent(subset["weighted_f1"]), f"{subset['utterances']:,}")
    return table


def ablation_table(rows: Sequence[Record]) -> Table:
    """Table 3 on one split, in percent: weighted F1 of each variant, as `telme.experiments.Row.to_dict` gives it."""
    seeds = list(rows[0]["weighted_f1_by_seed"])
    several = len(seeds) > 1
    table = Table(
        title=Text(f"{rows[0]['split']}: {rows[0]['utterances']:,} utterances"),
        caption=Text(f"selected on {rows[0]['selected_on']}, seed{'s' if several else ''} {', '.join(seeds)}"),
    )
    table.add_column("variant")
    table.add_column("weighted F1", justify="right")
    table.add_column(f"95 %, seed {seeds[0]}" if several else "95 %", justify="right")
    for row in rows:
        spread = f" ± {_percent(row['weighted_f1_spread'])}" if several else ""
        table.add_row(row["variant"], _percent(row["weighted_f1"]) + spread, _interval(row))
    return table


def write_report(
    path: str | Path,
    *,
    title: str,
    recipe: Record,
    environment: Record,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    results: Sequence[Record],
    notes: Sequence[str] = (),
    chapters: Mapping[str, Sequence[Content]] | None = None,
) -> None:
    """Writes a run as one HTML page that needs no other file, no script and no network.

    Args:
        title: Heading of the page.
        recipe: What was chosen; may be nested.
        environment: What it ran on; may be nested.
        histories: By what was trained, per epoch `epoch`, `train_loss`, `dev_loss` and `dev_weighted_f1`; whatever
            else an entry holds becomes a column of the table.
        results: The evaluations, the most important first.
        notes: Paragraphs under the scores.
        chapters: What else there is to tell, by heading; it follows the scores.
    """
    sections = [
        _summary(title, results, notes),
        *(
            _section(heading, "\n".join(map(_content, contents)))
            for heading, contents in ({} if chapters is None else chapters).items()
        ),
        *(
            _section(f"Training: {name}", themed(training_svg(history)) + _history_table(history))
            for name, history in histories.items()
        ),
        *(_section(f"Results on {record['split']}", _split(record)) for record in results),
        _section("Recipe", _facts(recipe)),
        _section("Environment", _facts(environment)),
    ]
    write_whole(
        Path(path),
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n",
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _interval(results: Record) -> str:
    low, high = results["weighted_f1_interval"]
    return f"{_percent(low)} to {_percent(high)}"


def _totals(results: Record) -> Iterator[tuple[str, str, str]]:
    """Name, percentage and remark of every score of the whole split."""
    yield "weighted F1", _percent(results["weighted_f1"]), f"95 %: {_interval(results)}"
    yield "macro F1", _percent(results["macro_f1"]), ""
    yield "accuracy", _percent(results["accuracy"]), ""
    yield "calibration error", _percent(results["calibration"]["ece"]), ""


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{body}\n</section>"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, foot: Sequence[Sequence[str]] = (), kind: str = ""
) -> str:
    """A table whose first column names the rows; every cell is escaped."""
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="wide"><table class="{kind}">\n<thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{_rows(rows)}</tbody>\n<tfoot>\n{_rows(foot)}</tfoot>\n</table></div>"
    )


def _rows(rows: Sequence[Sequence[str]]) -> str:
    return "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )


def _content(content: Content) -> str:
    if isinstance(content, str):
        return f"<p>{escape(content)}</p>"
    return _of_terminal(content) if isinstance(content, Table) else _readings(content)


def _of_terminal(table: Table) -> str:
    """A terminal's table as HTML, with its title and caption."""
    head = "".join(f'<th scope="col" class="{c.justify}">{escape(str(c.header))}</th>' for c in table.columns)
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="{column.justify}">{escape(str(cell))}</td>'
            for column, cell in zip(table.columns, cells, strict=True)
        )
        + "</tr>\n"
        for cells in zip(*(column.cells for column in table.columns), strict=True)
    )
    said = "; ".join(str(text) for text in (table.title, table.caption) if text)
    caption = f"<caption>{escape(said)}</caption>\n" if said else ""
    return (
        f'<div class="wide"><table class="told">\n{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table></div>"
    )


def _readings(readings: Readings) -> str:
    """Each conversation's utterances with their emotion, what text alone says, and how far voice and face moved it."""
    return "\n".join(_conversation(predictions, readings.theta) for _, predictions in readings.results)


def _conversation(predictions: Sequence[Prediction], theta: float) -> str:
    head = ("speaker", "utterance", "annotated", "emotion", "probability", "text alone", "read from", "shift")
    rows = []
    for prediction in predictions:
        alone = max(prediction.text_only, key=prediction.text_only.__getitem__, default="")
        cells = (
            escape(prediction.utterance.speaker),
            escape(prediction.utterance.text),
            escape(prediction.utterance.label or ""),
            f"<strong>{escape(prediction.label)}</strong>",
            _bar(prediction.confidence, 1.0, "blue"),
            f"{escape(alone)} {prediction.text_only[alone]:.0%}" if alone else "",
            " + ".join(prediction.modalities),
            _bar(prediction.shift, theta, "orange"),
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n")
    header = "".join(f'<th scope="col">{name}</th>' for name in head)
    return (
        f'<div class="wide"><table class="told">\n<caption>Shift is how far voice and face moved the reading of the '
        f"text, at most {theta:.0%}, which is theta of Eq. 19.</caption>\n<thead><tr>{header}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody>\n</table></div>"
    )


def _bar(value: float, most: float, colour: str) -> str:
    share = min(value / most, 1)
    return f'<span class="bar {colour}" style="--share:{share:.3f}">{value:.1%}</span>'


def _summary(title: str, results: Sequence[Record], notes: Sequence[str]) -> str:
    scores = "".join(
        f"<div>weighted F1 on {escape(record['split'])}<strong>{_percent(record['weighted_f1'])} %</strong>"
        f'<span class="quiet">95 % interval {_interval(record)}<br>{record["utterances"]:,} utterances'
        f"{', selected on these: optimistic' if record['selected_on'] == record['split'] else ''}</span></div>"
        for record in results
    )
    origins = dict.fromkeys(
        f"Model {record['model']}, seed {record['seed']}, selected on {record['selected_on']}; store {record['store']}."
        for record in results
    )
    paragraphs = "".join(f"<p>{escape(text)}</p>\n" for text in (*origins, *notes))
    return (
        f'<header>\n<h1>{escape(title)}</h1>\n<div class="scores">{scores}</div>\n{paragraphs}'
        '<p class="quiet">Intervals are bootstrap intervals over dialogues: they tell how far the choice of dialogues '
        "moves the score, not how far the seed does.</p>\n</header>"
    )


def _history_table(history: Sequence[Mapping[str, float]]) -> str:
    columns = {
        "epoch": ("epoch", "{:.0f}"),
        "train_loss": ("train loss", "{:.4f}"),
        "dev_loss": ("dev loss", "{:.4f}"),
        "dev_weighted_f1": ("dev weighted F1 in %", "{:.2%}"),
    }
    columns |= {name: (name.replace("_", " "), "{:.4g}") for name in history[0] if name not in columns}
    rows = [[form.format(entry[name]).rstrip("%") for name, (_, form) in columns.items()] for entry in history]
    return _table([heading for heading, _ in columns.values()], rows)


def _split(results: Record) -> str:
    emotions = [[label, _percent(f1), f"{results['support'][label]:,}"] for label, f1 in results["per_class"].items()]
    return (
        '<div class="beside">\n'
        + _table(["emotion", "F1 in %", "utterances"], emotions, foot=list(_totals(results)))
        + f"\n<figure>{themed(reliability_svg(results))}</figure>\n</div>\n"
        + _confusion_table(results)
        + _subsets(results)
    )


def _subsets(results: Record) -> str:
    """What is left of the score with some of the modalities alone; nothing for a model that reads one."""
    if len(results["subsets"]) < 2:
        return ""
    rows = [
        [name.replace("+", " + "), _percent(subset["weighted_f1"]), _interval(subset), f"{subset['utterances']:,}"]
        for name, subset in results["subsets"].items()
    ]
    return _table(["read from", "weighted F1 in %", "95 % interval", "utterances"], rows)


def _confusion_table(results: Record) -> str:
    """The confusion matrix as a table: the count, its share of the annotated label, and that share as the shade."""
    labels = list(results["per_class"])
    rows = []
    for label, counts in zip(labels, results["confusion"], strict=True):
        total = max(sum(counts), 1)
        cells = "".join(
            f'<td style="--share:{count / total:.3f}">{count:,}<span class="of">{count / total:.0%}</span></td>'
            for count in counts
        )
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    return (
        '<div class="wide"><table class="confusion">\n<caption>Rows are annotated, columns predicted; the shade is the '
        f'share of the row.</caption>\n<thead><tr><th scope="col">annotated</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody>\n</table></div>"
    )


def _facts(facts: Record) -> str:
    return _table(["name", "value"], list(_flat(facts)), kind="facts")


def _flat(facts: Record, prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{"teach": {"epochs": 4}}` -> `("teach.epochs", "4")`."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield prefix + name, ", ".join(map(str, value))
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)
