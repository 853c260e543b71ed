"""Transcript files -> conversations, and predictions back; a format is one function here and one in `predictions`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from telme.conversation import Conversation
from telme.errors import TelMEError
from telme.transcripts.csv_files import read_csv
from telme.transcripts.encoding import decode_utf8
from telme.transcripts.json_files import read_json, read_jsonl, to_json, write_jsonl
from telme.transcripts.predictions import WRITERS, Results, predictions_table, predictions_to_csv, predictions_to_json
from telme.transcripts.times import parse_time

__all__ = [
    "READERS",
    "WRITERS",
    "Results",
    "parse",
    "parse_time",
    "predictions_table",
    "predictions_to_csv",
    "predictions_to_json",
    "read",
    "to_json",
    "write_jsonl",
]

# A reader takes the document and its name, which begins every error message.
READERS: dict[str, Callable[[str, str], list[Conversation]]] = {
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".csv": read_csv,
}


def read(source: str | Path) -> list[Conversation]:
    """The conversations in a transcript file, at least one.

    Args:
        source: A file whose suffix is one of `READERS`; one without a suffix is read as its content suggests,
            and so is standard input, which is `-`. Relative paths of media count from its folder.

    Raises:
        TelMEError: The file cannot be read or does not hold what its suffix says; one line with file and line.
    """
    if str(source) == "-":
        return parse(sys.stdin.buffer.read(), "stdin")
    _refuse_unknown_suffix(str(source))  # Before reading: it may be the recording itself.
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise TelMEError(f"{source} cannot be read: {error.strerror}; give a transcript file or - for stdin") from error
    return [_beside(Path(source).parent, conversation) for conversation in parse(content, str(source))]


def parse(content: str | bytes, name: str) -> list[Conversation]:
    """The conversations in a document that is already in memory, at least one.

    Args:
        content: Text, or its UTF-8 bytes.
        name: Its file name: gives the format, as in `read`, and begins every error message.

    Raises:
        TelMEError: As `read`.
    """
    _refuse_unknown_suffix(name)
    text = content if isinstance(content, str) else decode_utf8(content, name)
    conversations = READERS[Path(name).suffix.lower() or _sniff(text)](text, name) if text.strip() else []
    if not conversations:
        raise TelMEError(f"{name} holds no conversation; it needs at least one utterance")
    return conversations


def _beside(folder: Path, conversation: Conversation) -> Conversation:
    """The conversation with the paths of its media, which count from the transcript's folder, as they are from here."""
    turns = (turn if turn.media is None else replace(turn, media=str(folder / turn.media)) for turn in conversation)
    media = None if conversation.media is None else str(folder / conversation.media)
    return replace(conversation, utterances=tuple(turns), media=media)


def _refuse_unknown_suffix(name: str) -> None:
    suffix = Path(name).suffix
    if suffix and suffix.lower() not in READERS:
        raise TelMEError(f"{name}: {suffix!r} is not a transcript format; valid are {', '.join(READERS)}")


def _sniff(text: str) -> str:
    """The suffix that a document without one should have."""
    first_line = text.strip().split("\n")[0].rstrip()
    if first_line.startswith("{") and first_line.endswith("}"):
        return ".jsonl"  # An object on a line of its own reads the same either way.
    return ".json" if first_line.startswith(("{", "[")) else ".csv"
