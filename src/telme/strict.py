"""JSON text -> frozen dataclass, strictly: unknown keys and wrong types are refused in one line that says where."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import is_dataclass
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from telme.errors import TelMEError

T = TypeVar("T")

_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    config = ConfigDict(extra="forbid")
    if isinstance(kind, type) and is_dataclass(kind):
        return TypeAdapter(with_config(config)(kind))
    return TypeAdapter(kind, config=config)


def parse_json(kind: type[T], text: str | bytes, where: str) -> T:
    """Reads JSON as `kind`, a dataclass of dataclasses, tuples and plain values.

    Args:
        where: The file, with a line where that helps; begins the error message.

    Raises:
        TelMEError: One line with the place inside the document, the value and what would be valid.
    """
    try:
        value: T = _adapter(cast(Hashable, kind)).validate_json(text, strict=True)
    except ValidationError as error:
        raise TelMEError(f"{where}: {_first_problem(kind, error)}") from error
    return value


def _first_problem(kind: Any, error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    # A misspelt key is also reported as a missing one; the spelling is what the user has to mend.
    problem = next((p for p in problems if p["type"] in _UNKNOWN_KEY), problems[0])
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    match problem["type"]:
        case "json_invalid":
            return f"not valid JSON: {problem['ctx']['error']}"
        case kind_of_problem if kind_of_problem in _UNKNOWN_KEY:
            return f"unknown key {place!r}; valid keys here are {', '.join(_keys_beside(kind, problem['loc']))}"
        case "missing" | "missing_argument":
            return f"key {place!r} is missing"
        case "value_error":
            return f"{place}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
        case _:
            expected = problem["msg"][0].lower() + problem["msg"][1:]
            return f"{place or 'the document'} is {problem['input']!r:.60}; {expected}"


def _keys_beside(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that are valid where an unknown key was found, read off the JSON schema."""
    schema = _adapter(kind).json_schema()
    definitions = schema.get("$defs", {})
    node = schema
    for part in (*location[:-1], None):
        while "$ref" in node or "anyOf" in node:
            if "anyOf" in node:
                node = next((option for option in node["anyOf"] if "$ref" in option or "properties" in option), {})
            else:
                node = definitions[node["$ref"].rsplit("/", 1)[1]]
        if part is not None:
            node = node["items"] if isinstance(part, int) else node["properties"][part]
    return sorted(node.get("properties", {}))
