"""JSON is read as written or refused in one line that says where and what would have been valid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from telme.errors import TelMEError
from telme.strict import parse_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    radius: float
    tyre: Literal["summer", "winter"] = "summer"

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise TelMEError(f"radius is {self.radius}; it must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axle:
    wheels: tuple[Wheel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Car:
    name: str
    doors: int = 4
    axles: tuple[Axle, ...] = ()
    spare: Wheel | None = None
    options: dict[str, bool | int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise TelMEError("a car needs a name")


def problem(text: str | bytes, kind: type = Car) -> str:
    with pytest.raises(TelMEError) as caught:
        parse_json(kind, text, "cars.json:3")
    message = str(caught.value)
    assert message.startswith("cars.json:3: ")
    assert "\n" not in message
    return message.removeprefix("cars.json:3: ")


def test_a_whole_document_is_read_into_its_types() -> None:
    text = '{"name": "R4", "axles": [{"wheels": [{"radius": 1}]}], "spare": {"radius": 2.5, "tyre": "winter"}, '
    text += '"options": {"roof": true, "seats": 5, "price": 1.5, "colour": "blue"}}'
    assert parse_json(Car, text, "cars.json") == Car(
        name="R4",
        axles=(Axle(wheels=(Wheel(radius=1.0),)),),
        spare=Wheel(radius=2.5, tyre="winter"),
        options={"roof": True, "seats": 5, "price": 1.5, "colour": "blue"},
    )


def test_a_list_of_dataclasses_is_read_and_checked_too() -> None:
    assert parse_json(tuple[Wheel, ...], '[{"radius": 1}]', "wheels.json") == (Wheel(radius=1),)
    unknown = problem('[{"radius": 1}, {"radius": 1, "tire": "winter"}]', tuple[Wheel, ...])
    assert unknown == "unknown key '[1].tire'; valid keys here are radius, tyre"


@pytest.mark.parametrize(
    ("text", "key", "valid"),
    [
        ('{"name": "R4", "colour": 1}', "colour", "axles, doors, name, options, spare"),
        ('{"name": "R4", "spare": {"radius": 1, "size": 1}}', "spare.size", "radius, tyre"),
        ('{"name": "R4", "axles": [{"wheels": [], "load": 1}]}', "axles[0].load", "wheels"),
        (
            '{"name": "R4", "axles": [{"wheels": []}, {"wheels": [{"radius": 1, "size": 1}]}]}',
            "axles[1].wheels[0].size",
            "radius, tyre",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_valid_ones(text: str, key: str, valid: str) -> None:
    assert problem(text) == f"unknown key {key!r}; valid keys here are {valid}"


def test_a_misspelt_key_is_named_rather_than_the_missing_one() -> None:
    assert problem('{"nmae": "R4"}').startswith("unknown key 'nmae'")
    assert problem('{"name": "R4", "spare": {"radios": 1}}').startswith("unknown key 'spare.radios'")


def test_a_missing_key_is_named_with_its_place() -> None:
    assert problem("{}") == "key 'name' is missing"
    assert problem('{"name": "R4", "axles": [{"wheels": [{"tyre": "winter"}]}]}') == (
        "key 'axles[0].wheels[0].radius' is missing"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": 4}', "name is 4; input should be a valid string"),
        ('{"name": "R4", "doors": "4"}', "doors is '4'; input should be a valid integer"),
        ('{"name": "R4", "doors": 4.5}', "doors is 4.5; input should be a valid integer"),
        ('{"name": "R4", "doors": true}', "doors is True; input should be a valid integer"),
        ('{"name": "R4", "spare": {"radius": 1, "tyre": "all"}}', "spare.tyre is 'all'; input should be 'summer' or "),
        ("[]", "the document is []; "),
        ("null", "the document is None; "),
    ],
)
def test_a_wrong_type_is_refused_not_converted(text: str, message: str) -> None:
    assert problem(text).startswith(message)


def test_a_long_value_is_cut() -> None:
    assert len(problem(f'{{"name": "R4", "doors": "{"x" * 5000}"}}')) < 150


def test_a_value_that_the_type_itself_refuses() -> None:
    assert problem('{"name": ""}') == "a car needs a name"
    assert problem('{"name": "R4", "spare": {"radius": -1}}') == "spare: radius is -1.0; it must be above 0"
    assert problem('{"name": "R4", "axles": [{"wheels": [{"radius": 0}]}]}').startswith("axles[0].wheels[0]: radius")


@pytest.mark.parametrize("text", ['{"name": "R4"', "{'name': 'R4'}", "", "name: R4", b'{"name": "\xff"}'])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    assert problem(text).startswith("not valid JSON: ")


def test_a_syntax_error_is_placed() -> None:
    assert "line 2 column 3" in problem('{"name": "R4",\n  doors: 4}')
