"""Made-up corpora: complete, read without findings, the same for the same seed, and as telling as they say they are."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from telme.corpora import Corpus, read_corpus
from telme.corpora.synthetic import FEWEST_DIALOGUES, write_synthetic
from telme.corpora.synthetic.dialogue import (
    CAST,
    IEMOCAP_DECK,
    INSTEAD_OF_WORDS,
    MELD_DECK,
    PHRASEBOOKS,
    WORDS_TELL,
    Deck,
    Person,
    Playwright,
    Turn,
)
from telme.corpora.synthetic.face import draw
from telme.corpora.synthetic.iemocap import plan_iemocap, with_splits, write_texts
from telme.corpora.synthetic.iemocap_defects import plant_in_iemocap
from telme.corpora.synthetic.meld import plan_meld, write_tables
from telme.corpora.synthetic.meld_defects import plant_in_meld
from telme.corpora.synthetic.recording import Clip, Fault
from telme.corpora.synthetic.voice import speak
from telme.doctor import transcripts
from telme.errors import TelMEError
from telme.findings import Finding
from telme.media import Problem, Source, probe, read_clip


@pytest.fixture(scope="module", params=["meld", "iemocap"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The smallest made-up corpus of each kind, as it is read."""
    name = request.param
    root = tmp_path_factory.mktemp("corpora") / name
    write_synthetic(root, corpus=name, dialogues=FEWEST_DIALOGUES[name], seed=5, workers=1)
    return read_corpus(name, root)


def test_nothing_is_missing_or_left_over(corpus: Corpus) -> None:
    assert {repair.check for repair in corpus.repairs} <= {"label-convention"}
    assert corpus.extras == ()
    assert list(corpus.splits) == ["train", "dev", "test"]
    assert {utterance.id for utterance in corpus.utterances} == set(corpus.sources)


def test_every_utterance_has_a_voice_of_its_length_and_a_face(corpus: Corpus) -> None:
    for utterance in corpus.utterances:
        source = corpus.sources[str(utterance.id)]
        assert probe(source.voice or source.file).seconds == pytest.approx(utterance.seconds, abs=0.1)
        assert probe(source.file).width == {"meld": 1280, "iemocap": 720}[corpus.name]
    clip = read_clip(source)
    assert clip.status == "ok"


def test_turns_follow_each_other_at_the_pace_of_speech(corpus: Corpus) -> None:
    for conversation in corpus.conversations:
        times = [(utterance.start or 0.0, utterance.end or 0.0) for utterance in conversation]
        assert all(start < end for start, end in times)
        assert all(before[1] < after[0] for before, after in pairwise(times))
        assert 2 <= len({utterance.speaker for utterance in conversation}) <= 4
        for utterance, (start, end) in zip(conversation, times, strict=True):
            assert 1 < len(utterance.text.split()) / (end - start) < 7


def test_same_seed_same_bytes_however_many_processes(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        write_synthetic(tmp_path / name, dialogues=3, seed=1, workers=workers)
    one, two = (_digests(tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert len(one) > 3 * 4
    assert plan_meld(dialogues=3, seed=1).rows != plan_meld(dialogues=3, seed=2).rows


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(TelMEError, match=f"{tmp_path} is there already; name a new or an empty folder"):
        write_synthetic(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_too_few_dialogues_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TelMEError, match="4 dialogues; a made-up iemocap needs at least 5"):
        write_synthetic(tmp_path / "made", corpus="iemocap", dialogues=4)
    with pytest.raises(TelMEError, match="23 dialogues; defects need at least 24"):
        write_synthetic(tmp_path / "made", dialogues=23, defects=True)
    assert list(tmp_path.iterdir()) == []


# The findings that tables alone tell of. Clips are compared with planted.json in test_doctor_synthetic.py.
ABOUT_FILES = {
    "missing-clip",
    "unreadable-clip",
    "truncated-clip",
    "over-long-clip",
    "too-short-clip",
    "duration-mismatch",
    "no-audio",
    "silent-audio",
    "surround-audio",
    "clipped-audio",
    "loud-disturbance",
    "no-video",
    "split-screen",
    "corrected-clip",
    "extra-clip",
    "stub-file",
}


@pytest.mark.parametrize("seed", range(8))
def test_planted_is_what_the_doctor_reads_in_the_tables_of_meld(seed: int, tmp_path: Path) -> None:
    plan = plan_meld(dialogues=24, seed=seed)
    planted = plant_in_meld(plan)
    write_tables(plan, tmp_path)
    assert _told_by_tables(planted) == _found_in_tables(read_corpus("meld", tmp_path))


@pytest.mark.parametrize("seed", range(8))
def test_planted_is_what_the_doctor_reads_in_the_texts_of_iemocap(seed: int, tmp_path: Path) -> None:
    plan = plan_iemocap(dialogues=10, seed=seed)
    planted = plant_in_iemocap(plan)
    write_texts(plan, tmp_path)
    assert _told_by_tables(with_splits(planted, tmp_path)) == _found_in_tables(read_corpus("iemocap", tmp_path))


def _told_by_tables(findings: list[Finding]) -> Counter[tuple[str, str | None]]:
    return Counter((f.check, f.utterance) for f in findings if f.check not in ABOUT_FILES)


def _found_in_tables(corpus: Corpus) -> Counter[tuple[str, str | None]]:
    return _told_by_tables([*corpus.repairs, *(f for check in transcripts.CHECKS for f in check(corpus))])


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (None, None),
        ("unreadable", Problem.UNREADABLE),
        ("truncated", Problem.TRUNCATED),
        ("no-audio", Problem.NO_AUDIO),
        ("no-video", Problem.NO_VIDEO),
    ],
)
def test_a_faulty_clip_has_that_problem_and_no_other(
    fault: Fault | None, problem: Problem | None, tmp_path: Path
) -> None:
    file = str(tmp_path / "clip.mp4")
    Clip(file=file, turn=_turn(CAST[0], "joy"), fault=fault).write()
    assert read_clip(Source(file=file)).problems == (() if problem is None else (problem,))


def test_surround_sound_has_the_voice_in_the_centre(tmp_path: Path) -> None:
    file = str(tmp_path / "clip.mp4")
    Clip(file=file, turn=_turn(CAST[0], "joy"), surround=True).write()
    with av.open(file) as container:
        sound = np.hstack([frame.to_ndarray() for frame in container.decode(audio=0)])
    levels = np.sqrt(np.mean(np.square(sound), axis=1))
    assert len(levels) == 6
    assert levels[2] > 20 * np.delete(levels, 2).max()


@pytest.mark.parametrize("deck", [MELD_DECK, IEMOCAP_DECK], ids=["meld", "iemocap"])
def test_words_tell_more_than_the_voice_and_the_voice_more_than_the_face(deck: Deck) -> None:
    playwright = Playwright(deck, seed=0)
    dialogues = [playwright.dialogue(CAST[:3]) for _ in range(400)]
    turns = [turn for dialogue in dialogues for turn in dialogue]

    labels = Counter(turn.emotion for turn in turns)
    for emotion, count in deck.items():
        assert labels[emotion] / len(turns) == pytest.approx(count / sum(deck.values()), abs=0.03)
    by_chance = sum((count / sum(deck.values())) ** 2 for count in deck.values())

    def tells(shown: Sequence[bool]) -> float:
        """How often it shows the emotion for other reasons than chance."""
        return (sum(shown) / len(shown) - by_chance) / (1 - by_chance)

    voice = [turn.voice == turn.emotion for turn in turns]
    face = [turn.face == turn.emotion for turn in turns]
    words = [_has_words_of(turn) for turn in turns]
    assert np.mean(words) == pytest.approx(WORDS_TELL, abs=0.03)
    assert tells(voice) == pytest.approx(0.58, abs=0.04)
    assert tells(face) == pytest.approx(0.43, abs=0.04)
    instead = [heard for heard, told in zip(voice, words, strict=True) if not told]
    assert tells(instead) == pytest.approx(INSTEAD_OF_WORDS["voice"], abs=0.05)
    again = [after.emotion == before.emotion for dialogue in dialogues for before, after in pairwise(dialogue)]
    assert tells(again) > 0.25  # a deck that has just dealt an emotion deals it a little less
    assert len({turn.text for turn in turns}) == len(turns)


def _has_words_of(turn: Turn) -> bool:
    patterns = (re.sub(r"{\w+}", ".+", middle) for middle in PHRASEBOOKS[turn.emotion].middles)
    return any(re.search(pattern, turn.text, re.IGNORECASE) for pattern in patterns)


@pytest.mark.parametrize("deck", [MELD_DECK, IEMOCAP_DECK], ids=["meld", "iemocap"])
def test_an_emotion_is_heard_in_the_voice_and_seen_in_the_face(deck: Deck) -> None:
    """The nearest mean over half of the cast finds the emotion in the other half: what tiny networks need."""
    for look, least in ((_spectrum, 0.65), (_thumbnail, 0.95)):
        known, others = (np.array([[look(p, e) for e in deck] for p in half]) for half in (CAST[:5], CAST[5:]))
        distances = np.linalg.norm(others[:, :, None] - known.mean(axis=0), axis=-1)
        assert np.mean(distances.argmin(axis=-1) == np.arange(len(deck))) >= least


def _spectrum(person: Person, emotion: str) -> NDArray[np.float64]:
    sound = speak(_turn(person, emotion), rate=16_000)
    power = np.abs(np.fft.rfft(sound / sound.std())) ** 2
    return np.log([band.mean() for band in np.split(power, np.geomspace(60, 7000, 12).astype(int))[1:]])


def _thumbnail(person: Person, emotion: str) -> NDArray[np.float64]:
    picture = draw(person, emotion, opening=1, size=(320, 180), seed=len(person.name))
    return np.asarray(picture.resize((16, 16))).ravel() / 255


def _turn(person: Person, emotion: str) -> Turn:
    return Turn(person, "there is the lamp again", emotion, voice=emotion, face=emotion, seconds=1.5, seed=7)


def _digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
