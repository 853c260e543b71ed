"""The doctor's checks over media: thresholds on made-up facts, and the facts themselves on files made on the spot."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recordings import record

from telme.conversation import MELD, Conversation, Utterance
from telme.corpora import Corpus
from telme.doctor import clips, examine, exit_code
from telme.doctor.inspection import ClipFacts, FileFacts, Gray, Sound, inspect_file, seam
from telme.findings import Finding
from telme.media import Half, Probe, Source

SPEECH = Sound(seconds=3.0, level=-25.0, clipped=0.0)


def file_of(
    seconds: float = 3.0,
    *,
    reach: float | None = None,
    sound: Sound | None = SPEECH,
    pictures: bool = True,
    seam: float | None = 0.0,
    channels: int = 2,
) -> FileFacts:
    """A readable file with one stretch of sound."""
    power = 0.0 if sound is None or sound.level == -math.inf else 10 ** (sound.level / 10)
    return FileFacts(
        file="a.mp4",
        probe=Probe(readable=True, bytes=1000, seconds=seconds, channels=channels),
        blocks=np.array([[0.0, seconds, power, sound.clipped]] if sound else [], np.float32).reshape(-1, 4),
        reach=seconds if reach is None else reach,
        pictures=pictures,
        seam=seam,
    )


def clip_of(
    file: FileFacts, *, spoken: float = 3.0, key: str = "dev/dia0_utt0", source: Source | None = None
) -> ClipFacts:
    """The clip of an utterance that lasts `spoken` seconds, all of which is in one file."""
    source = source or Source(file=file.file)
    sound = file.sound(source.start, source.end)
    utterance = Utterance("Ann", "Hi!", start=0.0, end=spoken, id=key)
    return ClipFacts(utterance=utterance, source=source, face=file, voice=file, sound=sound)


def level(decibels: float) -> FileFacts:
    return file_of(sound=SPEECH._replace(level=decibels))


def clipped(share: float) -> FileFacts:
    return file_of(sound=SPEECH._replace(clipped=share))


def found_in(*facts: ClipFacts) -> list[Finding]:
    return [finding for check in clips.CHECKS for finding in check(facts)]


@pytest.mark.parametrize(
    ("check", "spoken", "healthy", "defective", "evidence"),
    [
        ("missing-clip", 3, file_of(), FileFacts(file="a.mp4", probe=None), "no such file"),
        (
            *("unreadable-clip", 3, file_of()),
            FileFacts(file="a.mp4", probe=Probe(bytes=1000)),
            "none of its 1,000 bytes can be decoded",
        ),
        ("truncated-clip", 3, file_of(reach=2.6), file_of(reach=2.4), "ends after 2.400 of 3.000 s"),
        ("over-long-clip", 30, file_of(30.0), file_of(30.1), "lasts 30.100 s"),
        ("too-short-clip", 0.1, file_of(0.15), file_of(0.084), "lasts 0.084 s"),
        ("duration-mismatch", 3, file_of(4.5), file_of(4.6), "lasts 4.600 s; its transcript 3.000 s"),
        ("duration-mismatch", 3, file_of(1.5), file_of(1.4), "lasts 1.400 s; its transcript 3.000 s"),
        ("duration-mismatch", 1, file_of(2.0), file_of(2.1), "lasts 2.100 s; its transcript 1.000 s"),
        ("no-audio", 3, file_of(), file_of(sound=None), "no sound in it can be decoded"),
        ("silent-audio", 3, level(-59.9), level(-60.1), "RMS -60.1 dBFS"),
        ("silent-audio", 3, level(-59.9), level(-math.inf), "every sample is 0"),
        ("surround-audio", 3, file_of(channels=2), file_of(channels=6), "6 channels"),
        ("clipped-audio", 3, clipped(0.009), clipped(0.011), "1.1% of it is at full scale"),
        ("no-video", 3, file_of(), file_of(pictures=False, seam=None), "no picture in it can be decoded"),
        (
            "split-screen",
            3,
            file_of(seam=0.59),
            file_of(seam=0.6),
            "it breaks at its middle column in 60% of its height",
        ),
    ],
)
def test_a_check_finds_its_defect_and_nothing_else(
    check: str, spoken: float, healthy: FileFacts, defective: FileFacts, evidence: str
) -> None:
    assert found_in(clip_of(healthy, spoken=spoken)) == []
    (finding,) = found_in(clip_of(defective, spoken=spoken))
    assert (finding.check, finding.utterance, finding.file) == (check, "dev/dia0_utt0", "a.mp4")
    assert finding.evidence == evidence
    assert exit_code([finding]) == (3 if check in ("missing-clip", "unreadable-clip") else 0)


@pytest.mark.parametrize(("loudest", "found"), [(-11.1, 0), (-10.9, 1)])
def test_loud_is_what_is_far_above_the_corpus(loudest: float, found: int) -> None:
    alike = [clip_of(level(-25.0), key=f"dev/dia0_utt{turn}") for turn in range(9)]
    findings = found_in(*alike, clip_of(level(loudest), key="dev/dia0_utt9"))
    assert [(finding.check, finding.utterance) for finding in findings] == [
        ("loud-disturbance", "dev/dia0_utt9")
    ] * found


def test_nothing_is_loud_where_levels_differ_anyway() -> None:
    assert found_in(*(clip_of(level(decibels)) for decibels in (-45.0, -35.0, -25.0, -15.0, -5.0))) == []


def turn_of(recording: FileFacts, turn: int, *, voice: FileFacts | None = None, half: Half = "left") -> ClipFacts:
    """A turn of IEMOCAP: a second of a recording of 10 s, with or without a voice of its own."""
    span = Source(
        file=recording.file, start=float(turn), end=turn + 1.0, half=half, voice=voice.file if voice else None
    )
    clip = clip_of(recording, spoken=1.0, key=f"test/Ses05F_impro01_F00{turn}", source=span)
    return clip if voice is None else replace(clip, voice=voice, sound=voice.sound())


SECONDS = np.array([[second, 1.0, 0.01, 0.0] for second in range(10)], np.float32)
RECORDING = replace(file_of(10.0, seam=0.9), file="Ses05F_impro01.avi", blocks=SECONDS)
VOICE = replace(file_of(1.0, pictures=False, seam=None), file="Ses05F_impro01_F000.wav")
NO_VOICE = FileFacts(file="Ses05F_impro01_F001.wav", probe=None)


def test_a_missing_recording_is_one_finding_and_those_without_a_voice_are_lost() -> None:
    gone = FileFacts(file=RECORDING.file, probe=None)
    findings = found_in(turn_of(gone, 0, voice=VOICE), turn_of(gone, 1, voice=NO_VOICE), turn_of(gone, 2, voice=VOICE))
    assert [(f.check, f.severity, f.utterance, f.file) for f in findings] == [
        ("missing-clip", "error", "test/Ses05F_impro01_F001", "Ses05F_impro01.avi"),
        ("missing-clip", "warning", None, "Ses05F_impro01.avi"),
        ("missing-clip", "error", "test/Ses05F_impro01_F001", "Ses05F_impro01_F001.wav"),
    ]
    assert findings[1].evidence == "no such file; utterances in it: 2, test/Ses05F_impro01_F000 the first"
    assert findings[1].action == "text and voice"


def test_a_missing_voice_leaves_the_face() -> None:
    (finding,) = found_in(turn_of(RECORDING, 0, voice=VOICE), turn_of(RECORDING, 1, voice=NO_VOICE))
    assert (finding.check, finding.severity, finding.utterance) == (
        "missing-clip",
        "warning",
        "test/Ses05F_impro01_F001",
    )
    assert finding.action == "text and face"


def test_what_is_cut_off_from_a_recording_is_lost_and_what_is_before_it_is_not() -> None:
    cut = replace(RECORDING, blocks=SECONDS[:2], reach=1.9)
    findings = found_in(*(turn_of(cut, turn) for turn in range(3)))
    assert [(finding.check, finding.severity, finding.utterance) for finding in findings] == [
        ("unreadable-clip", "error", "test/Ses05F_impro01_F002"),
        ("truncated-clip", "warning", None),
    ]
    assert findings[1].evidence.endswith("; utterances in it: 1, test/Ses05F_impro01_F001 the first")


def test_a_recording_of_two_people_should_show_two_pictures() -> None:
    one, two = (replace(RECORDING, seam=share) for share in (0.19, 0.2))
    findings = found_in(*(turn_of(one, turn) for turn in range(3)))
    assert [(finding.check, finding.utterance) for finding in findings] == [("split-screen", None)]
    assert found_in(*(turn_of(two, turn) for turn in range(3))) == []


def test_a_corpus_of_sound_is_one_finding() -> None:
    findings = found_in(*(clip_of(VOICE, spoken=1.0, key=f"dev/dia0_utt{turn}") for turn in range(3)))
    assert [(finding.check, finding.utterance) for finding in findings] == [("no-video", None)]
    assert findings[0].evidence == "none of 3 clips has a picture"


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_sound_of_every_format_has_the_same_level(codec: str, tmp_path: Path) -> None:
    facts = inspect_file(str(record(tmp_path / "a.wav", seconds=0.5, colours=None, audio_codec=codec)))
    sound = facts.sound()
    assert sound is not None
    assert sound.seconds == pytest.approx(0.5)
    assert sound.level == pytest.approx(-9.03, abs=0.05)  # a sine of amplitude 0.5
    assert (facts.reads, facts.pictures, facts.seam, facts.truncated) == (True, False, None, False)


def test_sound_is_told_by_the_span_and_by_the_channel(tmp_path: Path) -> None:
    samples = np.zeros((2, 32_000), np.float32)
    samples[1, 16_000:24_000] = 1.5  # clipped, in one channel, from 1 s to 1.5 s
    file = record(
        tmp_path / "a.wav", seconds=2, colours=None, sound=samples, audio_rate=16_000, audio_codec="pcm_s16le"
    )
    facts = inspect_file(str(file))
    before, after = facts.sound(end=1.0), facts.sound(start=1.0)
    assert before is not None
    assert after is not None
    assert (before.level, before.clipped) == (-math.inf, 0.0)
    assert after.level == pytest.approx(-6.02, abs=0.01)  # full scale in half of the time and half of the channels
    assert after.clipped == pytest.approx(0.5, abs=0.01)
    assert facts.sound(start=2.0) is None


def test_a_film_is_read_in_full(tmp_path: Path) -> None:
    facts = inspect_file(str(record(tmp_path / "a.mp4", seconds=1, layout="5.1")))
    assert facts.probe is not None
    assert (facts.probe.channels, facts.pictures, facts.seam, facts.truncated) == (6, True, 0.0, False)
    assert facts.reach == pytest.approx(1, abs=0.1)
    mute = inspect_file(str(record(tmp_path / "b.mp4", seconds=0.5, tone=None)))
    assert (mute.reads, mute.pictures, mute.sound()) == (True, True, None)


@pytest.mark.parametrize(
    ("name", "video_codec", "audio_codec", "reads"),
    [
        ("a.mkv", "libx264", "aac", True),
        ("a.avi", "mpeg4", "pcm_s16le", True),
        ("a.wav", None, "pcm_s16le", True),
        ("a.mp4", "libx264", "aac", False),  # the index is at the end
    ],
)
def test_an_incomplete_copy_is_truncated_or_unreadable(
    name: str, video_codec: str | None, audio_codec: str, reads: bool, tmp_path: Path
) -> None:
    colours = None if video_codec is None else ("red", "blue")
    file = record(tmp_path / name, colours=colours, video_codec=video_codec or "", audio_codec=audio_codec)
    whole = inspect_file(str(file))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    half = inspect_file(str(file))
    assert (whole.reads, whole.truncated) == (True, False)
    assert (half.reads, half.truncated) == (reads, reads)


def test_a_seam_is_where_two_pictures_meet() -> None:
    chance = np.random.default_rng(0)

    def picture(width: int) -> Gray:
        """Smooth, as pictures are: a surface between random heights."""
        heights = chance.uniform(40, 220, (5, 7))
        down, across = np.linspace(0, 4, 480), np.linspace(0, 6, width)
        rows = np.array([np.interp(across, range(7), row) for row in heights])
        return np.array([np.interp(down, range(5), column) for column in rows.T]).T.astype(np.uint8)

    single, pair = picture(720), np.hstack([picture(360), picture(360)])
    barred = pair.copy()
    barred[:120] = barred[-120:] = 0
    values = [seam(picture) for picture in (single, pair, barred)]
    assert values[0] is not None
    assert values[0] < 0.2
    assert all(value is not None and value > 0.6 for value in values[1:])
    assert seam(np.zeros((480, 720), np.uint8)) is None
    assert seam(np.full((2, 6), 99, np.uint8)) is None


def test_examine_reads_the_files_and_changes_none(tmp_path: Path) -> None:
    good = record(tmp_path / "good.mp4", seconds=1)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a film")
    stub, disguised, extra = (tmp_path / name for name in ("._good.mp4", "dia9_utt9.mp4", "other.mp4"))
    stub.write_bytes(b"")
    disguised.write_bytes(bytes.fromhex("00051607") + bytes(208))
    extra.write_bytes(b"anything")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    turns = tuple(Utterance("Ann", "Hi!", id=f"dev/dia0_utt{turn}") for turn in range(3))
    corpus = Corpus(
        name="meld",
        root=str(tmp_path),
        labels=MELD,
        splits={"dev": (Conversation("dev/dia0", turns),)},
        sizes={},
        recordings={},
        clips={"dev": str(tmp_path)},
        repairs=(),
        sources={
            "dev/dia0_utt0": Source(file=str(good)),
            "dev/dia0_utt1": Source(file=str(bad)),
            "dev/dia0_utt2": Source(file=str(tmp_path / "absent.mp4")),
        },
        extras=tuple(map(str, (stub, disguised, extra))),
    )
    findings = examine(corpus)
    assert {(f.check, f.utterance, Path(str(f.file)).name) for f in findings} == {
        ("stub-file", None, "._good.mp4"),
        ("stub-file", None, "dia9_utt9.mp4"),
        ("extra-clip", None, "other.mp4"),
        ("unreadable-clip", "dev/dia0_utt1", "bad.mp4"),
        ("missing-clip", "dev/dia0_utt2", "absent.mp4"),
    }
    assert exit_code(findings) == 3
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before
