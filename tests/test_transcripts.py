import csv
import io
import json
import os
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telme.conversation import Conversation, Utterance
from telme.errors import TelMEError
from telme.prediction import Prediction
from telme.transcripts import (
    WRITERS,
    parse,
    parse_time,
    predictions_to_csv,
    predictions_to_json,
    read,
    to_json,
    write_jsonl,
)

texts = st.text(min_size=1, max_size=30).filter(str.strip)
spans = st.lists(st.floats(0, 1e6), min_size=2, max_size=2).map(sorted)


@st.composite
def utterances(draw: st.DrawFn) -> Utterance:
    start, end = draw(st.sampled_from([(None, None), draw(spans)]))
    optional = st.none() | texts
    media, label, key = draw(optional), draw(optional), draw(optional)
    return Utterance(draw(texts), draw(texts), start, end, media, label, key)


conversations = st.builds(Conversation, st.text(), st.lists(utterances(), min_size=1, max_size=4), st.none() | texts)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that messages hold bare file names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def prediction(utterance: Utterance, joy: float = 0.75) -> Prediction:
    probabilities = {"neutral": 1 - joy, "joy": joy}
    return Prediction(
        utterance=utterance,
        label="joy",
        probabilities=probabilities,
        modalities=("text",),
        text_only=probabilities,
        shift=0.0,
    )


# Times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12.5", 12.5),
        ("12,5", 12.5),
        (" 90 ", 90),
        ("1:05.25", 65.25),
        ("00:16:16,059", 976.059),
        ("0:01:05", 65),
        ("100:00:00.5", 360_000.5),
    ],
)
def test_times_are_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "nan", "1:60", "61:00", "1:100", "12:", "1:2:3:4", "1.2.3", "9" * 400]
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(TelMEError, match="neither seconds"):
        parse_time(text)


@given(st.integers(0, 10**9))
def test_a_clock_time_is_its_milliseconds(milliseconds: int) -> None:
    seconds, fraction = divmod(milliseconds, 1000)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{fraction:03}"
    assert parse_time(clock) == pytest.approx(milliseconds / 1000, abs=1e-6)


# JSON and JSONL


@given(st.lists(conversations, min_size=1, max_size=3))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, originals: list[Conversation]) -> None:
    path = tmp_path_factory.mktemp("round") / "trip.jsonl"
    write_jsonl(originals, path)
    assert read(path) == [found_from(path.parent, original) for original in originals]


def found_from(folder: Path, conversation: Conversation) -> Conversation:
    """The conversation with its media where a transcript in the folder says that they are."""
    turns = (replace(u, media=None if u.media is None else str(folder / u.media)) for u in conversation)
    media = None if conversation.media is None else str(folder / conversation.media)
    return replace(conversation, utterances=tuple(turns), media=media)


@given(conversations)
def test_json_round_trip(original: Conversation) -> None:
    assert parse(to_json(original), "x.json") == [original]
    assert parse(f"[{to_json(original)}]", "x.json") == [original]


def test_json_has_the_keys_of_the_contract_and_leaves_out_what_is_not_known() -> None:
    conversation = Conversation("a", (Utterance("Ann", "Né?", start=1.5, end=2.0),), media="a.wav")
    utterance = '{"speaker": "Ann", "text": "Né?", "start": 1.5, "end": 2.0}'
    assert to_json(conversation) == f'{{"id": "a", "media": "a.wav", "utterances": [{utterance}]}}'


def test_the_example_is_a_conversation() -> None:
    (office,) = parse((files("telme") / "examples" / "office.json").read_bytes(), "office.json")
    assert office.id == "office"
    assert len(office) == 20
    assert {utterance.speaker for utterance in office} == {"Maya", "Tom", "Priya"}
    times = [time for utterance in office for time in (utterance.start, utterance.end)]
    assert times == sorted(time for time in times if time is not None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "a.json holds no conversation"),
        ("a.json", "[]", "a.json holds no conversation"),
        ("a.json", "{", "a.json: not valid JSON: EOF while parsing an object at line 1 column 1"),
        ("a.json", '{"utterances": []}', "a.json: key 'id' is missing"),
        ("a.json", '{"id": "a", "utterances": []}', "a.json: conversation 'a' has no utterances"),
        (
            "a.json",
            '[{"id": "a", "utterances": [{"speaker": "", "text": "?"}]}]',
            "a.json: [0].utterances[0]: speaker is",
        ),
        ("a.json", '{"id": "a", "utterances": [{"speaker": "A", "tekst": ""}]}', "unknown key 'utterances[0].tekst'"),
        ("a.jsonl", '\n{"id": "a", "utterances": "?"}', "a.jsonl:2: utterances is '?'"),
    ],
)
def test_bad_json_is_one_line_that_names_the_place(name: str, content: str, message: str) -> None:
    with pytest.raises(TelMEError) as error:
        parse(content, name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# CSV


def test_csv_columns_are_found_by_name_in_any_case_and_others_are_ignored() -> None:
    content = 'Mood,TEXT,speaker,Start,end,media,label,id\n?,"Oh, no",Ann,1.5,0:02,a.wav,joy,7\n?,Yes,Bob,,,,,\n'
    assert parse(content, "talks/a.csv") == [
        Conversation("a", (Utterance("Ann", "Oh, no", 1.5, 2.0, "a.wav", "joy", "7"), Utterance("Bob", "Yes")))
    ]


def test_csv_rows_are_grouped_by_conversation_in_order_of_first_appearance() -> None:
    content = "conversation,speaker,text\nb,Ann,1\na,Ann,2\nb,Bob,3\n"
    assert [(c.id, [u.text for u in c]) for c in parse(content, "x.csv")] == [("b", ["1", "3"]), ("a", ["2"])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_csv_delimiter_is_the_headers(delimiter: str, newline: str, quoting: Literal[0, 1]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, delimiter=delimiter, lineterminator=newline, quoting=quoting)
    writer.writerows([["speaker", "text"], [], ["Ann", 'One, "two"; three\tfour\nfive'], ["", ""]])
    assert parse(table.getvalue(), "x.csv") == [Conversation("x", (Utterance("Ann", 'One, "two"; three\tfour\nfive'),))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (" \n", "a.csv holds no conversation"),
        ("speaker,text\n", "a.csv holds no conversation"),
        (",,\n", "a.csv:1: no column 'speaker' or 'text'"),
        ("\nwho,text\nAnn,Hi\n", "a.csv:2: no column 'speaker'; the columns are who, text"),
        ("speaker,text,Utterance\n", "a.csv:1: columns 'text' and 'Utterance' both hold the text"),
        ('speaker,text\nAnn,"a\nb"\nBob\n', "a.csv:4: cells in this row: 1, in the header: 2"),
        ("speaker,text\nAnn,a, b\n", "a.csv:2: cells in this row: 3, in the header: 2"),
        ("speaker,text\nAnn,\n", "a.csv:2: text is ''"),
        ("speaker,text\n,Hi\n", "a.csv:2: speaker is ''"),
        ("speaker,text,start\nAnn,Hi,soon\n", "a.csv:2: start: time 'soon' is neither seconds"),
        ("speaker,text,start,end\nAnn,Hi,2,1\n", "a.csv:2: end (1.0 s) is before start (2.0 s)"),
        ("conversation,speaker,text\n,Ann,Hi\n", "a.csv:2: conversation is ''"),
        ('speaker,text\nAnn,"Hi" there\n', "a.csv:2: not valid CSV"),
        ('speaker,text\nAnn,Hi\nBob,"Hi\nAnn,Bye\n', "a.csv:3: not valid CSV"),
    ],
)
def test_bad_csv_is_one_line_that_names_the_line(content: str, message: str) -> None:
    with pytest.raises(TelMEError) as error:
        parse(content, "a.csv")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_meld_is_read_as_it_is() -> None:
    folder = os.environ.get("TELME_MELD")
    if folder is None:
        pytest.skip("TELME_MELD is not set")
    dialogues = read(Path(folder) / "dev_sent_emo.csv")
    assert (len(dialogues), sum(map(len, dialogues))) == (114, 1109)
    second = dialogues[0].utterances[1]
    assert (second.speaker, second.text, second.label, second.id) == ("Monica", "What?", "surprise", "1")
    assert (second.start, second.end) == pytest.approx((1261.927, 1263.261))


# Files and standard input


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'{"id": "a", "utterances": [{"speaker": "Ann", "text": "Hi"}]}', "a"),
        (b'{\n"id": "a", "utterances": [{"speaker": "Ann", "text": "Hi"}]}', "a"),
        (b' [{"id": "a", "utterances": [{"speaker": "Ann", "text": "Hi"}]}]', "a"),
        (b"\xef\xbb\xbfspeaker,text\nAnn,Hi", "stdin"),
    ],
)
def test_standard_input_is_read_by_its_content(monkeypatch: pytest.MonkeyPatch, content: bytes, name: str) -> None:
    stdin(monkeypatch, content)
    assert read("-") == [Conversation(name, (Utterance("Ann", "Hi"),))]


def test_standard_input_takes_many_lines_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [to_json(Conversation(name, (Utterance("Ann", "Hi"),))) for name in "ab"]
    stdin(monkeypatch, "\n".join(lines).encode())
    assert [conversation.id for conversation in read("-")] == ["a", "b"]


def test_a_suffix_counts_in_any_case_and_a_byte_order_mark_is_accepted(folder: Path) -> None:
    (folder / "A.CSV").write_text("speaker,text\nAnn,Hi\n", encoding="utf-8-sig")
    assert read("A.CSV") == [Conversation("A", (Utterance("Ann", "Hi"),))]


def test_files_that_cannot_be_read_are_one_line(folder: Path) -> None:
    (folder / "latin.csv").write_bytes("speaker,text\nAnn,Hi\nAnn,Olé\n".encode("latin-1"))
    (folder / "empty.json").touch()
    (folder / "talk.mp4").write_bytes(b"\xff")
    for source, message in {
        "missing.csv": "missing.csv cannot be read: No such file or directory",
        str(folder): f"{folder} cannot be read: Is a directory",
        "empty.json": "empty.json holds no conversation",
        "talk.mp4": "talk.mp4: '.mp4' is not a transcript format; valid are .json, .jsonl, .csv",
        "latin.csv": "latin.csv:3: byte 0xe9 is not valid UTF-8; save the file as UTF-8",
    }.items():
        with pytest.raises(TelMEError) as error:
            read(source)
        assert str(error.value).startswith(message)


def test_a_file_that_cannot_be_written_is_one_line(folder: Path) -> None:
    with pytest.raises(TelMEError, match="cannot be written: No such file or directory"):
        write_jsonl([], folder / "nowhere" / "a.jsonl")


@given(st.binary() | st.text().map(str.encode), st.sampled_from(["x", "x.json", "x.jsonl", "x.csv"]))
def test_no_content_leaves_a_traceback(content: bytes, name: str) -> None:
    try:
        assert parse(content, name)
    except TelMEError as error:
        assert str(error).startswith(name)  # noqa: PT017 (any content that is refused must be refused by name)


# Predictions


def test_predictions_as_json_are_an_object_or_an_array_with_rounded_numbers() -> None:
    conversation = Conversation("a", (Utterance("Ann", "Olé", 0.1 + 0.2, label="joy"),), media="a.wav")
    results = (conversation, [prediction(conversation.utterances[0], joy=2 / 3)])
    text = predictions_to_json([results])
    assert "Olé" in text
    assert json.loads(text) == {
        "id": "a",
        "media": "a.wav",
        "utterances": [
            {
                "speaker": "Ann",
                "text": "Olé",
                "start": 0.3,
                "annotated": "joy",
                "label": "joy",
                "confidence": 0.666667,
                "probabilities": {"neutral": 0.333333, "joy": 0.666667},
                "modalities": ["text"],
                "text_only": {"neutral": 0.333333, "joy": 0.666667},
                "shift": 0.0,
            }
        ],
    }
    assert json.loads(predictions_to_json([results, results])) == [json.loads(text)] * 2


def test_predictions_as_csv_have_a_column_for_each_label() -> None:
    utterance = Utterance("Ann", "Hi, you", 1.0, label="joy")
    text = predictions_to_csv([(Conversation("a", (utterance,)), [prediction(utterance)])])
    assert text.splitlines() == [
        '"conversation","id","speaker","text","start","end","annotated","label","confidence","p_neutral","p_joy","shift",'
        '"modalities"',
        '"a","","Ann","Hi, you",1.0,"","joy","joy",0.75,0.25,0.75,0.0,"text"',
    ]


@given(st.lists(st.tuples(texts.map(str.strip), texts.map(str.strip)), min_size=1))
def test_predictions_as_csv_are_a_transcript(turns: list[tuple[str, str]]) -> None:
    conversation = Conversation("a", tuple(Utterance(speaker, text, label="joy") for speaker, text in turns))
    results = [(conversation, [prediction(utterance) for utterance in conversation])]
    assert parse(predictions_to_csv(results), "x.csv") == [conversation]


def test_every_writer_takes_the_same_results() -> None:
    utterance = Utterance("Ann", "Hi")
    for write in WRITERS.values():
        assert "Ann" in write([(Conversation("a", (utterance,)), [prediction(utterance)])])
