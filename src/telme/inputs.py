"""What each modality's encoder reads of a split: prompts, waveforms or frames, by row of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from telme.collate import pad_prompts, pad_waveforms, stack_frames
from telme.compat import Compat, ReleasedFaces, ReleasedVoices, released_sources
from telme.conversation import Modality
from telme.encoders import AudioEncoder, Encoded, TextEncoder, VisualEncoder
from telme.prompt import Prompt, Prompter
from telme.store import Clips, Store


class Inputs(Protocol):
    """A modality of a split, row by row."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """(rows,) whether a row has the modality at all."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """(rows,) tokens, samples or clips of each row, by which batches are put together."""
        ...

    def __getitem__(self, row: int) -> Any:
        """What the encoder reads of a row that has the modality."""
        ...

    def batch(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Items as the padded batch that the encoder takes."""
        ...

    def encode(self, encoder: Any, rows: Sequence[int]) -> Encoded:
        """What the modality's encoder makes of these rows, which have the modality."""
        ...


@dataclass(frozen=True, slots=True)
class TextInputs:
    """Each utterance's prompt; `pad_id` is the encoder's."""

    prompts: list[Prompt]
    present: NDArray[np.bool_]
    pad_id: int

    @property
    def lengths(self) -> list[int]:
        """Tokens."""
        return [len(prompt.input_ids) for prompt in self.prompts]

    def __getitem__(self, row: int) -> Prompt:
        return self.prompts[row]

    def batch(self, items: Sequence[Prompt]) -> dict[str, Tensor]:
        """As `TextEncoder` takes them."""
        return pad_prompts(items, pad_id=self.pad_id)

    def encode(self, encoder: TextEncoder, rows: Sequence[int]) -> Encoded:
        """Embeddings and logits of the rows' prompts."""
        return encoder.encode([self[row] for row in rows])


@dataclass(frozen=True, slots=True)
class AudioInputs:
    """Each utterance's voice."""

    clips: Clips

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether there is a voice."""
        return np.array(self.clips.samples) > 0

    @property
    def lengths(self) -> Sequence[int]:
        """Samples."""
        return self.clips.samples

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        waveform = self.clips.waveform(row)
        assert waveform is not None
        return waveform

    def batch(self, items: Sequence[NDArray[np.float32]]) -> dict[str, Tensor]:
        """As `AudioEncoder` takes them."""
        return pad_waveforms(items)

    def encode(self, encoder: AudioEncoder, rows: Sequence[int]) -> Encoded:
        """Embeddings and logits of the rows' voices, unpacked as they are needed."""
        return encoder.encode(_Chosen(self, rows), samples=[self.lengths[row] for row in rows])


@dataclass(frozen=True, slots=True)
class VisualInputs:
    """Each utterance's face."""

    clips: Clips

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether there are frames."""
        return np.array(self.clips.has_frames)

    @property
    def lengths(self) -> Sequence[int]:
        """1 for every clip: all have the same number of frames."""
        return [1] * len(self.clips)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        frames = self.clips.frames(row)
        assert frames is not None
        return frames

    def batch(self, items: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
        """As `VisualEncoder` takes them."""
        return stack_frames(items)

    def encode(self, encoder: VisualEncoder, rows: Sequence[int]) -> Encoded:
        """Embeddings and logits of the rows' faces, unpacked as they are needed."""
        return encoder.encode(_Chosen(self, rows))


@dataclass(frozen=True, slots=True)
class _Chosen(Sequence[Any]):
    """Some rows' items, read when they are asked for."""

    inputs: Inputs
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.inputs[self.rows[place]]


def read_inputs(
    modality: Modality,
    store: Store,
    split: str,
    *,
    prompter: Prompter | None = None,
    pad_id: int | None = None,
    compat: Compat = None,
) -> Inputs:
    """A modality of a split of the store.

    Args:
        prompter: Needed for text.
        pad_id: Of the text encoder.
        compat: Of the model; `released` reads voices and faces anew from the corpus, as the released code does.

    Raises:
        TelMEError: No such split.
    """
    match modality:
        case "text":
            assert prompter is not None
            assert pad_id is not None
            conversations = store.conversations(split)
            prompts = [prompt for conversation in conversations for prompt in prompter(conversation)]
            spoken = np.array([bool(turn.text.strip()) for conversation in conversations for turn in conversation])
            clips = store.clips(split)
            # Where nothing is left of an utterance, the conversation before it still says something.
            nothing_else = (np.array(clips.samples) == 0) & ~np.array(clips.has_frames)
            return TextInputs(prompts, spoken | nothing_else, pad_id)
        case "audio":
            voices = AudioInputs(store.clips(split))
            return ReleasedVoices(released_sources(store, split), voices.present) if compat else voices
        case "visual":
            faces = VisualInputs(store.clips(split))
            return ReleasedFaces(released_sources(store, split), faces.present) if compat else faces
