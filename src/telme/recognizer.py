"""Conversation -> predictions: the way in for everybody who does not train."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self, overload

from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer

from telme.conversation import Conversation, LabelSet, Utterance
from telme.errors import TelMEError
from telme.model import TelMEModel
from telme.prediction import Prediction
from telme.prompt import Context, Prompt, Prompter

BUNDLED = Path(__file__).parent / "models"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

Written = tuple[Utterance, Prompt]


class Recognizer:
    """Reads the emotion of each utterance from the conversation up to it.

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
    def from_pretrained(cls, name: str | Path, *, device: str = "cpu") -> Self:
        """Loads a model.

        Args:
            name: A folder, the name of a bundled model (`mini`), or a Hub id.
            device: Where it computes, as PyTorch names it.

        Raises:
            TelMEError: There is no such model.
        """
        source = find_model(name)
        try:
            model = TelMEModel.from_pretrained(source, dtype="float32")
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, SafetensorError) as error:
            raise TelMEError(f"model {str(name)!r} cannot be loaded: {str(error).splitlines()[0]}") from error
        nn.Module.to(model, device)
        return cls(model, Prompter(tokenizer, model.config.prompt_settings))

    @property
    def labels(self) -> LabelSet:
        """The emotions it tells apart, in the order of the probabilities."""
        labels: LabelSet = self.model.config.labels
        return labels

    @overload
    def __call__(self, conversations: Conversation) -> list[Prediction]: ...
    @overload
    def __call__(self, conversations: Sequence[Conversation]) -> list[list[Prediction]]: ...

    def __call__(
        self, conversations: Conversation | Sequence[Conversation]
    ) -> list[Prediction] | list[list[Prediction]]:
        """One prediction per utterance, for one conversation or for several at once.

        Raises:
            TelMEError: An utterance without text (this model reads text only).
        """
        if isinstance(conversations, Conversation):
            return self([conversations])[0]
        contexts = [(conversation, self.prompter.context()) for conversation in conversations]
        written = [self.write(utterance, context) for conversation, context in contexts for utterance in conversation]
        predictions = iter(self.read(written))
        return [[next(predictions) for _ in conversation] for conversation in conversations]

    def session(self) -> Session:
        """A live conversation: utterances are added one at a time, as they are spoken."""
        return Session(self)

    def write(self, utterance: Utterance, context: Context) -> Written:
        """Adds an utterance to its conversation, and returns it with its prompt."""
        if not utterance.text.strip():
            raise TelMEError(f"an utterance of {utterance.speaker!r} has no text; this model reads text only")
        return utterance, context.add(utterance)

    def read(self, written: Sequence[Written]) -> list[Prediction]:
        """Predictions for utterances with their prompts."""
        if not written:
            return []
        rows = self.model.probabilities(self.model.text.encode([prompt for _, prompt in written]).logits)
        return [self._prediction(utterance, row) for (utterance, _), row in zip(written, rows.tolist(), strict=True)]

    def _prediction(self, utterance: Utterance, row: list[float]) -> Prediction:
        distribution = dict(zip(self.labels, row, strict=True))
        return Prediction(
            utterance=utterance,
            label=max(distribution, key=distribution.__getitem__),
            probabilities=distribution,
            modalities=("text",),
            text_only=dict(distribution),
            shift=0.0,
        )


class Session:
    """A conversation in progress; made by `Recognizer.session`. Its memory is bounded by what the model can read."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._context = recognizer.prompter.context()

    def add(self, utterance: Utterance) -> Prediction:
        """The prediction for the next utterance, equal to what the whole conversation would give for it."""
        return self._recognizer.read([self._recognizer.write(utterance, self._context)])[0]


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
