"""Checks over transcripts, times and labels: what a corpus's tables tell without its clips."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from telme.conversation import Utterance
from telme.corpora import Corpus
from telme.corpora.corpus import Size, Span
from telme.findings import Finding, Severity

OVER_LONG_SECONDS = 30.0
TOO_SHORT_SECONDS = 0.15
FASTEST_WORDS_PER_SECOND = 10.0
TELLING_WORDS = 4  # shorter texts ("Oh my God!") recur by chance

KEPT = "kept as it is"

_TAG = re.compile(r"\[\w+\]")
_BRACKET = re.compile(r"[(\[]")
_SEVERAL_SPEAKERS = re.compile(r"[/&]|\band\b|^(all|both|everybody|everyone|the guys)$", re.IGNORECASE)
_TURN_NUMBER = re.compile(r"_utt(\d+)$")


def wrong_count(corpus: Corpus) -> Iterator[Finding]:
    """Splits whose size is not the published one: an incomplete copy, or one that somebody edited."""
    for split, published in corpus.sizes.items():
        conversations = corpus.splits.get(split, ())
        utterances = None if published.utterances is None else sum(map(len, conversations))
        found = Size(len(conversations), utterances)
        if found != published:
            yield Finding(
                check="wrong-count",
                severity="warning",
                evidence=f"{split}: {_size(found)}; published are {_size(published)}",
                action=KEPT if conversations else "the corpus is prepared without this split",
            )


def _size(size: Size) -> str:
    utterances = "" if size.utterances is None else f" with {size.utterances:,} utterances"
    return f"{size.conversations:,} conversations{utterances}"


def missing_clips(corpus: Corpus) -> Iterator[Finding]:
    """Splits without a folder of clips."""
    for split in corpus.splits:
        if split not in corpus.clips:
            yield Finding(
                check="missing-clips", severity="info", evidence=f"{split}: no folder of clips", action="text only"
            )


def over_long_span(corpus: Corpus) -> Iterator[Finding]:
    """Spans over 30 s: wrong times that cover another scene (MELD #20: test dia38_utt4 lasts 304.9 s)."""
    for utterance, span in _spans(corpus):
        seconds = span.end - span.start
        if seconds > OVER_LONG_SECONDS:
            yield _finding("over-long-span", "warning", _pace(utterance, seconds), utterance)


def too_short_span(corpus: Corpus) -> Iterator[Finding]:
    """Spans under 0.15 s, mostly wrong times: nothing can be heard, and audio encoders fail on them.

    Eight of MELD's utterances last 0.084 s, one 0.006 s and one 0 s.
    """
    for utterance, span in _spans(corpus):
        seconds = span.end - span.start
        if seconds < TOO_SHORT_SECONDS:
            yield _finding("too-short-span", "warning", _pace(utterance, seconds), utterance)


def speech_rate(corpus: Corpus) -> Iterator[Finding]:
    """More than 10 words a second: text and times belong to different utterances (MELD #9, #30).

    Words are what spaces separate; any word in 0 s is too fast.
    """
    for utterance, span in _spans(corpus):
        seconds = span.end - span.start
        if _words(utterance) > FASTEST_WORDS_PER_SECOND * seconds:
            yield _finding("speech-rate", "warning", _pace(utterance, seconds), utterance)


def out_of_order(corpus: Corpus) -> Iterator[Finding]:
    """Turns that start before the start of the turn they follow: a wrong time, or turns in the wrong order."""
    for (earlier, before), (utterance, span) in _adjacent_spans(corpus):
        if span.start < before.start:
            evidence = f"starts {before.start - span.start:.3f} s before {earlier.id}, which it follows"
            yield _finding("out-of-order", "warning", evidence, utterance)


def overlap(corpus: Corpus) -> Iterator[Finding]:
    """Turns that start before the turn they follow has ended, those out of order included: two voices in one clip."""
    for (earlier, before), (utterance, span) in _adjacent_spans(corpus):
        if span.start < before.end:
            evidence = f"starts {before.end - span.start:.3f} s before {earlier.id} ends"
            yield _finding("overlap", "info", evidence, utterance)


def leaked_span(corpus: Corpus) -> Iterator[Finding]:
    """The same span of the same recording in two splits, found at the later one: what is tested was trained on."""
    for span, group in _shared_spans(corpus):
        first, *others = group
        for utterance in others:
            if split_of(utterance.id) != split_of(first.id):
                evidence = f"{span.recording}, {span.start:.3f} to {span.end:.3f} s is also {first.id}"
                yield _finding("leaked-span", "warning", evidence, utterance)


def duplicate_span(corpus: Corpus) -> Iterator[Finding]:
    """The same span of the same recording twice in a split: two texts for one clip, or a dialogue that recurs."""
    for span, group in _shared_spans(corpus):
        first_in_split: dict[str, Utterance] = {}
        for utterance in group:
            twin = first_in_split.setdefault(split_of(utterance.id), utterance)
            if twin is not utterance:
                evidence = f"{span.recording}, {span.start:.3f} to {span.end:.3f} s is also {twin.id}"
                yield _finding("duplicate-span", "info", evidence, utterance)


def text_in_train(corpus: Corpus) -> Iterator[Finding]:
    """Held-out texts of 4 words or more that occur verbatim in train."""
    train: dict[str, Utterance] = {}
    for conversation in corpus.splits.get("train", ()):
        for utterance in conversation:
            train.setdefault(utterance.text, utterance)
    for utterance in corpus.utterances:
        twin = train.get(utterance.text)
        if twin and split_of(utterance.id) != "train" and _words(utterance) >= TELLING_WORDS:
            yield _finding("text-in-train", "info", f"{utterance.text!r} is also {twin.id}", utterance)


def id_gap(corpus: Corpus) -> Iterator[Finding]:
    """Dialogues whose utterance ids skip numbers, found at the first id after a gap: turns that nobody transcribed."""
    for conversation in corpus.conversations:
        turns = {int(match[1]): u for u in conversation if (match := _TURN_NUMBER.search(u.id or ""))}
        gaps = [(last + 1, turn - 1) for last, turn in pairwise([-1, *sorted(turns)]) if turn > last + 1]
        if gaps:
            missing = ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in gaps)
            yield _finding("id-gap", "info", f"{conversation.id} has no utterance {missing}", turns[gaps[0][1] + 1])


def stage_direction(corpus: Corpus) -> Iterator[Finding]:
    """Brackets in the text: a stage direction that nobody says (MELD #20), or "(Singing" and the like."""
    for utterance in corpus.utterances:
        if _BRACKET.search(_TAG.sub("", utterance.text)):
            yield _finding("stage-direction", "info", repr(utterance.text), utterance)


def tag_in_text(corpus: Corpus) -> Iterator[Finding]:
    """One word in square brackets: what IEMOCAP's transcribers heard besides words, such as [LAUGHTER]."""
    for utterance in corpus.utterances:
        if _TAG.search(utterance.text):
            yield _finding("tag-in-text", "info", repr(utterance.text), utterance)


def several_speakers(corpus: Corpus) -> Iterator[Finding]:
    """Names that stand for more than one person or role, such as "Phoebe and Rachel", "Joey/Drake" or "All"."""
    for utterance in corpus.utterances:
        if _SEVERAL_SPEAKERS.search(utterance.speaker):
            yield _finding("several-speakers", "info", f"the speaker is {utterance.speaker!r}", utterance)


def _finding(check: str, severity: Severity, evidence: str, utterance: Utterance) -> Finding:
    return Finding(check=check, severity=severity, evidence=evidence, action=KEPT, utterance=utterance.id)


def _spans(corpus: Corpus) -> Iterator[tuple[Utterance, Span]]:
    return ((utterance, span) for utterance in corpus.utterances if (span := corpus.span(utterance)))


def _adjacent_spans(corpus: Corpus) -> Iterator[tuple[tuple[Utterance, Span], tuple[Utterance, Span]]]:
    """Each turn after the turn it follows, where both are spans of one recording."""
    for conversation in corpus.conversations:
        for earlier, later in pairwise(conversation):
            before, span = corpus.span(earlier), corpus.span(later)
            if before and span and before.recording == span.recording:
                yield (earlier, before), (later, span)


def _shared_spans(corpus: Corpus) -> Iterator[tuple[Span, list[Utterance]]]:
    """Each span that several utterances have, with those utterances in the corpus's order."""
    groups: dict[Span, list[Utterance]] = defaultdict(list)
    for utterance, span in _spans(corpus):
        groups[span].append(utterance)
    return ((span, group) for span, group in groups.items() if len(group) > 1)


def split_of(key: str | None) -> str:
    """The split that an utterance's id begins with; empty without an id."""
    return "" if key is None else key.partition("/")[0]


def _words(utterance: Utterance) -> int:
    return len(utterance.text.split())


def _pace(utterance: Utterance, seconds: float) -> str:
    words = _words(utterance)
    return f"{words} {'word' if words == 1 else 'words'} in {seconds:.3f} s"


CHECKS: tuple[Callable[[Corpus], Iterator[Finding]], ...] = (
    wrong_count,
    missing_clips,
    over_long_span,
    too_short_span,
    speech_rate,
    out_of_order,
    overlap,
    leaked_span,
    duplicate_span,
    text_in_train,
    id_gap,
    stage_direction,
    tag_in_text,
    several_speakers,
)
