"""Files and folders that exist whole or not at all: written aside, then renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file, text in UTF-8; an interruption leaves the old file or the new one."""
    aside = _aside(path)
    aside.write_bytes(content.encode() if isinstance(content, str) else content)
    aside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as readable JSON, as `write_whole` does."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder with `fill`; an older folder of that name is replaced once the new one is whole."""
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    fill(aside)
    shutil.rmtree(path, ignore_errors=True)
    aside.replace(path)


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished")
