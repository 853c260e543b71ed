"""A file or a folder is there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from telme.files import write_folder, write_json, write_whole


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


def test_a_text_is_written_as_it_is(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "caf\u00e9\n\u2028")
    assert (tmp_path / "a.txt").read_bytes() == "caf\u00e9\n\u2028".encode()
    assert list(files(tmp_path)) == ["a.txt"]


def test_a_text_replaces_the_old_one(tmp_path: Path) -> None:
    for text in ("a long old text", "new"):
        write_whole(tmp_path / "a.txt", text)
    assert files(tmp_path) == {"a.txt": "new"}


def test_json_is_readable_and_reads_back(tmp_path: Path) -> None:
    value = {"text": "caf\u00e9", "numbers": [1, 0.1, None, True]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "caf\u00e9" in text
    assert text.count("\n") > 2
    assert text.endswith("}\n")


def test_what_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"fine": 1, "not": object()})
    assert files(tmp_path) == {"a.json": "[\n  1\n]\n"}


def test_a_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.txt", "half \ud800")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("before", [None, "old"])
def test_an_interrupted_file_is_the_old_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    path = tmp_path / "a.txt"
    if before:
        write_whole(path, before)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, "new")
    assert (path.read_text(encoding="utf-8") if path.exists() else None) == before
    write_whole(path, "new")
    assert files(tmp_path) == {"a.txt": "new"}


def fill(folder: Path) -> None:
    (folder / "b.txt").write_text("new", encoding="utf-8")
    (folder / "in").mkdir()
    (folder / "in" / "c.txt").write_text("new", encoding="utf-8")


NEW = {"b.txt": "new", "in/c.txt": "new"}


def fill_half(folder: Path) -> None:
    (folder / "half.txt").write_text("half", encoding="utf-8")
    raise KeyboardInterrupt


def test_a_folder_replaces_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    (folder / "old.txt").write_text("old", encoding="utf-8")
    write_folder(folder, fill)
    assert files(folder) == NEW
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("before", [{}, {"old.txt": "old"}])
def test_an_interrupted_folder_is_the_old_one_or_none(tmp_path: Path, before: dict[str, str]) -> None:
    folder = tmp_path / "folder"
    for name, text in before.items():
        folder.mkdir()
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, fill_half)
    assert files(folder) == before
    assert folder.exists() == bool(before)
    write_folder(folder, fill)
    assert files(tmp_path) == {f"folder/{name}": text for name, text in NEW.items()}
