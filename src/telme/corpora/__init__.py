"""Corpora as people have them on disk -> a `Corpus`: conversations by split, labels, and what had to be mended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from telme.corpora.corpus import Corpus, Size
from telme.corpora.meld import read_meld
from telme.errors import TelMEError

__all__ = ["READERS", "Corpus", "Size", "read_corpus"]

READERS: Mapping[str, Callable[[str | Path], Corpus]] = {"meld": read_meld}


def read_corpus(name: str, root: str | Path) -> Corpus:
    """The corpus of that name, read from the folder `root`.

    Raises:
        TelMEError: No corpus of that name, or nothing usable in the folder.
    """
    if name not in READERS:
        raise TelMEError(f"unknown corpus {name!r}; valid corpora are {', '.join(READERS)}")
    return READERS[name](root)
