"""What the authors' code gives its encoders of an utterance, mistakes included: for models with compat="released".

Their weights were trained on exactly this. What their code also lets other utterances of the batch do to a prediction
is no part of it; `telme.released` repeats that, for evaluation only.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import av
import av.container
import numpy as np
import soxr  # type: ignore[import-untyped]
import torch
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from telme.conversation import Utterance
from telme.corpora import read_corpus
from telme.encoders import AudioEncoder, Encoded, FaceSettings, VisualEncoder
from telme.errors import TelMEError
from telme.media import FRAME_SIZE, FRAMES, Probe, Source, probe
from telme.prompt import Context, Prompt, Prompter, PromptSettings
from telme.store import Store

Compat = Literal["released"] | None

MOST_TOKENS = 511  # kept, the last ones; the mask token follows
SAMPLE_RATE = 22_050  # Hz, of samples that the encoder takes for 16,000 Hz
MOST_SAMPLES = 400_000  # kept, the last ones: 18.1 s
LONGEST_SECONDS = 30.0  # of a clip that lasts longer nothing is read
SILENCE_SAMPLES = 1_412  # of zeros in its place
MARGIN_SECONDS = 1.0  # of the recording before and after a span that count as its picture

# The weights were trained on tables whose cp1252 punctuation had been read as latin-1.
_AS_LATIN_1 = {
    ord(character): byte for byte in range(0x80, 0xA0) if (character := bytes([byte]).decode("cp1252", errors="ignore"))
}


def add_released_tokens(tokenizer: PreTrainedTokenizerBase, settings: PromptSettings) -> None:
    """Makes each speaker token one that swallows the blanks on both sides, as in transformers 4.27."""
    tokens = [AddedToken(token, lstrip=True, rstrip=True, special=True) for token in settings.speaker_tokens]
    tokenizer.add_special_tokens({"extra_special_tokens": tokens})


def build_prompter(tokenizer: PreTrainedTokenizerBase, settings: PromptSettings, *, compat: Compat = None) -> Prompter:
    """What writes the prompts of a model with this `compat`."""
    return (ReleasedPrompter if compat == "released" else Prompter)(tokenizer, settings)


class ReleasedPrompter(Prompter):
    """Writes prompts as the released code does: one string, without <s> at its beginning or </s> at its end.

    Speakers are numbered in the order in which they first speak; a tenth one has no token, and is read as the letters
    of "<s10>".

    Args:
        tokenizer: RoBERTa's, with `add_released_tokens`.
        settings: The defaults; the released prompt cannot be chosen.
    """

    def facts(self) -> dict[str, Any]:
        """All that decides what it writes, as values for JSON."""
        return {**super().facts(), "compat": "released"}

    def context(self) -> Context:
        """An empty conversation, to which utterances are added as they are spoken."""
        return _ReleasedContext(self)

    def write(self, turns: Iterable[tuple[int, str]]) -> Prompt:
        """The prompt after these turns, each the number of its speaker, from 1, and its text."""
        written = [(f"<s{number}>", text.translate(_AS_LATIN_1)) for number, text in turns]
        said = " ".join(f"{speaker} {text}" for speaker, text in written).strip()
        ids = self.tokenizer(f"{said} </s> Now {written[-1][0]} feels", add_special_tokens=False)["input_ids"]
        ids = [*ids[-MOST_TOKENS:], self.tokenizer.mask_token_id]
        return Prompt(ids, len(ids) - 1)


class _ReleasedContext(Context):
    """The conversation so far, as turns; a turn is at least one token, so that more of them are never read."""

    def __init__(self, prompter: ReleasedPrompter) -> None:
        super().__init__(prompter)
        self._write = prompter.write
        self._numbers: dict[str, int] = {}
        self._turns: deque[tuple[int, str]] = deque(maxlen=MOST_TOKENS)

    def add(self, utterance: Utterance) -> Prompt:
        """The prompt of the next utterance."""
        number = self._numbers.setdefault(utterance.speaker, len(self._numbers) + 1)
        self._turns.append((number, utterance.text))
        return self._write(self._turns)


class ReleasedVoices:
    """Each utterance's voice, read anew from the recordings; an `Inputs` (see `telme.inputs`).

    Args:
        sources: Where each utterance's voice is.
        present: (rows,) whether it has one; the released code would stop where it has none, here it is the silence
            that stands for a clip that lasts too long.
    """

    def __init__(self, sources: Sequence[Source | None], present: NDArray[np.bool_]) -> None:
        self.sources, self.present = sources, present
        self.lengths = [1] * len(sources)  # each is encoded by itself
        self._file: str | None = None  # what was read last; spans of a recording follow each other
        self._sound = np.zeros(0, np.float32)

    @classmethod
    def of(cls, sources: Sequence[Source | None]) -> Self:
        """Voices of recordings that have not been looked at yet."""
        return cls(sources, np.array([s is not None and _probe(s.voice or s.file).has_audio for s in sources]))

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        source = self.sources[row]
        if source is None or not self.present[row]:
            return np.zeros(SILENCE_SAMPLES, np.float32)
        if (file := source.voice or source.file) != self._file:
            self._file, self._sound = file, _sound(file)
        return _voice(source, self._sound)

    def batch(self, items: Sequence[NDArray[np.float32]]) -> dict[str, Tensor]:
        """As the released code pads them: zeros on the left, which it takes for a part of the voice."""
        longest = max(map(len, items))
        waveforms = np.stack([np.pad(item, (longest - len(item), 0)) for item in items])
        return {"waveforms": torch.from_numpy(waveforms), "samples": torch.full((len(items),), longest)}

    def encode(self, encoder: AudioEncoder, rows: Sequence[int]) -> Encoded:
        """Embeddings and logits of the rows' voices, each by itself."""
        return self.encode_batches(encoder, [[row] for row in rows])

    def encode_batches(self, encoder: AudioEncoder, batches: Iterable[Sequence[int]]) -> Encoded:
        """Embeddings and logits of voices that share batches of the released code's, and with them its padding."""
        return _encode(encoder, encoder, (self.batch([self[row] for row in batch]) for batch in batches))


class ReleasedFaces:
    """Each utterance's face, read anew from the recordings; an `Inputs` (see `telme.inputs`).

    Args:
        sources: Where each utterance's face is.
        present: (rows,) whether it has one; where it has none it is the blank that stands for a clip that lasts too
            long.
    """

    def __init__(self, sources: Sequence[Source | None], present: NDArray[np.bool_]) -> None:
        self.sources, self.present = sources, present
        self.lengths = [1] * len(sources)
        self._file: str | None = None  # the recording that was read last, once for all of its utterances
        self._pictures: dict[int, NDArray[np.uint8] | None] = {}

    @classmethod
    def of(cls, sources: Sequence[Source | None]) -> Self:
        """Faces in recordings that have not been looked at yet."""
        return cls(sources, np.array([s is not None and _probe(s.file).has_video for s in sources]))

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        source = self.sources[row]
        pictures = self._read(row, source) if source is not None and self.present[row] else None
        if pictures is None:
            return np.zeros((FRAMES, 3, FRAME_SIZE, FRAME_SIZE), np.float32)
        mean, std = (np.array(values, np.float32) for values in (FaceSettings().mean, FaceSettings().std))
        return np.asarray((pictures.astype(np.float32) / 255 - mean) / std, np.float32).transpose(0, 3, 1, 2)

    def batch(self, items: Sequence[NDArray[np.float32]]) -> dict[str, Tensor]:
        """As `VisualEncoder.read` takes them."""
        return {"pixel_values": torch.from_numpy(np.stack(items))}

    def encode(self, encoder: VisualEncoder, rows: Sequence[int]) -> Encoded:
        """Embeddings and logits of the rows' faces, each by itself."""
        return _encode(encoder, encoder.read, (self.batch([self[row]]) for row in rows))

    def _read(self, row: int, source: Source) -> NDArray[np.uint8] | None:
        if source.file != self._file:
            of_file = [(number, s) for number, s in enumerate(self.sources) if s and s.file == source.file]
            found = _pictures(source.file, [other for _, other in of_file])
            self._file = source.file
            self._pictures = {number: pictures for (number, _), pictures in zip(of_file, found, strict=True)}
        return self._pictures[row]


def released_sources(store: Store, split: str) -> list[Source | None]:
    """Where the voice and face of each row are, in the corpus that the store was prepared from.

    Raises:
        TelMEError: The corpus does not lie there any more.
    """
    if not store.manifest.decoder:  # text only
        return [None] * len(store.clips(split))
    sources = read_corpus(store.manifest.corpus, store.manifest.root).sources
    return [
        None if utterance.id is None else sources.get(utterance.id)
        for conversation in store.conversations(split)
        for utterance in conversation
    ]


@torch.inference_mode()
def _encode(
    encoder: AudioEncoder | VisualEncoder, forward: Callable[..., Encoded], batches: Iterable[dict[str, Tensor]]
) -> Encoded:
    """Embeddings and logits of all batches, float32 on the CPU."""
    encoder.eval()
    device = encoder.classifier.weight.device
    encoded = [forward(**{name: tensor.to(device) for name, tensor in batch.items()}) for batch in batches]
    return Encoded(*(torch.cat(parts).float().cpu() for parts in zip(*encoded, strict=True)))


def _is_clip(source: Source) -> bool:
    """Whether the file is the utterance, as in MELD; else it is a span of a recording, as in IEMOCAP."""
    return source.voice is None and source.start is None and source.end is None


def _voice(source: Source, sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """(samples,) of the file's sound, brought to zero mean and unit variance before the beginning is cut off."""
    if _is_clip(source) and len(sound) > LONGEST_SECONDS * SAMPLE_RATE:
        return np.zeros(SILENCE_SAMPLES, np.float32)
    if source.voice is None:
        start, end = (None if time is None else int(time * SAMPLE_RATE) for time in (source.start, source.end))
        sound = sound[start:end]
    if not len(sound):
        return np.zeros(SILENCE_SAMPLES, np.float32)
    normalized = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    return np.asarray(normalized[-MOST_SAMPLES:], np.float32)


def _sound(file: str) -> NDArray[np.float32]:
    """(samples,) of the whole file at 22,050 Hz: 16-bit samples, the channels averaged, resampled, as librosa does."""
    parts: list[NDArray[Any]] = []
    rate = SAMPLE_RATE
    with _opened(file, "audio") as (container, stream), suppress(av.error.FFmpegError):
        assert isinstance(stream, AudioStream)
        rate = stream.rate
        resampler = AudioResampler(format="s16p", layout=stream.layout, rate=rate)
        for frame in container.decode(stream):
            parts += [part.to_ndarray() for part in resampler.resample(frame)]
        parts += [part.to_ndarray() for part in resampler.resample(None)]
    if not parts:
        return np.zeros(0, np.float32)
    mono = (np.concatenate(parts, axis=1).astype(np.float32) / 2**15).mean(axis=0)
    return np.asarray(soxr.resample(mono, rate, SAMPLE_RATE, "soxr_hq"), np.float32)


def _pictures(file: str, sources: Sequence[Source]) -> list[NDArray[np.uint8] | None]:
    """Of each source (8, 224, 224, 3), blue, green and red, in one pass over the file; none where nothing is read."""
    found: dict[int, NDArray[np.uint8]] = {}
    with _opened(file, "video") as (container, stream), suppress(av.error.FFmpegError):
        assert isinstance(stream, VideoStream)
        wanted = [_positions(source, container, stream) for source in sources]
        everywhere = {position for positions in wanted for position in positions}
        for position, frame in enumerate(container.decode(stream), start=1):
            if position in everywhere:
                found[position] = _picture(frame)
            if position >= max(everywhere, default=0):
                break
    chosen = [[found[position] for position in positions if position in found] for positions in wanted]
    return [np.stack([*taken, *[taken[-1]] * (FRAMES - len(taken))]) if taken else None for taken in chosen]


def _positions(source: Source, container: av.container.InputContainer, stream: VideoStream) -> list[int]:
    """Which frames of the file the released code keeps, counted from 1.

    Every N // 8-th frame of a clip of N frames; of a span the same, with a second before and after it.
    """
    rate, seconds = float(stream.guessed_rate or 25), _seconds(container)
    if not _is_clip(source):
        begin = rate * max((source.start or 0.0) - MARGIN_SECONDS, 0)
        end = rate * ((seconds if source.end is None else source.end) + MARGIN_SECONDS)
        before, step = max(math.ceil(begin), 1) - 1, max(int((end - begin) // FRAMES), 1)
        return [before + step * (k + 1) for k in range(FRAMES) if before + step * (k + 1) <= end]
    if seconds > LONGEST_SECONDS:
        return []
    step = max((stream.frames or int(seconds * rate + 0.5)) // FRAMES, 1)
    return [step * (k + 1) for k in range(FRAMES)]


def _seconds(container: av.container.InputContainer) -> float:
    """Duration of the sound, by which the released code judges a clip; of the whole file where that is not known."""
    audio = container.streams.audio
    if audio and audio[0].duration is not None and audio[0].time_base is not None:
        return float(audio[0].duration * audio[0].time_base)
    return (container.duration or 0) / av.time_base


def _picture(frame: VideoFrame) -> NDArray[np.uint8]:
    """(224, 224, 3), blue first: the shortest edge scaled to 224 by Pillow, the centre cut out."""
    image = Image.fromarray(frame.reformat(format="bgr24", interpolation=Interpolation.BICUBIC).to_ndarray())
    shortest = min(image.size)
    width, height = (int(FRAME_SIZE * edge / shortest) for edge in image.size)
    left, top = (width - FRAME_SIZE) // 2, (height - FRAME_SIZE) // 2
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(scaled.crop((left, top, left + FRAME_SIZE, top + FRAME_SIZE)))


def _probe(file: str) -> Probe:
    _check_exists(file)
    return probe(file)


def _check_exists(file: str) -> None:
    if not Path(file).is_file():
        raise TelMEError(
            f"{file}: no such file; a model of the released weights reads the recordings themselves, so that those of "
            "a store must still lie where it was prepared from"
        )


@contextmanager
def _opened(
    file: str, kind: Literal["audio", "video"]
) -> Iterator[tuple[av.container.InputContainer, AudioStream | VideoStream]]:
    """The file and its first stream of the kind."""
    _check_exists(file)
    try:
        container = av.open(file)
    except av.error.FFmpegError as error:
        raise TelMEError(f"{file}: cannot be decoded: {error.strerror}") from error
    with container:
        streams = container.streams.audio if kind == "audio" else container.streams.video
        if not streams:
            raise TelMEError(f"{file}: has no {kind}")
        yield container, streams[0]
