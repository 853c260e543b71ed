"""A conversation -> where the voice and face of each of its utterances are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from telme.conversation import Conversation
from telme.media import Source


def sources_of(conversations: Iterable[Conversation]) -> list[Source | None]:
    """The source of every utterance, conversation by conversation; none where there is no telling.

    An utterance's own `media` is a clip of it alone and read whole; but if several utterances name the same file, it is
    a recording, and their times are seconds within it, as they are within the conversation's `media`. Without times,
    only the one utterance of a conversation can be found in a recording.
    """
    turns = [(conversation, utterance) for conversation in conversations for utterance in conversation]
    uses = Counter(utterance.media for _, utterance in turns)
    sources: list[Source | None] = []
    for conversation, utterance in turns:
        file = utterance.media or conversation.media
        is_clip = utterance.media is not None and uses[utterance.media] == 1
        timed = utterance.start is not None and utterance.end is not None
        if file and (is_clip or (len(conversation) == 1 and not timed)):
            sources.append(Source(file=file))
        elif file and timed:
            sources.append(Source(file=file, start=utterance.start, end=utterance.end))
        else:
            sources.append(None)
    return sources
