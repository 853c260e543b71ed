from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from telme import doctor
from telme.conversation import MELD, Conversation, Utterance
from telme.corpora import Corpus, Size, read_corpus
from telme.doctor import transcripts
from telme.findings import Finding, Severity


def corpus(*utterances: Utterance, sizes: dict[str, Size] | None = None, clips: dict[str, str] | None = None) -> Corpus:
    """A corpus of these utterances, which are all spoken in one recording."""
    dialogues: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        dialogues.setdefault(str(utterance.id).split("_")[0], []).append(utterance)
    splits: dict[str, tuple[Conversation, ...]] = {}
    for name, turns in dialogues.items():
        split = name.split("/")[0]
        splits[split] = (*splits.get(split, ()), Conversation(name, tuple(turns)))
    return Corpus(
        name="meld",
        root=".",
        labels=MELD,
        splits=splits,
        sizes=sizes or {},
        recordings={str(utterance.id): "s01e01" for utterance in utterances},
        clips=clips if clips is not None else dict.fromkeys(splits, "clips"),
        repairs=(),
    )


def said(
    key: str, start: float | None = None, end: float | None = None, text: str = "Hi!", by: str = "Ann"
) -> Utterance:
    return Utterance(by, text, start=start, end=end, id=key)


Check = Callable[[Corpus], Iterator[Finding]]


@pytest.mark.parametrize(
    ("check", "utterances", "found", "evidence"),
    [
        (
            transcripts.over_long_span,
            [said("test/dia0_utt0", 0, 30), said("test/dia0_utt1", 30, 70.5, text="Oh no")],
            ["test/dia0_utt1"],
            "2 words in 40.500 s",
        ),
        (
            transcripts.too_short_span,
            [said("dev/dia0_utt0", 0, 0.15), said("dev/dia0_utt1", 1, 1.084), said("dev/dia0_utt2", 2, 2)],
            ["dev/dia0_utt1", "dev/dia0_utt2"],
            "1 word in 0.084 s",
        ),
        (
            transcripts.speech_rate,
            [said("dev/dia0_utt0", 0, 0.2, text="one two"), said("dev/dia0_utt1", 1, 1.2, text="one two three")],
            ["dev/dia0_utt1"],
            "3 words in 0.200 s",
        ),
        (
            transcripts.out_of_order,
            [said("dev/dia0_utt0", 5, 6), said("dev/dia0_utt1", 3, 4), said("dev/dia0_utt2", 3, 5)],
            ["dev/dia0_utt1"],
            "starts 2.000 s before dev/dia0_utt0, which it follows",
        ),
        (
            transcripts.overlap,
            [said("dev/dia0_utt0", 0, 2), said("dev/dia0_utt1", 1.5, 3), said("dev/dia0_utt2", 3, 4)],
            ["dev/dia0_utt1"],
            "starts 0.500 s before dev/dia0_utt0 ends",
        ),
        (
            transcripts.leaked_span,
            [said("train/dia0_utt0", 1, 2), said("train/dia0_utt1", 1, 2), said("test/dia9_utt0", 1, 2)],
            ["test/dia9_utt0"],
            "s01e01, 1.000 to 2.000 s is also train/dia0_utt0",
        ),
        (
            transcripts.duplicate_span,
            [said("train/dia0_utt0", 1, 2), said("train/dia0_utt1", 1, 2), said("test/dia9_utt0", 1, 2)],
            ["train/dia0_utt1"],
            "s01e01, 1.000 to 2.000 s is also train/dia0_utt0",
        ),
        (
            transcripts.text_in_train,
            [
                said("train/dia0_utt0", text="Oh my God!"),
                said("train/dia0_utt1", text="We were on a break!"),
                said("train/dia0_utt2", text="We were on a break!"),
                said("test/dia0_utt0", text="Oh my God!"),
                said("test/dia0_utt1", text="We were on a break!"),
                said("test/dia0_utt2", text="we were on a break!"),
            ],
            ["test/dia0_utt1"],
            "'We were on a break!' is also train/dia0_utt1",
        ),
        (
            transcripts.id_gap,
            [
                *(said(f"dev/dia0_utt{turn}") for turn in (0, 1, 3, 6)),
                *(said(f"dev/dia1_utt{turn}") for turn in (0, 1)),
                said("dev/dia2_utt2"),
            ],
            ["dev/dia0_utt3", "dev/dia2_utt2"],
            "dev/dia0 has no utterance 2, 4 to 5",
        ),
        (
            transcripts.stage_direction,
            [
                *(said("dev/dia0_utt0"), said("dev/dia0_utt1", text="Okay. (Goes")),
                *(said("dev/dia0_utt2", text="[He nods] No."), said("dev/dia0_utt3", text="[LAUGHTER] No.")),
            ],
            ["dev/dia0_utt1", "dev/dia0_utt2"],
            "'Okay. (Goes'",
        ),
        (
            transcripts.tag_in_text,
            [said("dev/dia0_utt0", text="[He nods] No."), said("dev/dia0_utt1", text="No. [LAUGHTER]")],
            ["dev/dia0_utt1"],
            "'No. [LAUGHTER]'",
        ),
        (
            transcripts.several_speakers,
            [
                said(f"dev/dia0_utt{turn}", by=name)
                for turn, name in enumerate(["Sandy", "Allison", "Phoebe and Rachel", "Joey/Drake", "All", "The Guys"])
            ],
            [f"dev/dia0_utt{turn}" for turn in (2, 3, 4, 5)],
            "the speaker is 'Phoebe and Rachel'",
        ),
    ],
)
def test_a_check_finds_its_defect_and_nothing_else(
    check: Check, utterances: list[Utterance], found: list[str], evidence: str
) -> None:
    findings = list(check(corpus(*utterances)))
    assert [finding.utterance for finding in findings] == found
    assert findings[0].evidence == evidence
    assert {finding.check for finding in findings} == {check.__name__.replace("_", "-")}


def test_turns_without_times_or_of_other_recordings_do_not_overlap() -> None:
    turns = corpus(said("dev/dia0_utt0", 0, 9), said("dev/dia0_utt1"), said("dev/dia0_utt2", 1, 2))
    assert not list(transcripts.overlap(turns))
    apart = corpus(said("dev/dia0_utt0", 0, 9), said("dev/dia0_utt1", 1, 2))
    recordings = {"dev/dia0_utt0": "s01e01", "dev/dia0_utt1": "s01e02"}
    assert not list(transcripts.overlap(replace(apart, recordings=recordings)))


def test_a_split_of_another_size_or_absent_is_reported() -> None:
    published = {"train": Size(1038, 9989), "dev": Size(1, 1), "test": Size(1, 2)}
    findings = list(transcripts.wrong_count(corpus(said("dev/dia0_utt0"), said("test/dia0_utt0"), sizes=published)))
    assert [finding.evidence.split(":")[0] for finding in findings] == ["train", "test"]
    assert findings[1].evidence == (
        "test: 1 conversations with 1 utterances; published are 1 conversations with 2 utterances"
    )
    assert findings[0].action == "the corpus is prepared without this split"
    uncounted = {"dev": Size(1, None), "test": Size(2, None)}
    (finding,) = transcripts.wrong_count(corpus(said("dev/dia0_utt0"), said("test/dia0_utt0"), sizes=uncounted))
    assert finding.evidence == "test: 1 conversations; published are 2 conversations"


def test_a_split_without_clips_is_one_finding() -> None:
    mixed = corpus(
        said("train/dia0_utt0"), said("test/dia0_utt0"), said("test/dia0_utt1"), clips={"train": "train_splits"}
    )
    (finding,) = transcripts.missing_clips(mixed)
    assert (finding.utterance, finding.severity) == (None, "info")
    assert finding.evidence == "test: no folder of clips"


def finding(check: str, severity: Severity, utterance: str | None, evidence: str = "seen") -> Finding:
    return Finding(check=check, severity=severity, evidence=evidence, action="kept", utterance=utterance)


def test_the_exit_code_is_3_only_if_an_utterance_is_lost() -> None:
    kept = [finding("overlap", "warning", "dev/dia0_utt0"), finding("wrong-count", "error", None)]
    assert doctor.exit_code([]) == doctor.exit_code(kept) == 0
    assert doctor.exit_code([*kept, finding("duplicate-id", "error", "dev/dia0_utt1")]) == 3


def test_the_table_counts_by_split_and_shows_evidence_verbatim() -> None:
    findings = [
        finding("stage-direction", "info", "dev/dia0_utt0", "'[bold] he nods'"),
        finding("stage-direction", "info", "train/dia0_utt0"),
        finding("stage-direction", "info", "train/dia0_utt1"),
        finding("missing-clips", "info", None),
        finding("duplicate-id", "warning", "test/dia0_utt0"),
        finding("duplicate-id", "error", "test/dia0_utt1", "seen twice"),
    ]
    table = doctor.findings_table(findings)
    output = StringIO()
    Console(width=160, file=output).print(table)
    text = output.getvalue()
    assert [column.header for column in table.columns[2:6]] == ["train", "dev", "test", "whole"]
    assert [[*column.cells] for column in table.columns[:6]] == [
        ["duplicate-id", "stage-direction", "missing-clips"],
        ["error", "info", "info"],
        ["", "2", ""],
        ["", "1", ""],
        ["2", "", ""],
        ["", "", "1"],
    ]
    assert "dev/dia0_utt0: '[bold] he nods'; kept" in text
    assert "test/dia0_utt1: seen twice; kept" in text


MELD_COUNTS = {
    "over-long-span": (1, 0, 2),
    "too-short-span": (79, 7, 21),
    "speech-rate": (107, 13, 42),
    "out-of-order": (23, 4, 4),
    "overlap": (651, 66, 105),
    "leaked-span": (0, 2, 3),
    "duplicate-span": (20, 1, 4),
    "text-in-train": (0, 4, 12),
    "id-gap": (72, 2, 2),
    "stage-direction": (9, 1, 2),
    "several-speakers": (55, 14, 11),
}


@pytest.mark.skipif("TELME_MELD" not in os.environ, reason="TELME_MELD is not set")
def test_the_real_meld_has_its_known_defects() -> None:
    meld = read_corpus("meld", os.environ["TELME_MELD"])
    findings = [f for f in doctor.examine(meld) if f.utterance is not None]
    counts = Counter((f.check, str(f.utterance).split("/")[0]) for f in findings)
    found = {check: tuple(counts[check, split] for split in ("train", "dev", "test")) for check, _ in counts}
    assert found == MELD_COUNTS
    assert doctor.exit_code(findings) == 0

    def named(check: str) -> set[str | None]:
        return {f.utterance for f in findings if f.check == check}

    assert named("over-long-span") == {"test/dia38_utt4", "test/dia220_utt0", "train/dia309_utt0"}
    assert named("leaked-span") >= {"test/dia85_utt0"}
    assert named("too-short-span") >= {
        *(f"train/dia{key}" for key in ("71_utt0", "179_utt8", "312_utt9", "332_utt1", "406_utt2", "523_utt10")),
        *("dev/dia99_utt3", "dev/dia108_utt5", "test/dia155_utt3", "train/dia338_utt3"),
    }
