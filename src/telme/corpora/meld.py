"""MELD (Poria et al., 2019, arXiv 1810.02508): dialogues of the series Friends, from its public CSV files and clips."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from telme.conversation import MELD, Conversation, Utterance
from telme.corpora.corpus import Corpus, Size, extra_files
from telme.errors import TelMEError
from telme.findings import Finding
from telme.media import Source
from telme.transcripts.encoding import decode_utf8
from telme.transcripts.times import parse_time

SIZES = {"train": Size(1038, 9989), "dev": Size(114, 1109), "test": Size(280, 2610)}
CLIP_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}

CORRECTED = "final_videos_test"  # begins the name of a test clip that was cut again; the clip without it is wrong

# The public files, and their copies in the repository of the TelME authors.
_TABLES = ("{split}_sent_emo.csv", "{split}_meld_emo.csv")
_ARCHIVES = ("{split}.tar.gz", "MELD.Raw.tar.gz")
# Where the archive MELD.Raw.tar.gz, those inside it and a clone of the MELD repository put them.
_PLACES = (".", "{split}", "MELD.Raw", "MELD.Raw/{split}", "data/MELD")
_COLUMNS = (
    "Utterance",
    "Speaker",
    "Emotion",
    "Dialogue_ID",
    "Utterance_ID",
    "Season",
    "Episode",
    "StartTime",
    "EndTime",
)

_CLIP = re.compile(rf"({CORRECTED})?dia\d+_utt\d+\.mp4")
_C1_CONTROL = re.compile(r"[\x80-\x9f]")


def read_meld(root: str | Path) -> Corpus:
    """MELD as far as `root` holds it: any of the three tables will do, and clips are not needed.

    Raises:
        TelMEError: No table there, or one that cannot be used; the message names the file and the line.
    """
    root = Path(root)
    splits: dict[str, tuple[Conversation, ...]] = {}
    recordings: dict[str, str] = {}
    clips: dict[str, str] = {}
    sources: dict[str, Source] = {}
    extras: list[str] = []
    repairs: list[Finding] = []
    for split in SIZES:
        if path := _find(root, split, *_TABLES):
            turns = _read_table(split, path)
            splits[split] = _conversations(turns)
            recordings |= {turn.id: turn.recording for turn in turns}
            repairs += [repair for turn in turns for repair in turn.repairs]
            if folder := _clip_folder(root, split):
                files = {file.name for file in folder.iterdir()}
                corrected = {turn.id for turn in turns if turn.corrected in files}
                chosen = {turn.id: turn.corrected if turn.id in corrected else turn.clip for turn in turns}
                clips[split] = str(folder)
                sources |= {key: Source(file=str(folder / name)) for key, name in chosen.items()}
                extras += extra_files(folder, ".mp4", {name for turn in turns for name in (turn.clip, turn.corrected)})
                repairs += [_corrected_clip(turn, folder) for turn in turns if turn.id in corrected]
    archives = [path for split in SIZES if split not in clips for path in _paths(root, split, *_ARCHIVES)]
    if not splits:
        names = ", ".join(_TABLES[0].format(split=split) for split in SIZES)
        advice = f"; unpack {archives[0].name}" if archives else ""
        raise TelMEError(f"{root}: no MELD here; the folder needs at least one of {names}{advice}")
    if archives:
        repairs.append(_packed_archive(archives))
    return Corpus(
        name="meld",
        root=str(root),
        labels=MELD,
        splits=splits,
        sizes=SIZES,
        recordings=recordings,
        clips=clips,
        repairs=tuple(repairs),
        sources=sources,
        extras=tuple(extras),
    )


def repair_text(text: str) -> str:
    """The text with each C1 control character read as the cp1252 byte it once was: U+0092 becomes U+2019.

    The five bytes that cp1252 leaves undefined (81, 8D, 8F, 90, 9D) are removed. Text without C1 controls is unchanged.
    """
    return _C1_CONTROL.sub(lambda match: _from_cp1252(match[0]), text)


def _from_cp1252(character: str) -> str:
    return character.encode("latin-1").decode("cp1252", errors="ignore")


def _paths(root: Path, split: str, *names: str) -> Iterator[Path]:
    """What there is of those names, best place first."""
    paths = (root / f"{place}/{name}".format(split=split) for place in _PLACES for name in names)
    return (path for path in paths if path.exists())


def _find(root: Path, split: str, *names: str) -> Path | None:
    return next(_paths(root, split, *names), None)


def _clip_folder(root: Path, split: str) -> Path | None:
    """The folder of the split's clips: it has MELD's name for it, or that of the split and clips inside."""
    others = _paths(root, split, "{split}", "{split}_splits")
    return _find(root, split, CLIP_FOLDERS[split]) or next(filter(_holds_clips, others), None)


def _holds_clips(folder: Path) -> bool:
    return folder.is_dir() and any(_CLIP.fullmatch(file.name) for file in folder.iterdir())


class _Turn(NamedTuple):
    """A row: the utterance under its key, with what had to be mended."""

    id: str
    dialogue: str
    clip: str
    utterance: Utterance
    recording: str
    repairs: tuple[Finding, ...]

    @property
    def corrected(self) -> str:
        """The name under which the clip would be if it was cut again."""
        return CORRECTED + self.clip


def _conversations(turns: Iterable[_Turn]) -> tuple[Conversation, ...]:
    dialogues: dict[str, list[Utterance]] = defaultdict(list)
    for turn in turns:
        dialogues[turn.dialogue].append(turn.utterance)
    return tuple(Conversation(id=name, utterances=tuple(utterances)) for name, utterances in dialogues.items())


def _read_table(split: str, path: Path) -> list[_Turn]:
    """The turns of a table in its order; those whose id was used before get an id of their own."""
    lines: dict[str, list[int]] = defaultdict(list)
    turns: list[_Turn] = []
    for line, cells in _rows(path):
        try:
            turn = _read_turn(split, cells)
        except TelMEError as error:
            raise TelMEError(f"{path}:{line}: {error}") from error
        lines[turn.id].append(line)
        turns.append(turn if len(lines[turn.id]) == 1 else _renamed(turn, path, lines[turn.id]))
    if not turns:
        raise TelMEError(f"{path}: no rows below the header; leave the file out if there is no {split} split")
    return turns


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row below the header with the number of its first line."""
    # Only a stream without newline translation keeps U+0085, an ellipsis in the older files, from ending a line.
    reader = csv.reader(io.StringIO(decode_utf8(path.read_bytes(), str(path)), newline=""), strict=True)
    line = 1
    try:
        header = next(reader, [])
        if missing := [column for column in _COLUMNS if column not in header]:
            raise TelMEError(f"{path}:1: no column {', '.join(missing)}; the table needs {', '.join(_COLUMNS)}")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise TelMEError(f"{path}:{line}: {len(cells)} cells {cells!r:.60}; the header has {len(header)}")
            if cells:
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise TelMEError(f"{path}:{line}: not valid CSV: {error}; a quotation mark may be missing") from error


def _read_turn(split: str, cells: Mapping[str, str]) -> _Turn:
    dialogue = f"{split}/dia{_number(cells, 'Dialogue_ID')}"
    key = f"{dialogue}_utt{_number(cells, 'Utterance_ID')}"
    start, end = parse_time(cells["StartTime"]), parse_time(cells["EndTime"])
    inverted = end < start
    repairs: list[Finding] = []
    if damage := _C1_CONTROL.findall(cells["Speaker"] + cells["Utterance"]):
        repairs.append(_text_encoding(key, damage))
    if inverted:
        repairs.append(_inverted_span(key, start, end))
    MELD.index(cells["Emotion"])
    utterance = Utterance(
        speaker=repair_text(cells["Speaker"]),
        text=repair_text(cells["Utterance"]),
        start=None if inverted else start,
        end=None if inverted else end,
        label=cells["Emotion"],
        id=key,
    )
    recording = f"s{_number(cells, 'Season'):02}e{_number(cells, 'Episode'):02}"
    return _Turn(key, dialogue, f"{key.removeprefix(f'{split}/')}.mp4", utterance, recording, tuple(repairs))


def _number(cells: Mapping[str, str], column: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", cells[column]):
        raise TelMEError(f"{column} is {cells[column]!r}; it must be a whole number, 0 or more")
    return int(cells[column])


def _text_encoding(key: str, damage: list[str]) -> Finding:
    counts = {character: damage.count(character) for character in sorted(set(damage))}
    return Finding(
        check="text-encoding",
        severity="warning",
        evidence="cp1252 bytes read as latin-1: " + ", ".join(f"U+{ord(c):04X} x {n}" for c, n in counts.items()),
        action="repaired: " + ", ".join(f"U+{ord(c):04X} -> {_from_cp1252(c) or 'removed'}" for c in counts),
        utterance=key,
    )


def _inverted_span(key: str, start: float, end: float) -> Finding:
    return Finding(
        check="inverted-span",
        severity="warning",
        evidence=f"ends at {end:.3f} s, before its start at {start:.3f} s",
        action="repaired: kept without times",
        utterance=key,
    )


def _renamed(turn: _Turn, path: Path, lines: list[int]) -> _Turn:
    key = f"{turn.id}#{len(lines)}"
    finding = Finding(
        check="duplicate-id",
        severity="warning",
        evidence=f"line {lines[-1]} has the ids of line {lines[0]}; its text is {turn.utterance.text!r}",
        action=f"kept as {key}",
        utterance=turn.id,
        file=str(path),
    )
    return turn._replace(id=key, utterance=replace(turn.utterance, id=key), repairs=(*turn.repairs, finding))


def _corrected_clip(turn: _Turn, folder: Path) -> Finding:
    return Finding(
        check="corrected-clip",
        severity="info",
        evidence=f"{turn.corrected} is the correction of {turn.clip}",
        action="the correction is read",
        utterance=turn.id,
        file=str(folder / turn.corrected),
    )


def _packed_archive(archives: Iterable[Path]) -> Finding:
    names = sorted({path.name for path in archives})
    return Finding(
        check="packed-archive",
        severity="info",
        evidence=f"still packed: {', '.join(names)}",
        action=f"not read; to have what is inside, unpack first: {'; '.join(f'tar -xzf {name}' for name in names)}",
    )
