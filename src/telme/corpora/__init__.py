"""Corpora as people have them on disk -> a `Corpus`: conversations by split, labels, and what had to be mended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from telme.corpora.corpus import Corpus, Size
from telme.corpora.iemocap import read_iemocap
from telme.corpora.manifest import read_manifest
from telme.corpora.meld import read_meld
from telme.errors import TelMEError

__all__ = ["READERS", "Corpus", "Size", "read_corpus"]

READERS: Mapping[str, Callable[[str | Path], Corpus]] = {
    "meld": read_meld,
    "iemocap": read_iemocap,
    "manifest": read_manifest,
}


def read_corpus(name: str, root: str | Path) -> Corpus:
    """The corpus of that name, read from the folder `root`; of `manifest`, that may be the file itself.

    Raises:
        TelMEError: No corpus of that name, or nothing usable there.
    """
    if name not in READERS:
        raise TelMEError(f"unknown corpus {name!r}; valid corpora are {', '.join(READERS)}")
    return READERS[name](root)
