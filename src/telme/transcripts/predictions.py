"""Predictions back into the formats that conversations came from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from rich import box
from rich.table import Table
from rich.text import Text

from telme.conversation import Conversation
from telme.prediction import Prediction

Results: TypeAlias = Sequence[tuple[Conversation, Sequence[Prediction]]]

_DIGITS = 6


def predictions_to_json(results: Results) -> str:
    """One conversation as an object, several as an array of them; numbers are rounded to 6 digits."""
    documents = [
        {
            "id": conversation.id,
            **({} if conversation.media is None else {"media": conversation.media}),
            "utterances": [prediction.to_dict() for prediction in predictions],
        }
        for conversation, predictions in results
    ]
    document = documents[0] if len(documents) == 1 else documents
    return json.dumps(_rounded(document), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def predictions_to_csv(results: Results) -> str:
    """One row an utterance, with a column `p_<label>` for each label; what is not known is an empty cell.

    Args:
        results: At least one, all over the same labels.
    """
    rows = [_row(conversation, prediction) for conversation, predictions in results for prediction in predictions]
    table = io.StringIO(newline="")
    # Every text is quoted: Python's minimal quoting leaves out a lone carriage return, which then ends the row.
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def predictions_table(results: Results) -> Iterator[Table]:
    """A table for the terminal per conversation: who said what, the emotion, and how sure the model is of it."""
    for conversation, predictions in results:
        text_alone = all(prediction.modalities == ("text",) for prediction in predictions)
        table = Table(title=Text(conversation.id), box=box.SIMPLE_HEAD)
        table.add_column("", justify="right", style="dim")
        table.add_column("speaker", style="bold")
        table.add_column("utterance", ratio=1)
        table.add_column("emotion")
        table.add_column("probability", justify="right")
        table.add_column("", no_wrap=True)
        if not text_alone:
            table.add_column("read from")
            table.add_column("shift", justify="right")
        for number, prediction in enumerate(predictions, start=1):
            table.add_row(
                str(number),
                Text(prediction.utterance.speaker),
                Text(prediction.utterance.text),
                Text(prediction.label),
                f"{prediction.confidence:.0%}",
                "▆" * round(10 * prediction.confidence),
                *(() if text_alone else (" + ".join(prediction.modalities), f"{prediction.shift:.1%}")),
            )
        yield table


WRITERS: dict[str, Callable[[Results], str]] = {
    "json": predictions_to_json,
    "csv": predictions_to_csv,
}


def _row(conversation: Conversation, prediction: Prediction) -> dict[str, Any]:
    utterance = prediction.utterance
    row = {
        "conversation": conversation.id,
        "id": utterance.id,
        "speaker": utterance.speaker,
        "text": utterance.text,
        "start": utterance.start,
        "end": utterance.end,
        "annotated": utterance.label,
        "label": prediction.label,
        "confidence": prediction.confidence,
        **{f"p_{label}": probability for label, probability in prediction.probabilities.items()},
        "shift": prediction.shift,
        "modalities": "+".join(prediction.modalities),
    }
    return {column: _rounded(value) for column, value in row.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
