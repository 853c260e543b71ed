"""Checks over media: what each utterance's clip is like, against what it should be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from telme.corpora import Corpus
from telme.doctor.inspection import ClipFacts, FileFacts
from telme.findings import Finding, Severity
from telme.media import LONGEST_SECONDS, SHORTEST_SECONDS

SURROUND_CHANNELS = 3
SILENT_LEVEL = -60.0  # dBFS: speech is 30 dB louder
CLIPPED_SHARE = 0.01
MISMATCH_SECONDS = 1.0
MISMATCH_SHARE = 0.5
OUTLYING = 3.5  # robust standard deviations (Iglewicz and Hoaglin, 1993, How to Detect and Handle Outliers)
NORMAL_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
LEAST_SPREAD = 4.0  # dB: levels that hardly differ, as in a tiny corpus, make nothing loud
ONE_PICTURE, TWO_PICTURES = 0.2, 0.6  # share of the height that breaks; photographs stay under 0.45, pairs over 0.2

KEPT = "kept as it is"
CUT = f"the last {LONGEST_SECONDS:g} s are read"
PADDED = f"kept; padded with silence to {SHORTEST_SECONDS:g} s"
TEXT_ONLY = "text only"

_APPLE_DOUBLE = b"\x00\x05\x16\x07"


def extra_files(corpus: Corpus) -> Iterator[Finding]:
    """Files among the clips that belong to no utterance: turns that nobody transcribed (MELD #22), stubs of macOS."""
    for file in corpus.extras:
        if Path(file).name.startswith("._") or _begins_with(file, _APPLE_DOUBLE):
            evidence = "an AppleDouble file, which macOS leaves beside the real one"
            yield Finding(check="stub-file", severity="info", evidence=evidence, action="ignored", file=file)
        else:
            evidence = "no utterance has this clip"
            yield Finding(check="extra-clip", severity="info", evidence=evidence, action="ignored", file=file)


def _begins_with(file: str, magic: bytes) -> bool:
    with Path(file).open("rb") as stream:
        return stream.read(len(magic)) == magic


def missing_clip(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Files that are not there (MELD #22: dev dia110_utt7)."""
    for file, users in _files(clips):
        if file.probe is None:
            yield from _unusable("missing-clip", file, users, "no such file")


def unreadable_clip(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Files that nothing can be read from (MELD #39: train dia125_utt3), and spans outside their recording."""
    for file, users in _files(clips):
        if file.probe is not None and not file.reads:
            evidence = f"none of its {file.probe.bytes:,} bytes can be decoded"
            yield from _unusable("unreadable-clip", file, users, evidence)
        if file.reads:
            outside = [clip for clip in users if clip.face is file and clip.outside]
            yield from _unusable("unreadable-clip", file, outside, f"the span is not in its {file.reach:.3f} s")


def truncated_clip(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Files that end before their header says: incomplete copies."""
    for file, users in _files(clips):
        if file.truncated:
            cut = [
                clip for clip in users if clip.source.end is None or (file.reach < clip.source.end and not clip.outside)
            ]
            yield from _of_file("truncated-clip", "warning", file, cut, _ends(file), "what there is of it is read")


def over_long_clip(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Clips over 30 s: in MELD they show another scene (#20)."""
    for clip in clips:
        if clip.over_long:
            yield _of_clip("over-long-clip", "warning", clip, _lasts(clip), CUT)


def too_short_clip(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Clips under 0.15 s: little can be heard, and audio encoders fail on them (b04901014/FT-w2v2-ser #6)."""
    for clip in clips:
        if clip.too_short:
            yield _of_clip("too-short-clip", "warning", clip, _lasts(clip), PADDED if clip.sound else KEPT)


def duration_mismatch(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Clips that differ from their transcript's span by more than a second and by half of it: other words are heard."""
    for clip in clips:
        spoken = clip.utterance.seconds
        if spoken is None or clip.seconds is None or clip.over_long or clip.too_short or clip.voice.truncated:
            continue
        if abs(clip.seconds - spoken) > max(MISMATCH_SECONDS, MISMATCH_SHARE * spoken):
            yield _of_clip("duration-mismatch", "warning", clip, f"{_lasts(clip)}; its transcript {spoken:.3f} s", KEPT)


def no_audio(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Readable files where the voice should be, without sound (MELD #49)."""
    for file, users in _files(clips):
        mute = [clip for clip in users if clip.voice is file and clip.sound is None and clip.has_face]
        if file.reads:
            yield from _of_file("no-audio", "warning", file, mute, "no sound in it can be decoded", "text and face")


def silent_audio(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Sound below -60 dBFS, which nobody hears."""
    for clip in clips:
        if clip.sound and clip.sound.level < SILENT_LEVEL:
            yield _of_clip("silent-audio", "warning", clip, _level(clip.sound.level), KEPT)


def surround_audio(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """More than two channels: in MELD's 5.1 the voice is in the centre, and often not in the left channel."""
    for file, users in _files(clips):
        channels = (file.probe and file.probe.channels) or 0
        heard = [clip for clip in users if clip.voice is file and clip.sound]
        if channels >= SURROUND_CHANNELS:
            yield from _of_file("surround-audio", "info", file, heard, f"{channels} channels", "mixed down to one")


def clipped_audio(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Sound that is at full scale for a hundredth of the time or more."""
    for clip in clips:
        if clip.sound and clip.sound.clipped >= CLIPPED_SHARE:
            yield _of_clip("clipped-audio", "warning", clip, f"{clip.sound.clipped:.1%} of it is at full scale", KEPT)


def loud_disturbance(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Sound far louder than the corpus's (MELD #9, #20: train dia793_utt0, dia164_utt5).

    The reporters' own sign, files over 2.5 MB, also holds for clips that are merely long.
    """
    heard = [(clip, clip.sound.level) for clip in clips if clip.sound and math.isfinite(clip.sound.level)]
    if not heard:
        return
    centre = median(level for _, level in heard)
    spread = max(LEAST_SPREAD, NORMAL_MAD * median(abs(level - centre) for _, level in heard))
    for clip, level in heard:
        if level > centre + OUTLYING * spread:
            yield _of_clip("loud-disturbance", "warning", clip, f"{_level(level)}; the corpus's {_level(centre)}", KEPT)


def no_video(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Readable files where the face should be, without pictures; one finding if all are so, as in a corpus of sound."""
    heard = [clip for clip in clips if clip.sound]
    faceless = [clip for clip in heard if clip.face.reads and not clip.face.pictures]
    if len(faceless) == len(heard) > 1:
        evidence = f"none of {len(heard):,} clips has a picture"
        yield Finding(check="no-video", severity="warning", evidence=evidence, action="text and voice")
        return
    for file, users in _files(faceless):
        seen = [clip for clip in users if clip.face is file]
        yield from _of_file("no-video", "warning", file, seen, "no picture in it can be decoded", "text and voice")


def split_screen(clips: Sequence[ClipFacts]) -> Iterator[Finding]:
    """Pictures of two cameras side by side where one is expected, and one where IEMOCAP should have two."""
    for file, users in _files(clips):
        if file.seam is None:
            continue
        evidence = f"it breaks at its middle column in {file.seam:.0%} of its height"
        whole = [clip for clip in users if clip.face is file and clip.source.half is None]
        halved = [clip for clip in users if clip.face is file and clip.source.half is not None]
        if file.seam >= TWO_PICTURES:
            yield from _of_file("split-screen", "warning", file, whole, evidence, "both pictures are read as one")
        if file.seam < ONE_PICTURE:
            yield from _of_file(
                "split-screen", "warning", file, halved, evidence, "the speaker's half is read all the same"
            )


def _files(clips: Sequence[ClipFacts]) -> Iterator[tuple[FileFacts, list[ClipFacts]]]:
    """Each file with the clips whose face or voice it holds."""
    users: dict[str, tuple[FileFacts, list[ClipFacts]]] = {}
    for clip in clips:
        for file in (clip.face,) if clip.face is clip.voice else (clip.face, clip.voice):
            users.setdefault(file.file, (file, []))[1].append(clip)
    yield from users.values()


def _unusable(check: str, file: FileFacts, users: Sequence[ClipFacts], evidence: str) -> Iterator[Finding]:
    """An error for each utterance that is left with its text; a warning for those that find voice or face elsewhere."""
    for clip in users:
        if clip.lost:
            yield _of_clip(check, "error", clip, evidence, TEXT_ONLY, file=file)
    faceless = [clip for clip in users if not clip.lost and clip.face is file]
    yield from _of_file(check, "warning", file, faceless, evidence, "text and voice")
    mute = [clip for clip in users if not clip.lost and clip.face is not file]
    yield from _of_file(check, "warning", file, mute, evidence, "text and face")


def _of_file(
    check: str, severity: Severity, file: FileFacts, users: Sequence[ClipFacts], evidence: str, action: str
) -> Iterator[Finding]:
    """A finding for each clip; one for a recording, however many utterances are in it."""
    recorded = [clip for clip in users if clip.face is file and clip.source.start is not None]
    if recorded:
        evidence_of_all = f"{evidence}; utterances in it: {len(recorded):,}, {recorded[0].utterance.id} the first"
        yield Finding(check=check, severity=severity, evidence=evidence_of_all, action=action, file=file.file)
    for clip in users:
        if clip not in recorded:
            yield _of_clip(check, severity, clip, evidence, action, file=file)


def _of_clip(
    check: str, severity: Severity, clip: ClipFacts, evidence: str, action: str, *, file: FileFacts | None = None
) -> Finding:
    return Finding(
        check=check,
        severity=severity,
        evidence=evidence,
        action=action,
        utterance=clip.utterance.id,
        file=(file or clip.voice).file,
    )


def _ends(file: FileFacts) -> str:
    if file.missing_bytes:
        return f"ends after {file.reach:.3f} s, and {file.missing_bytes:,} bytes before its header says"
    return f"ends after {file.reach:.3f} of {file.seconds:.3f} s"


def _lasts(clip: ClipFacts) -> str:
    return f"lasts {clip.seconds:.3f} s"


def _level(level: float) -> str:
    return f"RMS {level:.1f} dBFS" if math.isfinite(level) else "every sample is 0"


CHECKS: tuple[Callable[[Sequence[ClipFacts]], Iterator[Finding]], ...] = (
    missing_clip,
    unreadable_clip,
    truncated_clip,
    over_long_clip,
    too_short_clip,
    duration_mismatch,
    no_audio,
    silent_audio,
    surround_audio,
    clipped_audio,
    loud_disturbance,
    no_video,
    split_screen,
)
