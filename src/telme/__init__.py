"""TelME: multimodal emotion recognition in conversation."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telme.conversation import Conversation, LabelSet, Utterance
    from telme.errors import TelMEError
    from telme.model import TelMEConfig, TelMEModel, TelMEProcessor
    from telme.prediction import Prediction
    from telme.recognizer import Recognizer, Session

__version__ = version("telme")

__all__ = [
    "Conversation",
    "LabelSet",
    "Prediction",
    "Recognizer",
    "Session",
    "TelMEConfig",
    "TelMEError",
    "TelMEModel",
    "TelMEProcessor",
    "Utterance",
]

_HOME = {
    "Conversation": "conversation",
    "LabelSet": "conversation",
    "Prediction": "prediction",
    "Recognizer": "recognizer",
    "Session": "recognizer",
    "TelMEConfig": "model",
    "TelMEError": "errors",
    "TelMEModel": "model",
    "TelMEProcessor": "model",
    "Utterance": "conversation",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `telme --help` and light scripts do not wait for PyTorch.
    if name not in _HOME:
        raise AttributeError(f"module 'telme' has no attribute {name!r}")
    return getattr(import_module(f"telme.{_HOME[name]}"), name)
