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
from telme.media import Source

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


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    "folder",
    [
        "output_repeated_splits_test",
        "MELD.Raw/output_repeated_splits_test",
        "test/output_repeated_splits_test",
        "MELD.Raw/test/output_repeated_splits_test",
        "test",
        "MELD.Raw/test",
        "test_splits",
    ],
)
def test_clips_are_found_where_people_have_them(tmp_path: Path, folder: str) -> None:
    write(tmp_path / "test" / "test_sent_emo.csv", ROW)  # a folder that holds the table need not hold the clips
    touch(tmp_path / folder, "dia0_utt1.mp4")
    corpus = read_corpus("meld", tmp_path)
    assert corpus.clips == {"test": str(tmp_path / folder)}
    assert corpus.sources == {"test/dia0_utt1": Source(file=str(tmp_path / folder / "dia0_utt1.mp4"))}
    assert corpus.extras == ()


def test_a_split_with_clips_has_a_source_for_every_utterance(tmp_path: Path) -> None:
    write(tmp_path / "train_sent_emo.csv", ROW, row(Utterance="Again"), row(Utterance_ID="2"))
    write(tmp_path / "dev_sent_emo.csv", ROW)
    folder = touch(tmp_path / "train_splits", "dia0_utt1.mp4")
    corpus = read_corpus("meld", tmp_path)
    names = {key: Path(source.file).name for key, source in corpus.sources.items()}
    assert names == {
        "train/dia0_utt1": "dia0_utt1.mp4",
        "train/dia0_utt1#2": "dia0_utt1.mp4",
        "train/dia0_utt2": "dia0_utt2.mp4",  # missing, which the doctor reports
    }
    assert corpus.clips == {"train": str(folder)}


def test_corrected_clips_are_preferred(tmp_path: Path) -> None:
    write(tmp_path / "test_sent_emo.csv", ROW, row(Utterance_ID="2"), row(Utterance_ID="3"))
    folder = touch(
        tmp_path / "output_repeated_splits_test",
        "dia0_utt1.mp4",
        "final_videos_testdia0_utt1.mp4",
        "dia0_utt2.mp4",
        "final_videos_testdia0_utt3.mp4",
    )
    corpus = read_corpus("meld", tmp_path)
    assert [Path(source.file).name for source in corpus.sources.values()] == [
        "final_videos_testdia0_utt1.mp4",
        "dia0_utt2.mp4",
        "final_videos_testdia0_utt3.mp4",
    ]
    assert [(f.check, f.severity, f.utterance, f.file) for f in corpus.repairs] == [
        ("corrected-clip", "info", f"test/dia0_utt{n}", str(folder / f"final_videos_testdia0_utt{n}.mp4"))
        for n in (1, 3)
    ]
    assert corpus.extras == ()


def test_files_that_belong_to_no_utterance_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "test_sent_emo.csv", ROW)
    extras = ["._dia0_utt1.mp4", "._final_videos_testdia0_utt1.mp4", "dia0_utt10.mp4", "final_videos_testdia9_utt0.mp4"]
    folder = touch(tmp_path / "output_repeated_splits_test", "dia0_utt1.mp4", "dia0_utt1.wav", *extras)
    corpus = read_corpus("meld", tmp_path)
    assert corpus.extras == tuple(str(folder / name) for name in extras)
    assert [Path(source.file).name for source in corpus.sources.values()] == ["dia0_utt1.mp4"]
    assert corpus.repairs == ()  # the stub is no correction


def test_packed_archives_are_pointed_out(tmp_path: Path) -> None:
    write(tmp_path / "dev_sent_emo.csv", ROW)
    touch(tmp_path / "dev_splits_complete")
    touch(tmp_path, "train.tar.gz", "dev.tar.gz", "test.tar.gz")
    (finding,) = read_corpus("meld", tmp_path).repairs
    assert (finding.check, finding.severity) == ("packed-archive", "info")
    assert finding.evidence == "still packed: test.tar.gz, train.tar.gz"
    assert "tar -xzf train.tar.gz" in finding.action


def test_a_folder_with_nothing_but_an_archive_is_told_to_unpack(tmp_path: Path) -> None:
    touch(tmp_path, "MELD.Raw.tar.gz")
    with pytest.raises(TelMEError, match=r"no MELD here; .*; unpack MELD.Raw.tar.gz$"):
        read_corpus("meld", tmp_path)


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
