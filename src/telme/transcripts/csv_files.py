"""CSV with a header row and one utterance a row; the column names of MELD's public files are understood too."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from telme.conversation import Conversation, Utterance
from telme.errors import TelMEError
from telme.transcripts.times import parse_time

_FIELDS = {
    "conversation": "conversation",
    "dialogue_id": "conversation",
    "id": "id",
    "utterance_id": "id",
    "speaker": "speaker",
    "text": "text",
    "utterance": "text",
    "start": "start",
    "starttime": "start",
    "end": "end",
    "endtime": "end",
    "media": "media",
    "label": "label",
    "emotion": "label",
}
_REQUIRED = ("speaker", "text")


def read_csv(text: str, name: str) -> list[Conversation]:
    """The conversations in order of first appearance; one, with the file's stem as its id, without such a column."""
    delimiter = _delimiter(text)
    rows = _rows(text, name, delimiter)
    line, header = next(rows, (1, []))
    columns = _columns(header, f"{name}:{line}")
    conversations: dict[str, list[Utterance]] = {}
    for line, row in rows:
        try:
            if len(row) != len(header):
                raise TelMEError(
                    f"cells in this row: {len(row)}, in the header: {len(header)}; "
                    f"a cell that holds {delimiter!r} needs quotes around it"
                )
            cells = {field: row[column] for field, column in columns.items()}
            conversation = cells.pop("conversation", Path(name).stem)
            if not conversation:
                raise TelMEError("conversation is ''; where there is such a column, every row needs one")
            conversations.setdefault(conversation, []).append(_utterance(cells))
        except TelMEError as error:
            raise TelMEError(f"{name}:{line}: {error}") from error
    return [Conversation(conversation, tuple(utterances)) for conversation, utterances in conversations.items()]


def _delimiter(text: str) -> str:
    """The delimiter under which the header's columns make sense; a comma where none does."""
    header = text.lstrip().partition("\n")[0].lower()

    def known_columns(delimiter: str) -> int:
        return sum(column.strip(' "\r') in _FIELDS for column in header.split(delimiter))

    return max(",;\t", key=known_columns)


def _rows(text: str, name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that hold anything, each with the line on which it begins; cells are stripped."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise TelMEError(f"{name}:{line}: not valid CSV: {error}; is a quote left open or not doubled?") from error
        if any(row):
            yield line, row


def _columns(header: list[str], where: str) -> dict[str, int]:
    """Which column holds each field of an utterance."""
    columns: dict[str, int] = {}
    for index, column in enumerate(header):
        field = _FIELDS.get(column.lower())
        if field in columns:
            raise TelMEError(
                f"{where}: columns {header[columns[field]]!r} and {column!r} both hold the {field}; keep one"
            )
        if field is not None:
            columns[field] = index
    missing = [field for field in _REQUIRED if field not in columns]
    if missing:
        raise TelMEError(
            f"{where}: no column {' or '.join(map(repr, missing))}; the columns are {', '.join(header) or 'none'}"
        )
    return columns


def _utterance(cells: dict[str, str]) -> Utterance:
    return Utterance(
        speaker=cells["speaker"],
        text=cells["text"],
        start=_time(cells, "start"),
        end=_time(cells, "end"),
        media=cells.get("media") or None,
        label=cells.get("label") or None,
        id=cells.get("id") or None,
    )


def _time(cells: dict[str, str], field: str) -> float | None:
    if not cells.get(field):
        return None
    try:
        return parse_time(cells[field])
    except TelMEError as error:
        raise TelMEError(f"{field}: {error}") from error
