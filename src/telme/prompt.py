"""A conversation up to an utterance -> the token ids the text encoder reads (Eq. 1, 2)."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from telme.conversation import Conversation, Utterance
from telme.errors import TelMEError

SPEAKER, MASK = "{speaker}", "{mask}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    """How a conversation becomes text.

    Args:
        template: The prompt P_k (Eq. 2); None is the row without a prompt of Table 8, where the first token is read.
        max_length: Tokens a model reads at most; the oldest context tokens make room, the prompt never does.
        speakers: Number of speaker tokens <s1>, <s2>, ... (paper: 9, the most that a MELD dialogue has).
        further_speakers: A speaker beyond `speakers` either shares the last speaker token ("share") with all who come
            later, or is an error ("refuse").
    """

    template: str | None = "Now {speaker} feels {mask}"
    max_length: int = 512
    speakers: int = 9
    further_speakers: Literal["share", "refuse"] = "share"

    def __post_init__(self) -> None:
        if self.template is not None and not (
            self.template.count(SPEAKER) == self.template.count(MASK) == 1 and self.template.endswith(MASK)
        ):
            raise TelMEError(f"template {self.template!r}; it must hold {SPEAKER} once, and once, at its end, {MASK}")
        if self.speakers < 1:
            raise TelMEError(f"speakers is {self.speakers}; at least one speaker token is needed")
        if self.max_length < 32:
            raise TelMEError(f"max_length is {self.max_length}; a prompt and some context need at least 32 tokens")

    @property
    def speaker_tokens(self) -> list[str]:
        """The tokens <s1>, <s2>, ... to add to a tokenizer."""
        return [f"<s{number}>" for number in range(1, self.speakers + 1)]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of C_k </s> P_k, and the position whose hidden state is the embedding of utterance k (Eq. 3)."""

    input_ids: list[int]
    position: int


def add_speaker_tokens(tokenizer: PreTrainedTokenizerBase, settings: PromptSettings) -> None:
    """Makes each speaker token one token of its own; a tokenizer that has them stays as it is."""
    tokenizer.add_special_tokens({"extra_special_tokens": settings.speaker_tokens})


class Prompter:
    """Writes the prompt of every utterance of a conversation.

    The context is joined from token ids, never from text, so that it does not matter how a tokenizer version treats
    blanks around added tokens: each turn is tokenised once, by itself, as words that follow a blank.

    Args:
        tokenizer: Of any encoder or decoder, with the speaker tokens added.
        settings: Of the recipe that trained the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: PromptSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in settings.speaker_tokens if token not in vocabulary]
        if missing:
            raise TelMEError(f"the tokenizer lacks {', '.join(missing)}; add_speaker_tokens adds them")
        self.speaker_ids = [vocabulary[token] for token in settings.speaker_tokens]
        self._begin = _present(tokenizer.cls_token_id, tokenizer.bos_token_id)
        self._separator = _present(tokenizer.sep_token_id, tokenizer.eos_token_id)
        # A decoder has no mask token; there the prompt's last word is the first place that has read everything.
        self._mask = _present(tokenizer.mask_token_id)
        before, after = (settings.template or SPEAKER).removesuffix(MASK).split(SPEAKER)
        self._before, self._after = self.tokens(before), self.tokens(after)
        self._room = settings.max_length - len(self._begin) - len(self._ending(speaker_id=0))
        if self._room < 1:
            raise TelMEError(f"max_length is {settings.max_length}; the prompt {settings.template!r} alone fills it")

    def facts(self) -> dict[str, Any]:
        """All that decides what it writes, as values for JSON."""
        vocabulary = hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        return {"prompt": asdict(self.settings), "tokenizer": vocabulary}

    def __call__(self, conversation: Conversation) -> list[Prompt]:
        """The prompt of each utterance, in order."""
        context = self.context()
        return [context.add(utterance) for utterance in conversation]

    def context(self) -> Context:
        """An empty conversation, to which utterances are added as they are spoken."""
        return Context(self)

    def tokens(self, text: str) -> list[int]:
        """Ids of words that follow a blank; none for blank text."""
        words = text.strip()
        if not words:
            return []
        # What looks like a special token, such as "[MASK]", was spoken, and is read letter by letter.
        ids: list[int] = self.tokenizer(f" {words}", add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def close(self, context: list[int], speaker_id: int) -> Prompt:
        """Context and the speaker of its last turn -> the whole input: <s> C_k </s> P_k </s>."""
        ids = [*self._begin, *context[-self._room :], *self._ending(speaker_id)]
        last = len(ids) - 1
        if not self._mask:
            return Prompt(ids, last)
        return Prompt(ids, 0 if self.settings.template is None else last - len(self._separator))

    def _ending(self, speaker_id: int) -> list[int]:
        """What follows the context: </s> P_k </s>. Without a mask the prompt's own last token must stay the last."""
        if self.settings.template is None:
            return self._separator
        prompt = [*self._separator, *self._before, speaker_id, *self._after, *self._mask]
        return prompt + self._separator if self._mask else prompt


class Context:
    """The conversation so far, as token ids; made by `Prompter.context`. It keeps no more than a model can read."""

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter
        self._speakers: dict[str, int] = {}
        self._ids: deque[int] = deque(maxlen=prompter.settings.max_length)

    def add(self, utterance: Utterance) -> Prompt:
        """The prompt of the next utterance.

        Raises:
            TelMEError: One speaker more than there are tokens, where the settings refuse that.
        """
        speaker_id = self._speaker_id(utterance.speaker)
        self._ids.append(speaker_id)
        self._ids.extend(self._prompter.tokens(utterance.text))
        return self._prompter.close(list(self._ids), speaker_id)

    def _speaker_id(self, speaker: str) -> int:
        tokens = self._prompter.speaker_ids
        if speaker not in self._speakers:
            if len(self._speakers) < len(tokens):
                self._speakers[speaker] = tokens[len(self._speakers)]
            elif self._prompter.settings.further_speakers == "share":
                return tokens[-1]
            else:
                raise TelMEError(
                    f"{speaker!r} is speaker {len(tokens) + 1}; this model tells at most {len(tokens)} speakers apart"
                )
        return self._speakers[speaker]


def _present(*candidates: int | None) -> list[int]:
    """The first id that a tokenizer has, as a list of at most one."""
    return [candidate for candidate in candidates if candidate is not None][:1]
