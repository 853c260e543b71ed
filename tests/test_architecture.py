"""The package's layout: one file per noun, imports that only point backwards, and entry points that load quickly."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "telme"

# In data order: a file may import those above its own. A package, such as transcripts/, counts as one noun.
ORDER = (
    "errors",
    "files",
    "progress",
    "strict",
    "distributed",
    "conversation",
    "prediction",
    "findings",
    "transcripts",
    "media",
    "packing",
    "sources",
    "decoding",
    "corpora",
    "doctor",
    "prompt",
    "store",
    "prepare",
    "collate",
    "backbones",
    "encoders",
    "compat",
    "inputs",
    "columns",
    "distillation",
    "fusion",
    "model",
    "objectives",
    "metrics",
    "evaluation",
    "rows",
    "recipes",
    "optimisation",
    "training",
    "run",
    "frozen",
    "figures",
    "model_card",
    "report",
    "stages",
    "experiments",
    "recognizer",
    "released",
    "demo",
    "cli",
)

# Conversation.from_file is where users look for it, so it reaches forward when it is called.
EXCEPTIONS = {("conversation", "transcripts")}


def noun_of(path: Path, package: Path) -> str:
    """`transcripts/csv.py` -> `transcripts`, `model.py` -> `model`."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def nouns(package: Path) -> set[str]:
    return {noun_of(path, package) for path in package.rglob("*.py")} - {"__init__"}


def imported_names(path: Path, package: Path) -> Iterator[str]:
    """Full name of everything the file imports anywhere: at the top, inside functions, under TYPE_CHECKING."""
    parents = (package.name, *path.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), ".".join(parents))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def forward_imports(package: Path, order: tuple[str, ...]) -> set[tuple[str, str]]:
    """Pairs (importer, imported) of nouns that point forward.

    `telme` itself hands out every public name, so importing one from there could hide a forward import and counts as
    one; its dunder names (`__version__`) are plain values and free for all.
    """
    rank = {noun: position for position, noun in enumerate(order)}
    forward = set()
    for path in package.rglob("*.py"):
        importer = noun_of(path, package)
        if importer == "__init__":
            continue  # loads the public names on first use
        for name in imported_names(path, package):
            top, _, rest = name.partition(".")
            imported = rest.partition(".")[0]
            if top != package.name or imported.startswith("__"):
                continue
            if rank.get(imported, len(order)) > rank.get(importer, -1):
                forward.add((importer, imported))
    return forward


def test_order_lists_exactly_the_files() -> None:
    assert set(ORDER) == nouns(PACKAGE)


def test_imports_point_backwards() -> None:
    assert forward_imports(PACKAGE, ORDER) == EXCEPTIONS


@pytest.mark.parametrize(
    ("file", "source", "caught"),
    [
        ("early.py", "from made.late import thing", {("early", "late")}),
        ("early.py", "import made.late", {("early", "late")}),
        ("early.py", "from made import late", {("early", "late")}),
        ("early.py", "from .late import thing", {("early", "late")}),
        ("early.py", "def later():\n    from made.late import thing", {("early", "late")}),
        ("early.py", "if TYPE_CHECKING:\n    from made.late import thing", {("early", "late")}),
        ("early.py", "from made import Thing", {("early", "Thing")}),
        ("middle/part.py", "from ..late import thing", {("middle", "late")}),
        ("middle/__init__.py", "from made.middle.part import thing\nfrom . import part", set()),
        ("late.py", "from made import __version__, early\nimport made.middle.part\nimport json", set()),
    ],
)
def test_a_forward_import_is_caught(tmp_path: Path, file: str, source: str, caught: set[tuple[str, str]]) -> None:
    package = tmp_path / "made"
    for name in ("__init__.py", "early.py", "middle/__init__.py", "middle/part.py", "late.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("", encoding="utf-8")
    (package / file).write_text(source, encoding="utf-8")
    assert nouns(package) == {"early", "middle", "late"}
    assert forward_imports(package, ("early", "middle", "late")) == caught


@pytest.mark.parametrize("module", ["telme", "telme.cli"])
def test_import_is_light(module: str) -> None:
    heavy = {"torch", "transformers", "datasets", "sklearn", "matplotlib"}
    script = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert heavy.isdisjoint(loaded)


def test_nothing_is_left_undone() -> None:
    undone = [path.name for path in PACKAGE.rglob("*.py") if "TODO" in path.read_text(encoding="utf-8")]
    assert undone == []
