"""Results -> figures: confusion matrix, reliability diagram and training curves, as SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from telme.files import write_whole

# Of Okabe and Ito's colours that the colour-blind tell apart.
INK, BLUE, ORANGE, GREY = "#1b1f24", "#0072b2", "#d55e00", "#8a9099"

_STYLE: Any = {  # the type of its keys is a literal of every setting there is
    "svg.fonttype": "none",  # text stays text: it can be searched, and any script finds a font
    "svg.hashsalt": "telme",  # no random ids
    "text.parse_math": False,  # a label may hold dollar signs
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def write_figures(results: Mapping[str, Any], folder: str | Path) -> tuple[Path, ...]:
    """Writes `SPLIT-confusion.svg` and `SPLIT-reliability.svg` of a results record (see `Results.to_dict`).

    Args:
        folder: Made if it does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in (("confusion", confusion_svg), ("reliability", reliability_svg)):
        path = folder / f"{results['split']}-{name}.svg"
        write_whole(path, draw(results))
        written.append(path)
    return tuple(written)


def confusion_svg(results: Mapping[str, Any]) -> str:
    """Confusion matrix: the number in each cell, and by its shade the share of the annotated label."""
    labels, counts = list(results["per_class"]), np.array(results["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with mpl.rc_context(_STYLE):
        side = 1.6 + 0.62 * len(labels)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
        for (row, column), share in np.ndenumerate(shares):
            text = f"{counts[row, column]}\n{share:.0%}"
            ink = "white" if share > 0.65 else INK
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=8)
        middles = np.arange(len(labels)) + 0.5
        axes.set_xticks(middles, labels, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(middles, labels)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted", ylabel="annotated", aspect="equal")
        axes.invert_yaxis()
        return _svg(figure)


def reliability_svg(results: Mapping[str, Any]) -> str:
    """Reliability diagram: accuracy in each bin of confidence, with the number of utterances in it below."""
    bins = results["calibration"]["bins"]
    lower = [b["lower"] for b in bins]
    width = [b["upper"] - b["lower"] for b in bins]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.8, 4.2), layout="constrained")
        top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        top.bar(lower, [b["accuracy"] for b in bins], width, align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
        top.plot([0, 1], [0, 1], "--", color=ORANGE, linewidth=1.2)
        top.set(ylabel="accuracy", ylim=(0, 1), title=f"expected calibration error {results['calibration']['ece']:.2%}")
        bottom.bar(lower, [b["count"] for b in bins], width, align="edge", color=GREY, edgecolor="white", linewidth=0.5)
        bottom.set(xlabel="confidence", ylabel="utterances", xlim=(0, 1))
        top.yaxis.set_major_formatter(PercentFormatter(1))
        bottom.xaxis.set_major_formatter(PercentFormatter(1))
        return _svg(figure)


def training_svg(history: Sequence[Mapping[str, float]]) -> str:
    """Training curves: the losses, and the dev weighted F1 with its best epoch circled.

    Args:
        history: Per epoch `epoch`, `train_loss`, `dev_loss` and `dev_weighted_f1`.
    """
    epochs = [entry["epoch"] for entry in history]
    scores = [100 * entry["dev_weighted_f1"] for entry in history]
    best = int(np.argmax(scores))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(epochs, [entry["train_loss"] for entry in history], "o-", ms=4, color=BLUE, label="train")
        left.plot(epochs, [entry["dev_loss"] for entry in history], "s-", ms=4, color=ORANGE, label="dev")
        left.set(xlabel="epoch", title="loss")
        left.legend()
        right.plot(epochs, scores, "o-", ms=4, color=BLUE)
        right.plot(epochs[best], scores[best], "o", ms=9, mfc="none", color=ORANGE)
        right.set(xlabel="epoch", title=f"dev weighted F1 in %: {scores[best]:.2f} in epoch {epochs[best]}")
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.margins(y=0.15)
        return _svg(figure)


def themed(svg: str) -> str:
    """The drawing for a page with the colours `--ink`, `--blue`, `--orange` and `--grey`, to stand inside its HTML."""
    for colour, name in ((INK, "ink"), (BLUE, "blue"), (ORANGE, "orange"), (GREY, "grey"), ("#ffffff", "page")):
        svg = svg.replace(colour, f"var(--{name})")
    # Ids of groups would occur twice on a page; nothing refers to them. Its style rule would hold for the whole page.
    return re.sub(
        r'(?<=<g) id="[^"]*"|<metadata>.*?</metadata>|<style.*?</style>', "", svg[svg.index("<svg") :], flags=re.S
    )


def _svg(figure: Figure) -> str:
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})  # the same results give the same bytes
    return drawing.getvalue()
