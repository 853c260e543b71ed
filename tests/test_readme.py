"""The README says what is true: its Python runs, its commands and options exist, its links and its layout hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

COMMANDS = ("demo", "check", "synth", "prepare", "train", "evaluate", "predict", "import-released")
FENCE = re.compile(r"^```(?P<info>.*)\n(?P<body>(?:.*\n)*?)```$", re.MULTILINE)


def fences(info: str) -> list[str]:
    """Bodies of the blocks whose info string is exactly this; `python no-run` is not `python`."""
    return [fence["body"] for fence in FENCE.finditer(README) if fence["info"] == info]


def commands() -> dict[str, set[str]]:
    """Subcommand -> options, over every `telme COMMAND ...` at a prompt, in a path or between backticks."""
    found: dict[str, set[str]] = {}
    for line in README.splitlines():
        for part in re.split(r" (?:&&|\|) ", line):
            for command, rest in re.findall(r"(?:^\$ |[`/]|^)telme ([a-z-]+)([^`]*)", part):
                found.setdefault(command, set()).update(re.findall(r"--[a-z-]+", rest))
    return found


def layout() -> list[str]:
    """Paths in the annotated tree, from the repository's root."""
    (tree,) = fences("text")
    folder, paths = "", []
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
        paths.append(name if name == folder else folder + name)
    return paths


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    blocks = fences("python")
    assert blocks
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README.md, Python block {number}", "exec"), names)


def test_every_command_is_named_and_no_other() -> None:
    assert set(commands()) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_exist(command: str) -> None:
    telme = Path(sys.executable).with_name("telme")
    result = subprocess.run(
        [telme, command, "--help"], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"}
    )
    missing = commands()[command] - set(re.findall(r"--[a-z-]+", result.stdout))
    assert missing == set()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_layout_lists_every_file_and_only_what_exists() -> None:
    package = ROOT / "src" / "telme"
    files = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    packages = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert [path for path in layout() if not (ROOT / path).exists()] == []
    assert {f"src/telme/{name}" for name in files | packages} - set(layout()) == set()
