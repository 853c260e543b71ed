"""Made-up people and what they say, with the emotion that each turn's words, voice and face show."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# How often each modality shows the turn's emotion. Words tell most and the face least, as in MELD, and none of them
# everything, so that a student has something to learn and fusion something to gain.
WORDS_TELL = 0.76
WORDS_AMBIGUOUS = 0.17  # words that go with every emotion; the words left over mislead: they are another emotion's
# Voice and face tell more often where words do not; if not, they show an emotion drawn from the corpus's distribution.
WITH_WORDS = {"voice": 0.50, "face": 0.35}
INSTEAD_OF_WORDS = {"voice": 0.85, "face": 0.70}  # together 58 and 43 % of all turns
# How often a turn takes over the emotion of the turn before it: what context has to offer.
CONTAGION = 0.35

FEWEST_TURNS, MOST_TURNS = 4, 10
SYLLABLES_PER_WORD = 1.5

# Emotions by how often they occur: each deck is dealt to its end before it is shuffled again, so that rare ones come up
# in small corpora too. MELD: 47 % neutral, 17 joy, 12 surprise, 11 anger, 7 sadness, 3 disgust, 3 fear.
Deck = Mapping[str, int]
MELD_DECK: Deck = {"neutral": 14, "joy": 5, "surprise": 4, "anger": 3, "sadness": 2, "disgust": 1, "fear": 1}
IEMOCAP_DECK: Deck = {"frustrated": 3, "neutral": 3, "angry": 2, "sad": 2, "excited": 2, "happy": 1}


class Person(NamedTuple):
    """Somebody of the cast.

    Args:
        name: First name.
        pitch: Of the voice, in hertz.
        tract: Resonances of the voice relative to an average man's: a shorter vocal tract has higher ones.
        skin: Colour.
        hair: Colour.
        shirt: Colour.
    """

    name: str
    pitch: float
    tract: float
    skin: str
    hair: str
    shirt: str


# A woman and a man in turn.
CAST = (
    Person("Ada", 205, 1.16, "#e8b998", "#3b2417", "#3f6f8f"),
    Person("Bruno", 112, 1.00, "#c98f66", "#1d1a18", "#6b6f3a"),
    Person("Chiara", 190, 1.14, "#f0cdb0", "#b5651d", "#8f4f6b"),
    Person("Dmitri", 125, 1.03, "#e3b08c", "#d2b06a", "#4d4d6e"),
    Person("Esme", 215, 1.18, "#8d5a3a", "#15100d", "#b08a3c"),
    Person("Farid", 118, 1.01, "#b57a52", "#2b201a", "#39705f"),
    Person("Greta", 182, 1.12, "#f3d6c0", "#d9c07a", "#7a3f3f"),
    Person("Hugo", 105, 0.98, "#dba684", "#7a7a7a", "#2f4f6f"),
    Person("Imani", 198, 1.15, "#6f4428", "#0f0c0a", "#a0522d"),
    Person("Jun", 130, 1.04, "#e6bf95", "#101010", "#5f7f4f"),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one person says at one go.

    Args:
        person: Who speaks.
        text: The words.
        emotion: The label.
        voice: The emotion heard in the voice.
        face: The emotion seen in the face.
        seconds: How long it takes.
        seed: Of everything else that is random in its sound and picture.
    """

    person: Person
    text: str
    emotion: str
    voice: str
    face: str
    seconds: float
    seed: int

    @property
    def syllables(self) -> int:
        """How often the mouth opens."""
        return max(2, round(SYLLABLES_PER_WORD * len(self.text.split())))


class Phrasebook(NamedTuple):
    """Sentences of one emotion: a beginning, a middle with slots, an end."""

    beginnings: tuple[str, ...]
    middles: tuple[str, ...]
    end: str
    words_per_second: float  # spoken with this emotion in the voice


_ANGER = Phrasebook(
    ("Stop it! ", "How dare you! ", "Enough! ", "Get out! ", "Shut up! "),
    (
        "You broke my {thing}",
        "I hate that {thing} at {place}",
        "{name} stole my {thing}",
        "Leave my {thing} at {place} alone",
        "Don't ever touch the {thing} of {name}",
    ),
    "!",
    4.7,
)
_SADNESS = Phrasebook(
    ("Oh no, ", "I'm so sorry, ", "Poor me, ", "I'm lost, ", "It's no use, "),
    (
        "I miss the {thing} at {place}",
        "{name} left {place} for good",
        "the {thing} is gone forever",
        "we lost the {thing} {time}",
        "I cried at {place} {time}",
    ),
    "...",
    2.9,
)
_JOY = Phrasebook(
    ("Oh, wonderful! ", "Yes! ", "Hooray! ", "Great news! ", "I'm so happy! "),
    (
        "I love the {thing} from {place}",
        "We got the {thing} for {name}",
        "{name} is coming to {place} {time}",
        "What a lovely {thing}, {name}",
        "This is the best {thing} in {place}",
    ),
    "!",
    4.3,
)
_NEUTRAL = Phrasebook(
    ("Okay, ", "So, ", "Right, ", "Sure, ", ""),
    (
        "the {thing} is at {place}",
        "I put the {thing} by {place}",
        "we meet at {place} {time}",
        "{name} needs the {thing} {time}",
        "the {thing} comes to {place} {time}",
        "you can take the {thing} to {place}",
        "{name} works at {place} {time}",
    ),
    ".",
    3.8,
)
PHRASEBOOKS: Mapping[str, Phrasebook] = {
    "neutral": _NEUTRAL,
    "joy": _JOY,
    "happy": _JOY,
    "anger": _ANGER,
    "angry": _ANGER,
    "sadness": _SADNESS,
    "sad": _SADNESS,
    "surprise": Phrasebook(
        ("What? ", "Oh my! ", "Wait! ", "No way! ", "Really? "),
        (
            "The {thing} was at {place}",
            "{name} has a {thing} now",
            "Since when is {name} at {place}",
            "You bought a {thing} {time}",
            "There is a {thing} at {place}",
        ),
        "?!",
        4.1,
    ),
    "fear": Phrasebook(
        ("Oh God, ", "Help, ", "Watch out, ", "I'm scared, ", "Don't move, "),
        (
            "something moved behind the {thing}",
            "don't leave me at {place}",
            "I heard steps at {place} {time}",
            "{name} never came back from {place}",
            "hide the {thing} from {name}",
        ),
        "!",
        5.0,
    ),
    "disgust": Phrasebook(
        ("Ew, ", "Yuck, ", "Gross, ", "Ugh, ", "That's disgusting, "),
        (
            "the {thing} smells like {place}",
            "{name} licked the {thing}",
            "there's mould on the {thing} at {place}",
            "I won't eat that {thing}",
            "who left a rotten {thing} at {place}",
        ),
        ".",
        3.1,
    ),
    "excited": Phrasebook(
        ("Guess what! ", "Wow! ", "I can't wait! ", "Oh boy! ", "This is huge! "),
        (
            "We are going to {place} {time}",
            "I finally get the {thing} {time}",
            "{name} picked me for the {thing}",
            "They want my {thing} at {place}",
        ),
        "!",
        4.9,
    ),
    "frustrated": Phrasebook(
        ("Come on, ", "Seriously, ", "Not again, ", "For the last time, ", "I give up, "),
        (
            "the {thing} never works at {place}",
            "I asked for a {thing} {time}",
            "nobody at {place} knows about the {thing}",
            "why must I explain the {thing} to {name}",
            "they sent me to {place} {time}",
        ),
        ".",
        3.4,
    ),
}
AMBIGUOUS = Phrasebook(
    ("Well, ", "You know, ", "Look, ", "I mean, ", ""),
    (
        "there is the {thing} of {name}",
        "it is about the {thing} and {name}",
        "I thought of {place} {time}",
        "{name} told me about the {thing}",
        "that was {place} {time}",
        "you saw the {thing} at {place}",
    ),
    ".",
    3.8,
)
# fmt: off
_THINGS = (
    "lamp", "piano", "teapot", "ladder", "suitcase", "umbrella", "violin", "carpet", "kettle", "bicycle", "pumpkin",
    "sandwich", "wardrobe", "telescope", "scarf", "trophy", "hamster", "cake", "painting", "letter", "basket",
    "microwave", "sofa", "parrot",
)
_PLACES = (
    "the harbour", "the library", "the bakery", "the station", "the museum", "the office", "the garden", "the theatre",
    "the airport", "the hotel", "the market", "the cellar",
)
_TIMES = ("tonight", "on Monday", "at noon", "today", "this week", "at six", "after lunch", "before dinner")
# fmt: on


class Playwright:
    """Writes dialogues in which no sentence occurs twice.

    Args:
        deck: The emotions by their frequency.
        seed: The same seed writes the same dialogues.
    """

    def __init__(self, deck: Deck, *, seed: int) -> None:
        self._random = random.Random(seed)
        self._labels = [label for label, count in deck.items() for _ in range(count)]
        self._deal = self._dealt()
        self._written: set[str] = set()

    def dialogue(self, people: Sequence[Person]) -> tuple[Turn, ...]:
        """A dialogue of those people, nobody speaking twice in a row."""
        turns: list[Turn] = []
        for _ in range(self._random.randint(FEWEST_TURNS, MOST_TURNS)):
            others = [person for person in people if not turns or person is not turns[-1].person]
            turns.append(self._turn(self._random.choice(others), turns[-1].emotion if turns else None))
        return tuple(turns)

    def shuffle(self) -> None:
        """Starts a new deck, so that each split has rare emotions as well."""
        self._deal = self._dealt()

    def people(self, cast: Sequence[Person], *, fewest: int, most: int) -> list[Person]:
        """Some of the cast."""
        return self._random.sample(cast, self._random.randint(fewest, most))

    def _turn(self, person: Person, emotion_before: str | None) -> Turn:
        emotion = emotion_before if emotion_before and self._random.random() < CONTAGION else next(self._deal)
        phrasebook = self._phrasebook(emotion)
        text = self._sentence(phrasebook, person)
        often = WITH_WORDS if phrasebook is PHRASEBOOKS[emotion] else INSTEAD_OF_WORDS
        voice, face = self._shown(emotion, often["voice"]), self._shown(emotion, often["face"])
        pause, pace = 0.25, self._random.uniform(0.9, 1.1) * PHRASEBOOKS[voice].words_per_second
        return Turn(
            person=person,
            text=text,
            emotion=emotion,
            voice=voice,
            face=face,
            seconds=pause + len(text.split()) / pace,
            seed=self._random.getrandbits(32),
        )

    def _phrasebook(self, emotion: str) -> Phrasebook:
        chance = self._random.random()
        if chance < WORDS_TELL:
            return PHRASEBOOKS[emotion]
        if chance < WORDS_TELL + WORDS_AMBIGUOUS:
            return AMBIGUOUS
        return PHRASEBOOKS[self._random.choice([label for label in self._labels if label != emotion])]

    def _shown(self, emotion: str, often: float) -> str:
        return emotion if self._random.random() < often else self._random.choice(self._labels)

    def _sentence(self, phrasebook: Phrasebook, speaker: Person) -> str:
        slots = {
            "thing": self._random.choice(_THINGS),
            "place": self._random.choice(_PLACES),
            "time": self._random.choice(_TIMES),
            "name": self._random.choice([person.name for person in CAST if person is not speaker]),
        }
        text = self._random.choice(phrasebook.beginnings) + self._random.choice(phrasebook.middles).format_map(slots)
        while text in self._written:
            text += f" {self._random.choice(_TIMES)}"
        self._written.add(text)
        return text[0].upper() + text[1:] + phrasebook.end

    def _dealt(self) -> Iterator[str]:
        while True:
            yield from self._random.sample(self._labels, len(self._labels))
