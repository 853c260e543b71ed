"""TelMEConfig and TelMEModel: the network as Hugging Face knows it, saved as config.json and model.safetensors."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from jaxtyping import Float, Float64
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from telme.conversation import LabelSet
from telme.encoders import TextEncoder
from telme.prompt import PromptSettings


class TelMEConfig(PreTrainedConfig):
    """Everything that must be known to build the network and to write its input.

    Args:
        text_config: Configuration of the text encoder's backbone.
        prompt: Fields of `PromptSettings`.
        label_set: Name of the label set; the labels are `id2label`, in the order of the logits.
        temperature: Divides the logits before the softmax (Guo et al. 2017); fitted on dev, 1 where it was not.
        seed: Of the run that trained it.
        selected_on: What its epoch and temperature were chosen on, such as `dev`.
    """

    model_type = "telme"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    prompt: dict[str, Any] | None = None
    label_set: str = "custom"
    temperature: float = 1.0
    seed: int | None = None
    selected_on: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.text_config, dict):
            self.text_config = AutoConfig.for_model(**self.text_config)
        super().__post_init__(**kwargs)

    @property
    def labels(self) -> LabelSet:
        """The emotions, in the order of the logits."""
        return LabelSet(self.label_set, tuple(name for _, name in sorted((self.id2label or {}).items())))

    @property
    def prompt_settings(self) -> PromptSettings:
        """How a conversation is written for this model."""
        return PromptSettings(**(self.prompt or {}))

    @classmethod
    def of(cls, labels: LabelSet, *, text: PreTrainedConfig, prompt: PromptSettings, seed: int) -> TelMEConfig:
        """The configuration of a new, untrained network."""
        return cls(
            text_config=text,
            prompt=asdict(prompt),
            seed=seed,
            label_set=labels.name,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )


class TelMEModel(PreTrainedModel):
    """The text teacher; an utterance's result depends on its own row alone, whatever else is in the batch."""

    config_class = TelMEConfig
    config: TelMEConfig
    base_model_prefix = "telme"
    _supports_sdpa = True

    def __init__(self, config: TelMEConfig) -> None:
        super().__init__(config)
        self.text = TextEncoder(AutoModel.from_config(config.text_config), classes=len(config.labels))
        self.post_init()

    def probabilities(self, logits: Float[Tensor, "batch classes"]) -> Float64[Tensor, "batch classes"]:
        """Calibrated probabilities of class scores: softmax(logits / temperature)."""
        return (logits.double() / self.config.temperature).softmax(dim=-1)


AutoConfig.register(TelMEConfig.model_type, TelMEConfig)
AutoModel.register(TelMEConfig, TelMEModel)
