"""Conversation JSON, one conversation or an array of them, and JSONL, one conversation a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from telme.conversation import Conversation, Utterance
from telme.errors import TelMEError
from telme.strict import parse_json


def read_json(text: str, name: str) -> list[Conversation]:
    """The conversations of a document that is one conversation or an array of them."""
    if text.lstrip().startswith("["):
        return list(parse_json(tuple[Conversation, ...], text, name))
    return [parse_json(Conversation, text, name)]


def read_jsonl(text: str, name: str) -> list[Conversation]:
    """The conversations of a document with one on each line; empty lines are skipped."""
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    lines = enumerate(text.split("\n"), start=1)
    return [parse_json(Conversation, line, f"{name}:{number}") for number, line in lines if line.strip()]


def to_json(conversation: Conversation) -> str:
    """The conversation as one line of JSON; fields that are not known are left out."""
    return json.dumps(
        {
            "id": conversation.id,
            **({} if conversation.media is None else {"media": conversation.media}),
            "utterances": [_known_fields(utterance) for utterance in conversation],
        },
        ensure_ascii=False,
    )


def write_jsonl(conversations: Iterable[Conversation], path: str | Path) -> None:
    """Writes a file that `telme.transcripts.read` gives back as the same conversations; paths of media count from it.

    Raises:
        TelMEError: The file cannot be written.
    """
    lines = "".join(f"{to_json(conversation)}\n" for conversation in conversations)
    try:
        Path(path).write_text(lines, encoding="utf-8")
    except OSError as error:
        raise TelMEError(f"{path} cannot be written: {error.strerror}") from error


def _known_fields(utterance: Utterance) -> dict[str, Any]:
    values = ((field.name, getattr(utterance, field.name)) for field in fields(utterance))
    return {name: value for name, value in values if value is not None}
