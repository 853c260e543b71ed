from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telme.conversation import MELD
from telme.corpora import read_corpus
from telme.corpora.meld import SIZES, repair_text
from telme.errors import TelMEError

HEADER = ["Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment"]
HEADER += ["Dialogue_ID", "Utterance_ID", "Season", "Episode", "StartTime", "EndTime"]
ROW = ["1", "What?", "Monica", "surprise", "negative", "0", "1", "4", "7", "00:21:01,927", "0:21:03,261"]

CP1252 = "".join(bytes([byte]).decode("cp1252", errors="ignore") for byte in range(256))
C1 = "".join(map(chr, range(0x80, 0xA0)))


def row(**cells: str) -> list[str]:
    return [cells.get(column, cell) for column, cell in zip(HEADER, ROW, strict=True)]


def write(path: Path, *rows: list[str], header: list[str] = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def as_latin_1(text: str) -> str:
    """The damage that the older CSVs show: cp1252 bytes read as latin-1."""
    return text.encode("cp1252").decode("latin-1")


def test_a_row_becomes_an_utterance(tmp_path: Path) -> None:
    write(tmp_path / "dev_sent_emo.csv", ROW)
    corpus = read_corpus("meld", tmp_path)
    (conversation,) = corpus.splits["dev"]
    (utterance,) = conversation
    assert (conversation.id, utterance.id) == ("dev/dia0", "dev/dia0_utt1")
    assert (utterance.speaker, utterance.text, utterance.label) == ("Monica", "What?", "surprise")
    assert (utterance.start, utterance.end) == pytest.approx((1261.927, 1263.261))
    assert corpus.recordings["dev/dia0_utt1"] == "s04e07"
    assert (corpus.name, corpus.labels, corpus.clips, corpus.repairs) == ("meld", MELD, {}, ())


def test_ids_survive_and_the_order_is_the_files(tmp_path: Path) -> None:
    ids = [("7", "3"), ("7", "1"), ("2", "0"), ("7", "9")]
    write(tmp_path / "train_sent_emo.csv", *(row(Dialogue_ID=d, Utterance_ID=u) for d, u in ids))
    corpus = read_corpus("meld", tmp_path)
    assert [[utterance.id for utterance in conversation] for conversation in corpus.conversations] == [
        ["train/dia7_utt3", "train/dia7_utt1", "train/dia7_utt9"],
        ["train/dia2_utt0"],
    ]


@pytest.mark.parametrize(
    "table",
    [
        "MELD.Raw/test_sent_emo.csv",
        "MELD.Raw/test/test_sent_emo.csv",
        "test/test_sent_emo.csv",
        "data/MELD/test_sent_emo.csv",
        "test_meld_emo.csv",
    ],
)
def test_tables_are_found_where_people_have_them(tmp_path: Path, table: str) -> None:
    write(tmp_path / table, ROW)
    assert list(read_corpus("meld", tmp_path).splits) == ["test"]


def test_a_splits_clips_are_found(tmp_path: Path) -> None:
    write(tmp_path / "train_sent_emo.csv", ROW)
    write(tmp_path / "dev_sent_emo.csv", ROW)
    (tmp_path / "train" / "train_splits").mkdir(parents=True)
    assert read_corpus("meld", tmp_path).clips == {"train": str(tmp_path / "train" / "train_splits")}


def test_a_byte_order_mark_and_more_columns_are_no_obstacle(tmp_path: Path) -> None:
    path = write(tmp_path / "dev_sent_emo.csv", [*ROW[1:], "x.mp4"], header=[*HEADER[1:], "Video_Path"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_corpus("meld", tmp_path).splits["dev"]) == 1


def test_damaged_text_comes_back_clean(tmp_path: Path) -> None:
    # Without a comma the cell is not quoted, and U+0085 (the ellipsis) could end the line.
    clean = "Oh my God… he\u2019s lost it “totally” — café"
    write(tmp_path / "dev_sent_emo.csv", row(Utterance=as_latin_1(clean), Speaker=as_latin_1("René\u2019s aunt")))
    corpus = read_corpus("meld", tmp_path)
    (utterance,) = corpus.utterances
    (finding,) = corpus.repairs
    assert (utterance.text, utterance.speaker) == (clean, "René\u2019s aunt")
    assert (finding.check, finding.severity, finding.utterance) == ("text-encoding", "warning", "dev/dia0_utt1")
    assert "U+0092 x 2" in finding.evidence
    assert "U+0092 -> \u2019" in finding.action


def test_bytes_that_cp1252_leaves_undefined_are_removed_and_reported(tmp_path: Path) -> None:
    write(tmp_path / "dev_sent_emo.csv", row(Utterance="a\x81b\x9d"))
    corpus = read_corpus("meld", tmp_path)
    assert next(corpus.utterances).text == "ab"
    assert corpus.repairs[0].action == "repaired: U+0081 -> removed, U+009D -> removed"


@given(st.text(st.characters(exclude_characters=C1)))
def test_repair_leaves_clean_text_alone(text: str) -> None:
    assert repair_text(text) == text


@given(st.text(CP1252.translate(dict.fromkeys(map(ord, C1)))))
def test_repair_undoes_the_damage(text: str) -> None:
    assert repair_text(as_latin_1(text)) == text


@given(st.text())
def test_repair_leaves_no_control_characters(text: str) -> None:
    assert not set(repair_text(text)) & set(C1)


def test_times_that_run_backwards_are_dropped_not_the_utterance(tmp_path: Path) -> None:
    write(tmp_path / "dev_sent_emo.csv", row(StartTime="00:00:02,500", EndTime="00:00:01,000"))
    corpus = read_corpus("meld", tmp_path)
    (utterance,) = corpus.utterances
    (finding,) = corpus.repairs
    assert (utterance.start, utterance.end) == (None, None)
    assert (finding.check, finding.severity, finding.utterance) == ("inverted-span", "warning", utterance.id)
    assert "1.000 s" in finding.evidence
    assert "2.500 s" in finding.evidence


def test_two_rows_with_one_key_are_both_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "dev_sent_emo.csv", ROW, row(Utterance="Again\x85"), row(Utterance_ID="2"))
    corpus = read_corpus("meld", tmp_path)
    texts = {utterance.id: utterance.text for utterance in corpus.utterances}
    assert texts == {"dev/dia0_utt1": "What?", "dev/dia0_utt1#2": "Again…", "dev/dia0_utt2": "What?"}
    assert corpus.recordings.keys() == texts.keys()
    encoding, duplicate = corpus.repairs
    assert encoding.check == "text-encoding"
    assert (duplicate.check, duplicate.severity) == ("duplicate-id", "warning")
    assert (duplicate.utterance, duplicate.file) == ("dev/dia0_utt1", str(path))
    assert "line 3 has the ids of line 2" in duplicate.evidence
    assert duplicate.action == "kept as dev/dia0_utt1#2"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"Emotion": "Joy"}, "unknown label 'Joy' (did you mean 'joy'?); the meld labels are neutral, surprise"),
        ({"StartTime": "soon"}, "time 'soon' is neither"),
        ({"Dialogue_ID": "0.0"}, "Dialogue_ID is '0.0'; it must be a whole number"),
        ({"Season": ""}, "Season is ''; it must be a whole number"),
        ({"Speaker": " "}, "speaker is ' '; every utterance needs a speaker's name"),
        ({"Utterance": ""}, "text is '' and there is no media"),
    ],
)
def test_a_bad_value_is_named_with_its_line(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    path = write(tmp_path / "test_sent_emo.csv", row(Utterance="two\nlines"), row(Utterance_ID="2", **cells))
    with pytest.raises(TelMEError) as caught:
        read_corpus("meld", tmp_path)
    assert str(caught.value).startswith(f"{path}:4: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: data.replace(b"Emotion", b"Feeling"),
            ":1: no column Emotion; the table needs Utterance, Speaker",
        ),
        (lambda data: data.replace(b",negative", b""), ":2: 10 cells"),
        (lambda data: data.replace(b"What?", b"What\x92s"), ":2: byte 0x92 is not valid UTF-8"),
        (lambda data: data.replace(b"What?", b'"What?'), ":2: not valid CSV"),
        (lambda data: data.split(b"\r\n")[0], ": no rows below the header"),
        (lambda _: b"", ":1: no column Utterance"),
    ],
)
def test_a_broken_table_is_named_with_its_line(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    path = write(tmp_path / "train_sent_emo.csv", ROW)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TelMEError) as caught:
        read_corpus("meld", tmp_path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_a_folder_without_tables_is_told_their_names(tmp_path: Path) -> None:
    with pytest.raises(TelMEError, match=r"train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv"):
        read_corpus("meld", tmp_path / "nowhere")


def test_an_unknown_corpus_is_told_the_known_ones() -> None:
    with pytest.raises(TelMEError, match="unknown corpus 'mled'; valid corpora are meld"):
        read_corpus("mled", ".")


@pytest.mark.skipif("TELME_MELD" not in os.environ, reason="TELME_MELD is not set")
def test_the_real_meld_is_read_whole() -> None:
    corpus = read_corpus("meld", os.environ["TELME_MELD"])
    sizes = {split: (len(c), sum(map(len, c))) for split, c in corpus.splits.items()}
    keys = [utterance.id for utterance in corpus.utterances]
    assert sizes == SIZES
    assert len(set(keys)) == len(keys) == len(corpus.recordings)
    assert "train/dia60" not in {conversation.id for conversation in corpus.conversations}
    assert corpus.repairs == ()
