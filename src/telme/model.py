"""TelMEConfig, TelMEModel and TelMEProcessor: the network as Hugging Face knows it, in one folder without pickles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoProcessor,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils.generic import ModelOutput

from telme.collate import pad_prompts, pad_waveforms, stack_frames
from telme.columns import Encoder
from telme.conversation import MODALITIES, Conversation, LabelSet, Modality
from telme.encoders import AudioEncoder, Encoded, FaceSettings, TextEncoder, VisualEncoder, VoiceSettings
from telme.errors import TelMEError
from telme.fusion import FusionSettings, build_fusion
from telme.media import FRAME_SIZE, FRAMES
from telme.prompt import Prompter, PromptSettings
from telme.store import Voiced

FUSION = "fusion"  # the head, beside those of the modalities, that has a temperature


class TelMEConfig(PreTrainedConfig):
    """Everything that must be known to build the network and to write its input.

    Args:
        text_config: Configuration of the text encoder's backbone.
        audio_config: Of the audio encoder's; none: the network does not hear.
        visual_config: Of the visual encoder's; none: the network does not see.
        prompt: Fields of `PromptSettings`.
        voice: Fields of `VoiceSettings`.
        face: Fields of `FaceSettings`.
        fusion: Fields of `FusionSettings`; none: the teacher alone.
        teacher: The modality that leads.
        label_set: Name of the label set; the labels are `id2label`, in the order of the logits.
        temperatures: By head (`text`, `audio`, `visual`, `fusion`): divides its logits before the softmax (Guo et al.
            2017); fitted on dev, 1 where it was not.
        seed: Of the run that trained it.
        selected_on: What its epochs and temperatures were chosen on, such as `dev`.
        compat: `released`: it reads what the authors' code reads (see `telme.released`).
    """

    model_type = "telme"
    sub_configs: ClassVar[dict[str, Any]] = {
        "text_config": AutoConfig,
        "audio_config": AutoConfig,
        "visual_config": AutoConfig,
    }

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    audio_config: dict[str, Any] | PreTrainedConfig | None = None
    visual_config: dict[str, Any] | PreTrainedConfig | None = None
    prompt: dict[str, Any] | None = None
    voice: dict[str, Any] | None = None
    face: dict[str, Any] | None = None
    fusion: dict[str, Any] | None = None
    teacher: Modality = "text"
    label_set: str = "custom"
    temperatures: dict[str, float] | None = None
    seed: int | None = None
    selected_on: str | None = None
    compat: Literal["released"] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name in self.sub_configs:
            if isinstance(sub := getattr(self, name), dict):
                setattr(self, name, AutoConfig.for_model(**sub))
        super().__post_init__(**kwargs)

    @property
    def labels(self) -> LabelSet:
        """The emotions, in the order of the logits."""
        return LabelSet(self.label_set, tuple(name for _, name in sorted((self.id2label or {}).items())))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the network reads, in the order of MODALITIES."""
        return tuple(modality for modality in MODALITIES if getattr(self, f"{modality}_config") is not None)

    @property
    def students(self) -> tuple[Modality, ...]:
        """The modalities beside the teacher, in the order in which the fusion takes them, there or not."""
        return tuple(modality for modality in MODALITIES if modality != self.teacher)

    @property
    def prompt_settings(self) -> PromptSettings:
        """How a conversation is written for this model."""
        return PromptSettings(**(self.prompt or {}))

    @classmethod
    def of(
        cls,
        labels: LabelSet,
        *,
        encoders: Mapping[Modality, Encoder],
        prompt: PromptSettings,
        fusion: FusionSettings | None = None,
        teacher: Modality = "text",
        temperatures: Mapping[str, float] | None = None,
        seed: int | None = None,
        selected_on: str | None = None,
        compat: Literal["released"] | None = None,
    ) -> TelMEConfig:
        """The configuration of a network of these encoders."""
        audio, visual = encoders.get("audio"), encoders.get("visual")
        return cls(
            text_config=encoders["text"].backbone.config,
            audio_config=None if audio is None else audio.backbone.config,
            visual_config=None if visual is None else visual.backbone.config,
            prompt=asdict(prompt),
            voice=asdict(audio.settings) if isinstance(audio, AudioEncoder) else None,
            face=asdict(visual.settings) if isinstance(visual, VisualEncoder) else None,
            fusion=None if fusion is None else asdict(fusion),
            teacher=teacher,
            temperatures=None if temperatures is None else dict(temperatures),
            seed=seed,
            selected_on=selected_on,
            compat=compat,
            label_set=labels.name,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )


class Reading(NamedTuple):
    """What the network says about each row, from the modalities that the row has.

    `probabilities` (rows, classes) are calibrated; `alone` (rows, classes) are the teacher's own, zeros where the row
    lacks the teacher's modality; `shift` (rows,) is lambda * ||H|| / ||F_T||, 0 where nothing was fused.
    """

    probabilities: Float64[Tensor, "rows classes"]
    alone: Float64[Tensor, "rows classes"]
    shift: Float[Tensor, " rows"]


@dataclass
class TelMEOutput(ModelOutput):
    """Output of the model: the fields of `Reading`."""

    probabilities: Tensor | None = None
    alone: Tensor | None = None
    shift: Tensor | None = None


class TelMEModel(PreTrainedModel):
    """Teacher, students and fusion; a row's result depends on that row alone, whatever else is in the batch.

    With `attend="dialogue"` it depends on the earlier rows of its conversation too.
    """

    config_class = TelMEConfig
    config: TelMEConfig
    base_model_prefix = "telme"
    _supports_sdpa = True

    def __init__(self, config: TelMEConfig) -> None:
        super().__init__(config)
        classes = len(config.labels)
        self.text = TextEncoder(AutoModel.from_config(config.text_config), classes=classes)
        self.audio: AudioEncoder | None = None
        self.visual: VisualEncoder | None = None
        if config.audio_config is not None:
            self.audio = AudioEncoder(
                AutoModel.from_config(config.audio_config),
                classes=classes,
                settings=VoiceSettings(**(config.voice or {})),
            )
        if config.visual_config is not None:
            self.visual = VisualEncoder(
                AutoModel.from_config(config.visual_config),
                classes=classes,
                settings=FaceSettings(**(config.face or {})),
            )
        self.fusion = build_fusion(FusionSettings(**config.fusion), classes=classes) if config.fusion else None
        self.post_init()

    def encoder(self, modality: Modality) -> Encoder:
        """The encoder of a modality that the network reads."""
        encoder: Encoder = getattr(self, modality)
        return encoder

    def probabilities(
        self, logits: Float[Tensor, "rows classes"], *, head: str = "text"
    ) -> Float64[Tensor, "rows classes"]:
        """Calibrated probabilities of a head's class scores: softmax(logits / temperature)."""
        return (logits.double() / (self.config.temperatures or {}).get(head, 1.0)).softmax(dim=-1)

    @torch.inference_mode()
    def read(
        self,
        encoded: Mapping[Modality, Encoded],
        present: Mapping[Modality, Bool[Tensor, " rows"]],
        conversation: Tensor | None = None,
    ) -> Reading:
        """Rows read from whatever modalities they have; every row has one at least.

        The teacher alone is exactly the teacher; with a student, the fusion; students without the teacher, the mean of
        their probabilities.

        Args:
            encoded: The encoders' outputs; of rows that lack the modality they are not looked at.
            present: Whether each row has each of the modalities in `encoded`.
            conversation: (rows,) number of each row's conversation, in time order; for `attend="dialogue"`.
        """
        teacher, students = self.config.teacher, [m for m in self.config.students if m in encoded]
        alone = {m: self.probabilities(encoded[m].logits, head=m) * present[m].unsqueeze(1) for m in encoded}
        led = present[teacher]
        if not students:
            return Reading(alone[teacher], alone[teacher], torch.zeros(len(led)))
        there = torch.stack([present[m] for m in students])
        joined = there.any(dim=0)
        mean = torch.stack([alone[m] for m in students]).sum(dim=0) / there.sum(dim=0).clamp(min=1).unsqueeze(1)
        probabilities = torch.where(led.unsqueeze(1), alone[teacher], mean)
        shift = torch.zeros(len(led))
        both = (led & joined).nonzero().squeeze(1)
        if self.fusion is not None and len(both):
            logits, shift[both] = self._fuse(encoded, present, both, conversation)
            probabilities[both] = self.probabilities(logits, head=FUSION)
        return Reading(probabilities, alone[teacher], shift)

    def _fuse(
        self,
        encoded: Mapping[Modality, Encoded],
        present: Mapping[Modality, Tensor],
        rows: Tensor,
        conversation: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Logits and shifts of the rows that have the teacher and a student, on the CPU."""
        assert self.fusion is not None
        self.fusion.eval()
        device = next(self.fusion.parameters()).device
        leading, students, there = fusion_inputs(self.config.teacher, encoded, present, rows)
        fused = self.fusion(
            leading.to(device),
            students.to(device),
            there.to(device),
            # Each row by itself, unless the fusion attends to the dialogue.
            torch.arange(len(rows), device=device) if conversation is None else conversation[rows].to(device),
        )
        return fused.logits.float().cpu(), fused.shift.float().cpu()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position: Tensor,
        present: Bool[Tensor, "rows 3"] | None = None,
        waveforms: Tensor | None = None,
        samples: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> TelMEOutput:
        """One conversation's rows in time order, as `TelMEProcessor` writes them.

        Args:
            input_ids, attention_mask, position: The prompts.
            present: Whether each row has text, audio and visual; none: text alone.
            waveforms, samples: The voices; needed if any is present.
            frames: The faces; needed if any is present.
        """
        text = self.text(input_ids, attention_mask, position)
        encoded: dict[Modality, Encoded] = {"text": text}
        if self.audio is not None and waveforms is not None:
            assert samples is not None
            encoded["audio"] = self.audio(waveforms, samples)
        if self.visual is not None and frames is not None:
            encoded["visual"] = self.visual(frames)
        if present is None:
            present = torch.zeros(len(input_ids), len(MODALITIES), dtype=torch.bool)
            present[:, MODALITIES.index("text")] = True
        there = {modality: present[:, MODALITIES.index(modality)].cpu() for modality in encoded}
        # Where nothing is left of an utterance, the conversation before it still says something.
        there["text"] = there["text"] | ~torch.stack(list(there.values())).any(dim=0)
        for modality in self.config.modalities:
            encoded.setdefault(modality, Encoded(torch.zeros_like(text.embedding), torch.zeros_like(text.logits)))
            there.setdefault(modality, torch.zeros(len(input_ids), dtype=torch.bool))
        encoded = {modality: Encoded(e.embedding.cpu(), e.logits.cpu()) for modality, e in encoded.items()}
        conversation = torch.zeros(len(input_ids), dtype=torch.int64)
        return TelMEOutput(**self.read(encoded, there, conversation)._asdict())


def fusion_inputs(
    teacher: Modality, encoded: Mapping[Modality, Encoded], present: Mapping[Modality, Tensor], rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's embeddings (rows, 768), the students' (rows, 2, 768) and whether they are there (rows, 2)."""
    leading = encoded[teacher].embedding[rows]
    students, there = [], []
    for modality in MODALITIES:
        if modality != teacher:
            absent = modality not in encoded
            students.append(torch.zeros_like(leading) if absent else encoded[modality].embedding[rows])
            there.append(torch.zeros(len(rows), dtype=torch.bool) if absent else present[modality][rows])
    return leading, torch.stack(students, dim=1), torch.stack(there, dim=1)


class TelMEProcessor(ProcessorMixin):
    """A conversation, with the voices and faces there are -> the tensors that `TelMEModel` takes.

    Args:
        tokenizer: With the speaker tokens.
        prompt: Fields of `PromptSettings`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: dict[str, Any] | None = None) -> None:
        super().__init__(tokenizer)
        self.prompt = prompt or {}
        self.prompter = Prompter(tokenizer, PromptSettings(**self.prompt))

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds."""
        return {name: value for name, value in super().to_dict().items() if name != "prompter"}

    def __call__(self, conversation: Conversation, clips: Sequence[Voiced] | None = None) -> BatchFeature:
        """Every utterance of a conversation as one row, in its order.

        Args:
            clips: Voice and face of each utterance, where there are any.

        Raises:
            TelMEError: Another number of clips than of utterances.
        """
        features = pad_prompts(self.prompter(conversation), pad_id=self.tokenizer.pad_token_id or 0)
        text = torch.tensor([bool(utterance.text.strip()) for utterance in conversation])
        if clips is None:
            nothing = torch.zeros_like(text)
            return BatchFeature({**features, "present": torch.stack([text, nothing, nothing], dim=1)})
        if len(clips) != len(conversation):
            raise TelMEError(f"{len(clips)} clips for {len(conversation)} utterances; each needs one, empty or not")
        silence = torch.zeros(1).numpy()
        blank = torch.zeros(FRAMES, FRAME_SIZE, FRAME_SIZE, 3, dtype=torch.uint8).numpy()
        voice = torch.tensor([clip.waveform is not None for clip in clips])
        face = torch.tensor([clip.frames is not None for clip in clips])
        return BatchFeature(
            {
                **features,
                "present": torch.stack([text, voice, face], dim=1),
                **pad_waveforms([silence if clip.waveform is None else clip.waveform for clip in clips]),
                **stack_frames([blank if clip.frames is None else clip.frames for clip in clips]),
            }
        )


AutoConfig.register(TelMEConfig.model_type, TelMEConfig)
AutoModel.register(TelMEConfig, TelMEModel)
AutoProcessor.register(TelMEConfig, TelMEProcessor)
