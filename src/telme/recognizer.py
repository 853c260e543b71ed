"""Conversation -> predictions: the way in for everybody who does not train."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self, overload

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoTokenizer

from telme.compat import ReleasedFaces, ReleasedVoices, build_prompter
from telme.conversation import Conversation, LabelSet, Modality, Utterance
from telme.encoders import EMBEDDING_SIZE, Encoded
from telme.errors import TelMEError
from telme.media import Clip, Problem, Recordings, Source
from telme.model import TelMEModel
from telme.packing import repacked
from telme.prediction import Prediction
from telme.progress import track
from telme.prompt import Context, Prompt, Prompter
from telme.sources import sources_of

BUNDLED = Path(__file__).parent / "models"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

CLIPS_AT_ONCE = 64  # decoded before they are encoded: some 100 MB


class Written(NamedTuple):
    """An utterance as it is read: with its prompt, and where its voice and face are."""

    utterance: Utterance
    prompt: Prompt
    source: Source | None


class Read(NamedTuple):
    """What the encoders make of utterances: outputs and presence by modality, and what was wrong with the media."""

    encoded: Mapping[Modality, Encoded]
    present: Mapping[Modality, Tensor]
    problems: list[tuple[Problem, ...]]


class Recognizer:
    """Reads the emotion of each utterance from the conversation up to it, by whatever of text, voice and face it has.

    An utterance's prediction depends on its own conversation's past and on nothing else: not on what comes later, on
    what else is read in the same call, or on how it is batched.

    Args:
        model: The network.
        prompter: Writes its input.
    """

    def __init__(self, model: TelMEModel, prompter: Prompter) -> None:
        self.model = model.eval()
        self.prompter = prompter

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str | None = None) -> Self:
        """Loads a model.

        Args:
            name: A folder, the name of a bundled model (`mini`), or a Hub id.
            device: Where it computes, as PyTorch names it; by default a GPU if there is one.

        Raises:
            TelMEError: There is no such model.
        """
        source = find_model(name)
        try:
            model = TelMEModel.from_pretrained(source, dtype="float32")
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, SafetensorError) as error:
            raise TelMEError(f"model {str(name)!r} cannot be loaded: {str(error).splitlines()[0]}") from error
        nn.Module.to(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, build_prompter(tokenizer, model.config.prompt_settings, compat=model.config.compat))

    @property
    def labels(self) -> LabelSet:
        """The emotions it tells apart, in the order of the probabilities."""
        labels: LabelSet = self.model.config.labels
        return labels

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it can read."""
        modalities: tuple[Modality, ...] = self.model.config.modalities
        return modalities

    @overload
    def __call__(self, conversations: Conversation, *, title: str | None = None) -> list[Prediction]: ...
    @overload
    def __call__(
        self, conversations: Sequence[Conversation], *, title: str | None = None
    ) -> list[list[Prediction]]: ...

    def __call__(
        self, conversations: Conversation | Sequence[Conversation], *, title: str | None = None
    ) -> list[Prediction] | list[list[Prediction]]:
        """One prediction per utterance, for one conversation or for several at once.

        Args:
            title: Of a progress bar over the clips; none shows without it.

        Raises:
            TelMEError: A media file that does not exist, or an utterance without anything that this model reads.
        """
        if isinstance(conversations, Conversation):
            return self([conversations], title=title)[0]
        written = [turn for conversation in conversations for turn in self._write_all(conversation)]
        if not written:
            return []
        numbers = torch.tensor([n for n, conversation in enumerate(conversations) for _ in conversation])
        predictions = iter(self.predict(written, self.read(written, title=title), numbers))
        return [[next(predictions) for _ in conversation] for conversation in conversations]

    def session(self) -> Session:
        """A live conversation: utterances are added one at a time, as they are spoken."""
        return Session(self)

    def write(self, utterance: Utterance, context: Context, source: Source | None) -> Written:
        """Adds an utterance to its conversation, and returns it with its prompt.

        Raises:
            TelMEError: No text, for a model that reads nothing else.
        """
        if not utterance.text.strip() and self.modalities == ("text",):
            raise TelMEError(f"an utterance of {utterance.speaker!r} has no text; this model reads text only")
        return Written(utterance, context.add(utterance), source)

    def read(self, written: Sequence[Written], *, title: str | None = None) -> Read:
        """What the encoders make of utterances; their media are decoded on the way."""
        encoded: dict[Modality, Encoded] = {"text": self.model.text.encode([turn.prompt for turn in written])}
        present: dict[Modality, Tensor] = {
            "text": torch.tensor([bool(turn.utterance.text.strip()) for turn in written]),
        }
        problems: list[tuple[Problem, ...]] = [()] * len(written)
        for modality in self.modalities[1:]:
            encoded[modality] = Encoded(
                torch.zeros(len(written), EMBEDDING_SIZE), torch.zeros(len(written), len(self.labels))
            )
            present[modality] = torch.zeros(len(written), dtype=torch.bool)
        if self.model.config.compat == "released":
            self._encode_released([turn.source for turn in written], encoded, present)
        elif len(self.modalities) > 1:
            for rows, clips in _clips([turn.source for turn in written], title=title):
                for row, clip in zip(rows, clips, strict=True):
                    problems[row] = clip.problems
                for modality in self.modalities[1:]:
                    self._encode(modality, rows, clips, encoded[modality], present[modality])
        # Where nothing is left of an utterance, the conversation before it still says something.
        present["text"] |= ~torch.stack(list(present.values())).any(dim=0)
        return Read(encoded, present, problems)

    def predict(self, written: Sequence[Written], read: Read, conversation: Tensor) -> list[Prediction]:
        """Predictions for utterances that the encoders have read; `conversation` numbers each one's."""
        reading = self.model.read(read.encoded, read.present, conversation)
        return [
            Prediction(
                utterance=turn.utterance,
                label=self.labels.labels[max(range(len(row)), key=row.__getitem__)],
                probabilities=dict(zip(self.labels, row, strict=True)),
                modalities=tuple(modality for modality in self.modalities if read.present[modality][number]),
                text_only=dict(zip(self.labels, alone, strict=True)) if sum(alone) else {},
                shift=shift,
                problems=tuple(map(str, read.problems[number])),
            )
            for number, (turn, row, alone, shift) in enumerate(
                zip(
                    written, reading.probabilities.tolist(), reading.alone.tolist(), reading.shift.tolist(), strict=True
                )
            )
        ]

    def _write_all(self, conversation: Conversation) -> list[Written]:
        context = self.prompter.context()
        sources = sources_of(conversation)
        return [self.write(turn, context, source) for turn, source in zip(conversation, sources, strict=True)]

    def _encode(
        self, modality: Modality, rows: Sequence[int], clips: Sequence[Clip], encoded: Encoded, present: Tensor
    ) -> None:
        """Fills in the rows whose clips have the modality."""
        part = "waveform" if modality == "audio" else "frames"
        there = [(row, getattr(clip, part)) for row, clip in zip(rows, clips, strict=True)]
        there = [(row, item) for row, item in there if item is not None]
        if there:
            at = torch.tensor([row for row, _ in there])
            encoded.embedding[at], encoded.logits[at] = self.model.encoder(modality).encode([item for _, item in there])
            present[at] = True

    def _encode_released(
        self,
        sources: Sequence[Source | None],
        encoded: Mapping[Modality, Encoded],
        present: dict[Modality, Tensor],
    ) -> None:
        """Fills in voices and faces as the authors' code reads them."""
        inputs: dict[Modality, ReleasedVoices | ReleasedFaces] = {
            "audio": ReleasedVoices.of(sources),
            "visual": ReleasedFaces.of(sources),
        }
        for modality, of_modality in inputs.items():
            present[modality] = torch.from_numpy(of_modality.present)
            rows = present[modality].nonzero().squeeze(1)
            if len(rows):
                read = of_modality.encode(self.model.encoder(modality), rows.tolist())
                encoded[modality].embedding[rows], encoded[modality].logits[rows] = read


class Session:
    """A conversation in progress; made by `Recognizer.session`.

    Its memory is bounded by what the model can read; a fusion that attends to the dialogue remembers all of it.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._context = recognizer.prompter.context()
        self._remembers = (recognizer.model.config.fusion or {}).get("attend") == "dialogue"
        self._written: list[Written] = []
        self._past: Read | None = None

    def add(self, utterance: Utterance) -> Prediction:
        """The prediction for the next utterance, equal to what the whole conversation would give for it.

        Raises:
            TelMEError: As for `Recognizer`.
        """
        source = sources_of(Conversation("live", (utterance,)))[0]
        written = self._recognizer.write(utterance, self._context, source)
        read = self._recognizer.read([written])
        if self._remembers:
            self._written.append(written)
            self._past = read = read if self._past is None else _joined(self._past, read)
        turns = self._written if self._remembers else [written]
        return self._recognizer.predict(turns, read, torch.zeros(len(turns), dtype=torch.int64))[-1]


def find_model(name: str | Path) -> str:
    """Folder or Hub id of a model.

    Raises:
        TelMEError: Neither a folder, nor bundled, nor of a Hub id's form.
    """
    bundled = sorted(folder.name for folder in BUNDLED.iterdir() if folder.is_dir())
    if str(name) in bundled:
        return str(BUNDLED / str(name))
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise TelMEError(
                f"model {str(name)!r} is a folder without a config.json; a run keeps its model in RUN/model"
            )
        return str(name)
    if HUB_ID.fullmatch(str(name)) and not Path(name).exists():
        return str(name)
    raise TelMEError(
        f"no model {str(name)!r}; name a folder, a bundled model ({', '.join(bundled)}) or a Hub id such as owner/name"
    )


def _clips(sources: Sequence[Source | None], *, title: str | None) -> Iterator[tuple[list[int], list[Clip]]]:
    """The clips that there are, some at a time, with their rows.

    Raises:
        TelMEError: A file that does not exist.
    """
    rows = [row for row, source in enumerate(sources) if source is not None]
    starts = range(0, len(rows), CLIPS_AT_ONCE)
    with Recordings() as recordings:
        for start in track(starts, title=title):
            chunk = rows[start : start + CLIPS_AT_ONCE]
            yield chunk, [_clip(recordings, source) for row in chunk if (source := sources[row])]


def _clip(recordings: Recordings, source: Source) -> Clip:
    clip = recordings.clip(source)
    if Problem.MISSING in clip.problems:
        raise TelMEError(f"{source.file}: no such file; the conversation names it as its media")
    return repacked(clip)  # as a store would give it, so that both give the same prediction


def _joined(past: Read, now: Read) -> Read:
    return Read(
        {m: Encoded(*map(torch.cat, zip(past.encoded[m], e, strict=True))) for m, e in now.encoded.items()},
        {m: torch.cat([past.present[m], p]) for m, p in now.present.items()},
        [*past.problems, *now.problems],
    )
