"""The vocabulary: what was said (Utterance), by whom in which order (Conversation), and the emotions to tell apart."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from telme.errors import TelMEError

Modality = Literal["text", "audio", "visual"]
MODALITIES: tuple[Modality, ...] = ("text", "audio", "visual")  # transcript, voice, face

MAX_CHARACTERS = 10_000  # about 2,000 words, over ten minutes of speech: longer is a document, not an utterance


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn of a conversation: who spoke, the words, and where in which recording.

    Args:
        speaker: Name of the speaker; equal names are the same person within one conversation.
        text: The transcript; may be empty only where `media` gives something else to read.
        start: Start in seconds within the recording.
        end: End in seconds within the recording; not before `start`.
        media: Path of a clip of this utterance alone; `start` and `end` do not index it.
        label: The annotated emotion, if known.
        id: The corpus's own key, such as `train/dia0_utt3`.

    Raises:
        TelMEError: A speaker without a name, nothing to read, an implausibly long text or impossible times.
    """

    speaker: str
    text: str
    start: float | None = None
    end: float | None = None
    media: str | None = None
    label: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if not self.speaker.strip():
            raise TelMEError(f"speaker is {self.speaker!r}; every utterance needs a speaker's name")
        if not self.text.strip() and self.media is None:
            raise TelMEError(f"text is {self.text!r} and there is no media; an utterance needs at least one of them")
        if len(self.text) > MAX_CHARACTERS:
            raise TelMEError(
                f"text has {len(self.text):,} characters ({self.text[:20]!r}...); an utterance may have at most "
                f"{MAX_CHARACTERS:,}: split it into turns"
            )
        for name, seconds in (("start", self.start), ("end", self.end)):
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise TelMEError(f"{name} is {seconds}; times are seconds from the recording's beginning, 0 or more")
        if self.start is not None and self.end is not None and self.end < self.start:
            raise TelMEError(f"end ({self.end} s) is before start ({self.start} s)")

    @property
    def seconds(self) -> float | None:
        """Duration in seconds, where both times are known."""
        return None if self.start is None or self.end is None else self.end - self.start


@dataclass(frozen=True, slots=True)
class Conversation:
    """Utterances in the order they were spoken; an emotion is read from an utterance and those before it.

    Args:
        id: Names the conversation in every output.
        utterances: At least one.
        media: Recording that all utterances without a `media` of their own are spans of.
    """

    id: str
    utterances: tuple[Utterance, ...]
    media: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "utterances", tuple(self.utterances))
        if not self.utterances:
            raise TelMEError(f"conversation {self.id!r} has no utterances; it needs at least one")

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    @classmethod
    def from_file(cls, path: str, *, media: str | None = None) -> Conversation:
        """The one conversation in a transcript file of any supported format (see `telme.transcripts.read`).

        Raises:
            TelMEError: The file cannot be read, or holds more than one conversation.
        """
        from dataclasses import replace

        from telme.transcripts import read

        conversations = read(path)
        if len(conversations) != 1:
            raise TelMEError(f"{path}: {len(conversations)} conversations; read them with telme.transcripts.read")
        return conversations[0] if media is None else replace(conversations[0], media=media)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The emotions a corpus is annotated with; their order is the order of every probability and confusion matrix.

    Args:
        name: Of the corpus or scheme, for messages.
        labels: At least two different names.
    """

    name: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels) or not all(map(str.strip, self.labels)):
            raise TelMEError(f"labels {list(self.labels)}; a label set needs at least two different, non-empty names")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def index(self, label: str) -> int:
        """Class index of a label.

        Raises:
            TelMEError: Not one of the labels; the message lists them and the nearest.
        """
        if label in self.labels:
            return self.labels.index(label)
        lower = {name.lower(): name for name in self.labels}
        near = difflib.get_close_matches(label.lower(), lower, n=1)
        hint = f" (did you mean {lower[near[0]]!r}?)" if near else ""
        raise TelMEError(f"unknown label {label!r}{hint}; the {self.name} labels are {', '.join(self.labels)}")


MELD = LabelSet("meld", ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"))
IEMOCAP = LabelSet("iemocap", ("happy", "sad", "angry", "excited", "frustrated", "neutral"))
