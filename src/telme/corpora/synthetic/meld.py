"""A made-up MELD: three tables and a folder of clips for each, named and laid out as in MELD.Raw."""

from __future__ import annotations

import csv
import io
import random
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from telme.corpora.meld import CLIP_FOLDERS
from telme.corpora.synthetic.dialogue import CAST, MELD_DECK, Playwright, Turn
from telme.corpora.synthetic.recording import Clip, Fault

MAIN_CAST = CAST[:6]
FEWEST_PEOPLE, MOST_PEOPLE = 2, 4
SURROUND = 0.2  # of the clips
DIALOGUES_PER_EPISODE = 3
SHARES = {"dev": 0.15, "test": 0.15}  # of the dialogues; train has the rest

_FIRST_LINE_MS = 60_000
_PAUSE_MS = (120, 900)  # between turns
_SCENE_MS = (8_000, 40_000)  # between dialogues
_COLUMNS = (
    "Sr No.",
    "Utterance",
    "Speaker",
    "Emotion",
    "Sentiment",
    "Dialogue_ID",
    "Utterance_ID",
    "Season",
    "Episode",
    "StartTime",
    "EndTime",
)
# Surprise is either.
_SENTIMENTS = {
    "neutral": "neutral",
    "joy": "positive",
    "anger": "negative",
    "sadness": "negative",
    "disgust": "negative",
    "fear": "negative",
}


@dataclass(slots=True)
class Row:
    """A line of a table, and the clip that goes with it; times in milliseconds."""

    split: str
    dialogue: int
    utterance: int
    season: int
    episode: int
    start: int
    end: int
    turn: Turn
    speaker: str
    text: str
    surround: bool
    fault: Fault | None = None

    @property
    def id(self) -> str:
        """As the reader names it, such as `train/dia0_utt3`."""
        return f"{self.split}/dia{self.dialogue}_utt{self.utterance}"

    @property
    def clip(self) -> str:
        """Path of the clip in the corpus."""
        return f"{CLIP_FOLDERS[self.split]}/dia{self.dialogue}_utt{self.utterance}.mp4"


@dataclass(slots=True)
class Plan:
    """What is to be written: rows by split and dialogue, and files that no row names."""

    splits: dict[str, list[list[Row]]]
    extras: list[tuple[str, Row]] = field(default_factory=list)
    stubs: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """All rows in the order of the tables."""
        return [row for dialogues in self.splits.values() for row in chain.from_iterable(dialogues)]


def plan_meld(*, dialogues: int, seed: int) -> Plan:
    """Dialogues of the main cast divided over the splits, with places in episodes of their own."""
    chance = random.Random(f"meld {seed}")
    splits: dict[str, list[list[Row]]] = {}
    playwright = Playwright(MELD_DECK, seed=seed)
    for season, (split, size) in enumerate(split_sizes(dialogues).items(), 1):
        playwright.shuffle()
        splits[split] = []
        for number in range(size):
            episode, place = divmod(number, DIALOGUES_PER_EPISODE)
            clock = (splits[split][-1][-1].end if place else _FIRST_LINE_MS) + chance.randint(*_SCENE_MS)
            rows: list[Row] = []
            people = playwright.people(MAIN_CAST, fewest=FEWEST_PEOPLE, most=MOST_PEOPLE)
            for utterance, turn in enumerate(playwright.dialogue(people)):
                start = clock + chance.randint(*_PAUSE_MS)
                clock = start + round(1000 * turn.seconds)
                rows.append(
                    Row(
                        split=split,
                        dialogue=number,
                        utterance=utterance,
                        season=season,
                        episode=1 + episode,
                        start=start,
                        end=clock,
                        turn=turn,
                        speaker=turn.person.name,
                        text=turn.text,
                        surround=chance.random() < SURROUND,
                    )
                )
            splits[split].append(rows)
    return Plan(splits)


def split_sizes(dialogues: int) -> dict[str, int]:
    """How many dialogues each split gets, at least one."""
    held_out = {split: max(1, round(share * dialogues)) for split, share in SHARES.items()}
    return {"train": dialogues - sum(held_out.values()), **held_out}


def write_tables(plan: Plan, root: Path) -> None:
    """Writes the three tables and makes the folders of clips."""
    for split, dialogues in plan.splits.items():
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for number, row in enumerate(chain.from_iterable(dialogues), 1):
            emotion = row.turn.emotion
            sentiment = _SENTIMENTS.get(emotion) or ("positive", "negative")[row.turn.seed % 2]
            words = (number, row.text, row.speaker, emotion, sentiment)
            place = (row.dialogue, row.utterance, row.season, row.episode, _clock(row.start), _clock(row.end))
            writer.writerow(words + place)
        (root / f"{split}_sent_emo.csv").write_text(table.getvalue(), encoding="utf-8", newline="")
        (root / CLIP_FOLDERS[split]).mkdir()


def clips(plan: Plan, root: Path) -> list[Clip]:
    """The clips to write, those of a fault `missing` excepted."""
    files = [(row.clip, row) for row in plan.rows if row.fault != "missing"] + plan.extras
    return [Clip(file=str(root / file), turn=row.turn, surround=row.surround, fault=row.fault) for file, row in files]


def _clock(milliseconds: int) -> str:
    """91234 -> "00:01:31,234"."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{rest:03}"
