from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telme.conversation import IEMOCAP
from telme.corpora import Corpus, read_corpus
from telme.corpora.iemocap import SIZES, split_dialogues
from telme.errors import TelMEError
from telme.findings import Finding
from telme.media import Source

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"
RATERS = "C-E2:\tNeutral;\t()\nC-F1:\tNeutral;\t(curious)\nA-E3:\tval 3; act 2; dom  2;\t()\n"


@dataclass(frozen=True)
class Turn:
    """A turn of a dialogue, named by the end of its id."""

    code: str
    start: float = 0
    end: float = 200
    text: str = "Excuse me."
    label: str = "neu"


def write(
    root: Path,
    dialogue: str,
    turns: Iterable[Turn],
    *,
    transcripts: Sequence[str] = (),
    evaluations: Sequence[str] = (),
) -> Path:
    """Writes a dialogue as the full release has it, with these further lines; gives its session's folder."""
    turns = list(turns)
    session = root / f"Session{dialogue[4]}"
    transcript = session / "dialog" / "transcriptions" / f"{dialogue}.txt"
    evaluation = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
    lines = [f"{dialogue}_{t.code} [{t.start:08.4f}-{t.end:08.4f}]: {t.text}" for t in turns]
    blocks = [
        f"[{t.start:.4f} - {t.end:.4f}]\t{dialogue}_{t.code}\t{t.label}\t[2.5000, 2.5000, 2.5000]\n{RATERS}"
        for t in turns
    ]
    transcript.parent.mkdir(parents=True, exist_ok=True)
    evaluation.parent.mkdir(parents=True, exist_ok=True)
    transcript.write_text("".join(f"{line}\n" for line in (*lines, *transcripts)), encoding="utf-8")
    evaluation.write_text("\n".join([HEADER, *blocks, *evaluations]), encoding="utf-8")
    return session


def touch(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return str(file)


def of(corpus: Corpus, check: str) -> list[Finding]:
    return [finding for finding in corpus.repairs if finding.check == check]


def test_a_line_becomes_an_utterance(tmp_path: Path) -> None:
    write(tmp_path, "Ses05M_impro01", [Turn("F000", 6.2901, 8.2357, "Excuse me. [LAUGHTER]", "exc")])
    corpus = read_corpus("iemocap", tmp_path)
    (conversation,) = corpus.splits["test"]
    (utterance,) = conversation
    assert (conversation.id, utterance.id) == ("test/Ses05M_impro01", "test/Ses05M_impro01_F000")
    assert (utterance.speaker, utterance.text) == ("Ses05_F", "Excuse me. [LAUGHTER]")
    assert (utterance.start, utterance.end, utterance.label) == (6.2901, 8.2357, "excited")
    assert corpus.recordings == {"test/Ses05M_impro01_F000": "Ses05M_impro01"}
    assert (corpus.name, corpus.labels, corpus.clips, corpus.sources) == ("iemocap", IEMOCAP, {}, {})
    assert [finding.check for finding in corpus.repairs] == ["label-convention"]


def test_labels_are_read_by_name(tmp_path: Path) -> None:
    codes = {"hap": "happy", "sad": "sad", "ang": "angry", "exc": "excited", "fru": "frustrated", "neu": "neutral"}
    write(tmp_path, "Ses05M_impro01", [Turn(f"F{n:03}", n, n + 1, label=code) for n, code in enumerate(codes)])
    assert [u.label for u in read_corpus("iemocap", tmp_path).utterances] == list(codes.values())


def test_turns_are_in_the_order_they_were_spoken(tmp_path: Path) -> None:
    write(tmp_path, "Ses05M_impro01", [Turn("F000", 100.5), Turn("M000", 20), Turn("F001", 9.75), Turn("M001", 20)])
    corpus = read_corpus("iemocap", tmp_path)
    assert [str(u.id)[-4:] for u in corpus.utterances] == ["F001", "M000", "M001", "F000"]


def test_other_labels_are_left_out_and_counted_in_one_finding(tmp_path: Path) -> None:
    labels = ["neu", "xxx", "sur", "xxx", "hap"]
    write(tmp_path, "Ses05M_impro01", [Turn(f"F{n:03}", n, n + 1, label=code) for n, code in enumerate(labels)])
    write(tmp_path, "Ses05M_impro02", [Turn("F000", label="oth")])
    corpus = read_corpus("iemocap", tmp_path)
    (outside,), (convention,) = of(corpus, "outside-label-set"), of(corpus, "label-convention")
    assert [u.id for u in corpus.utterances] == ["test/Ses05M_impro01_F000", "test/Ses05M_impro01_F004"]
    assert [c.id for c in corpus.conversations] == ["test/Ses05M_impro01"]
    assert (outside.evidence, outside.action) == ("4 turns: 2 xxx, 1 oth, 1 sur", "left out")
    assert convention.evidence.startswith("six emotions: 2 turns here, 1 of them happy")
    assert {"7,380", "7,433"} < {word.strip(".,;") for word in convention.evidence.split()}


def test_the_speakers_half_and_voice(tmp_path: Path) -> None:
    session = write(tmp_path, "Ses05M_impro01", [Turn("M000", 1, 2), Turn("F000", 3, 4)])
    touch(session / "sentences" / "wav" / "Ses05M_impro01" / "Ses05M_impro01_M000.wav")
    recording = touch(session / "dialog" / "avi" / "DivX" / "Ses05M_impro01.avi")
    corpus = read_corpus("iemocap", tmp_path)
    voices = session / "sentences" / "wav" / "Ses05M_impro01"
    assert corpus.sources == {
        "test/Ses05M_impro01_M000": Source(
            file=recording, start=1, end=2, half="left", voice=str(voices / "Ses05M_impro01_M000.wav")
        ),
        "test/Ses05M_impro01_F000": Source(  # the voice is missing, which the doctor reports
            file=recording, start=3, end=4, half="right", voice=str(voices / "Ses05M_impro01_F000.wav")
        ),
    }
    assert corpus.clips == {"test": str(tmp_path)}
    assert corpus.extras == ()


def test_a_release_without_voices_or_without_videos(tmp_path: Path) -> None:
    for root in (tmp_path / "videos", tmp_path / "voices"):
        write(root, "Ses05M_impro01", [Turn("M000", 1, 2)])
    file = touch(tmp_path / "videos" / "Session5" / "dialog" / "avi" / "DivX" / "Ses05M_impro01.avi")
    voice = touch(tmp_path / "voices" / "Session5" / "sentences" / "wav" / "Ses05M_impro01" / "Ses05M_impro01_M000.wav")
    (video_source,) = read_corpus("iemocap", tmp_path / "videos").sources.values()
    (voice_source,) = read_corpus("iemocap", tmp_path / "voices").sources.values()
    assert video_source == Source(file=file, start=1, end=2, half="left")
    assert voice_source == Source(file=voice)


def test_dialogues_are_matched_by_their_whole_name(tmp_path: Path) -> None:
    write(tmp_path, "Ses05M_script01_1", [Turn("F000", text="One", label="sad")])
    session = write(tmp_path, "Ses05M_script01_1b", [Turn("F000", text="Two", label="hap")])
    touch(session / "dialog" / "avi" / "DivX" / "Ses05M_script01_1.avi")
    corpus = read_corpus("iemocap", tmp_path)
    assert {u.id: (u.text, u.label) for u in corpus.utterances} == {
        "test/Ses05M_script01_1_F000": ("One", "sad"),
        "test/Ses05M_script01_1b_F000": ("Two", "happy"),
    }
    assert Path(corpus.sources["test/Ses05M_script01_1b_F000"].file).name == "Ses05M_script01_1b.avi"


def test_lines_that_make_no_sense_are_named(tmp_path: Path) -> None:
    transcripts = [
        "M: [LAUGHTER]",
        "Ses05M_impro01_F001 [000.0000-001.0000]:",  # nothing said
        "Ses05M_impro01_F002 [002.0000-001.0000]: Back in time.",
        "Ses05M_impro02_F003 [000.0000-001.0000]: Of another dialogue.",
        "Ses05M_impro01_F000 [000.0000-001.0000]: Twice.",
    ]
    evaluations = ["[0.0000 - 1.0000]\tSes05M_impro01_F000\tbored\t[2.5000, 2.5000, 2.5000]"]
    session = write(
        tmp_path, "Ses05M_impro01", [Turn("F000", text="Once.")], transcripts=transcripts, evaluations=evaluations
    )
    corpus = read_corpus("iemocap", tmp_path)
    found = of(corpus, "unparsed-line")
    assert [finding.evidence.split(": ")[0] for finding in found] == [
        *(f"Ses05M_impro01.txt:{line}" for line in range(2, 7)),
        "Ses05M_impro01.txt:8",
    ]
    assert {finding.file for finding in found} == {
        str(session / "dialog" / folder / "Ses05M_impro01.txt") for folder in ("transcriptions", "EmoEvaluation")
    }
    assert "M: [LAUGHTER]" in found[0].evidence
    assert [u.text for u in corpus.utterances] == ["Once."]


def test_turns_in_one_of_the_two_files_are_reported_and_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        "Ses05M_impro01",
        [Turn("F000")],
        transcripts=["Ses05M_impro01_MXX0 [001.0000-002.0000]: Yeah."],
        evaluations=["[3.0000 - 4.0000]\tSes05M_impro01_M001\tang\t[1.5000, 4.0000, 4.5000]"],
    )
    corpus = read_corpus("iemocap", tmp_path)
    findings = [(f.check, f.severity, f.utterance) for f in corpus.repairs if f.utterance]
    assert findings == [
        ("unlabelled-turn", "warning", "test/Ses05M_impro01_MXX0"),
        ("untranscribed-turn", "warning", "test/Ses05M_impro01_M001"),
    ]
    assert [u.id for u in corpus.utterances] == ["test/Ses05M_impro01_F000"]


def test_stubs_and_files_of_no_turn_are_extras(tmp_path: Path) -> None:
    session = write(tmp_path, "Ses05M_impro01", [Turn("F000"), Turn("F001", label="xxx")])
    voices = session / "sentences" / "wav" / "Ses05M_impro01"
    extras = [
        touch(session / "dialog" / "transcriptions" / "._Ses05M_impro01.txt"),
        touch(session / "dialog" / "EmoEvaluation" / "._Ses05M_impro01.txt"),
        touch(session / "dialog" / "avi" / "DivX" / "._Ses05M_impro01.avi"),
        touch(session / "dialog" / "avi" / "DivX" / "Ses05M_impro09.avi"),
        touch(voices / "._Ses05M_impro01_F000.wav"),
        touch(voices / "Ses05M_impro01_F009.wav"),
    ]
    for turn in ("F000", "F001"):  # a turn of another label is still a turn
        touch(voices / f"Ses05M_impro01_{turn}.wav")
    (session / "dialog" / "EmoEvaluation" / "Categorical").mkdir()
    corpus = read_corpus("iemocap", tmp_path)
    assert corpus.extras == tuple(extras)
    assert of(corpus, "unparsed-line") == []


@pytest.mark.parametrize("place", [".", "IEMOCAP_full_release", "IEMOCAP_full_release/IEMOCAP_full_release"])
def test_the_release_is_found_in_its_parent(tmp_path: Path, place: str) -> None:
    write(tmp_path / place, "Ses05M_impro01", [Turn("F000")])
    corpus = read_corpus("iemocap", tmp_path)
    assert (list(corpus.splits), Path(corpus.root)) == (["test"], tmp_path / place)


def test_a_folder_without_sessions_is_told_what_belongs_there(tmp_path: Path) -> None:
    (tmp_path / "Session1").mkdir()
    with pytest.raises(TelMEError, match="no IEMOCAP here; IEMOCAP_full_release has folders Session1 to Session5"):
        read_corpus("iemocap", tmp_path)


# As many dialogues as the full release has: 120 in the first four sessions, 31 in the fifth.
NAMES = [f"Ses0{1 + n % 4}F_impro{n:03}" for n in range(120)] + [f"Ses05M_impro{n:03}" for n in range(31)]


def test_the_full_release_is_split_as_published() -> None:
    splits = split_dialogues(NAMES)
    assert {split: (len(names), None) for split, names in splits.items()} == SIZES
    assert {name[:5] for name in splits["test"]} == {"Ses05"}
    assert len({name[:5] for name in splits["dev"]}) == 4  # of all sessions, as a draw has it


def test_the_draw_is_the_same_for_ever() -> None:
    names = ["Ses05F_impro01", *(f"Ses0{session}F_impro0{number}" for session in (1, 2) for number in range(1, 7))]
    assert split_dialogues(names)["dev"] == ["Ses02F_impro02"]


@given(st.sets(st.sampled_from(NAMES)))
def test_every_dialogue_is_in_one_split(names: set[str]) -> None:
    splits = split_dialogues(names)
    assert sorted(name for members in splits.values() for name in members) == sorted(names)
    others = len(names) - len(splits["test"])
    assert len(splits["dev"]) == min(others, max(1, round(others / 10)))
