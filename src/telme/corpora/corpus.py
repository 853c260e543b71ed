"""A corpus in memory: annotated conversations by split, and where in which recording each utterance lies."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from telme.conversation import Conversation, LabelSet, Utterance
from telme.findings import Finding
from telme.media import Source


class Size(NamedTuple):
    """How much a split holds; `utterances` is none where that is a matter of the label convention (IEMOCAP)."""

    conversations: int
    utterances: int | None


class Span(NamedTuple):
    """A stretch of a recording, in seconds."""

    recording: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Annotated conversations by split.

    Args:
        name: Such as `meld`.
        root: The folder it was read from.
        labels: The emotions that its utterances are annotated with.
        splits: `train`, `dev`, `test`, as far as present, to their conversations. Ids are `train/dia0` and
            `train/dia0_utt3`: the split is a part of them, since corpora number each split from 0.
        sizes: The published size of each split.
        recordings: Id of an utterance to the name of the recording that its times index, such as `s08e21`.
        clips: Split to the folder that holds its clips; a split that is not named has text only.
        repairs: What reading had to mend or leave out.
        sources: Id of an utterance to where its voice and face should be, whether or not those files exist: every
            utterance of a split that has clips.
        extras: Files among the clips that belong to no utterance, AppleDouble stubs (`._*`) included.
    """

    name: str
    root: str
    labels: LabelSet
    splits: Mapping[str, tuple[Conversation, ...]]
    sizes: Mapping[str, Size]
    recordings: Mapping[str, str]
    clips: Mapping[str, str]
    repairs: tuple[Finding, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)
    extras: tuple[str, ...] = ()

    @property
    def conversations(self) -> Iterator[Conversation]:
        """All conversations, split by split."""
        return (conversation for split in self.splits.values() for conversation in split)

    @property
    def utterances(self) -> Iterator[Utterance]:
        """All utterances, split by split, in the order they were spoken."""
        return (utterance for conversation in self.conversations for utterance in conversation)

    def span(self, utterance: Utterance) -> Span | None:
        """Where the utterance was spoken; none where the recording or a time is not known."""
        recording = None if utterance.id is None else self.recordings.get(utterance.id)
        if recording is None or utterance.start is None or utterance.end is None:
            return None
        return Span(recording, utterance.start, utterance.end)


def extra_files(folder: Path, suffix: str, known: Collection[str]) -> list[str]:
    """Paths of the files of that suffix in the folder whose names are not known, and of all AppleDouble stubs (`._*`).

    None where there is no such folder.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [str(f) for f in files if f.name.startswith("._") or (f.suffix == suffix and f.name not in known)]
