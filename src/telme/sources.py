"""A conversation -> where the voice and face of each of its utterances are."""

from __future__ import annotations

from telme.conversation import Conversation
from telme.media import Source


def sources_of(conversation: Conversation) -> list[Source | None]:
    """The source of every utterance; none where there is no telling.

    An utterance's own `media` is a clip of it alone, read whole. The conversation's `media` is
    a recording in which its utterances' times are seconds. What is said later changes neither.
    """
    sources: list[Source | None] = []
    for utterance in conversation:
        timed = utterance.start is not None and utterance.end is not None
        if utterance.media is not None:
            sources.append(Source(file=utterance.media))
        elif conversation.media is not None and timed:
            sources.append(Source(file=conversation.media, start=utterance.start, end=utterance.end))
        else:
            sources.append(None)
    return sources
