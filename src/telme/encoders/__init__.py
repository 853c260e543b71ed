"""A padded batch -> one embedding and the class scores per utterance, for each modality."""

from telme.backbones import FaceSettings, VoiceSettings
from telme.encoders.audio import AudioEncoder
from telme.encoders.encoder import EMBEDDING_SIZE, Encoded
from telme.encoders.text import TextEncoder
from telme.encoders.visual import VisualEncoder

__all__ = [
    "EMBEDDING_SIZE",
    "AudioEncoder",
    "Encoded",
    "FaceSettings",
    "TextEncoder",
    "VisualEncoder",
    "VoiceSettings",
]
