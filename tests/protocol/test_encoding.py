"""Payloads of the types that applications have: they arrive with the same value in both formats, or are refused."""

from __future__ import annotations

import array
import json
import math
import sqlite3
from collections import ChainMap, UserDict, UserList, UserString, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any
from unittest.mock import MagicMock, Mock
from uuid import UUID

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from django.utils.functional import SimpleLazyObject, lazystr
from django.utils.safestring import SafeString
from markupsafe import Markup

from analytics_hub.exceptions import InvalidItem
from analytics_hub.protocol.encoding import PayloadEncoder
from analytics_hub.protocol.formats import transcode
from analytics_hub.protocol.items import encode_data


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not the text"


class Whole(int):
    pass


class Real(float):
    pass


class Moment(datetime):
    pass


class Day(date):
    pass


class Hour(time):
    pass


class Span(timedelta):
    pass


class Money(Decimal):
    pass


class Blob(bytes):
    pass


class Side(Enum):
    BUY = "buy"


class Corner(Enum):
    TOP = (0, 1)


class Level(IntEnum):
    HIGH = 3


class Colour(StrEnum):
    RED = "red"


class Fill(pydantic.BaseModel):
    price: Decimal = Decimal("1.50")
    at: datetime = datetime(2026, 1, 2, tzinfo=UTC)
    side: Side = Side.BUY
    share: float = math.nan
    parts: list[Fill] = []


@dataclass
class Box:
    content: object


@attrs.define
class Crate:
    content: object


class Parcel(msgspec.Struct, rename="camel"):
    the_content: object


FILL: dict[str, Any] = {"price": "1.50", "at": "2026-01-02T00:00:00Z", "side": "buy", "share": None, "parts": []}


class LazyText:
    """As those of Flask-Babel: everything is that of the text, by `__getattr__`."""

    def __str__(self) -> str:
        return "später"

    def __getattr__(self, name: str) -> Any:
        return getattr(str(self), name)


# Stand-ins for pandas and polars, which take longer to install than all the tests to run.


class Column:
    """A Series of pandas: labels and values. Its scalars are those of `NAType` and the subclasses of `datetime`."""

    def __init__(self, values: dict[object, object]) -> None:
        self.values = values

    def tolist(self) -> list[object]:
        return list(self.values.values())

    def to_dict(self) -> dict[object, object]:
        return self.values

    def keys(self) -> object:
        return self.values.keys()

    def __getitem__(self, key: object) -> object:
        return self.values[key]


class Frame:
    """A DataFrame of pandas."""

    def to_dict(self, orient: str = "dict") -> object:
        assert orient == "records"
        return [{"a": NAType(), "t": NaT(2026, 1, 2), "n": np.float64(1.5)}]

    def itertuples(self) -> Iterator[object]:
        raise AssertionError

    def keys(self) -> object:
        raise AssertionError

    def __getitem__(self, key: object) -> object:
        raise AssertionError


class NAType:
    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


class NaT(datetime):
    def __ne__(self, other: object) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = datetime.__hash__


class PolarsFrame:
    def to_dict(self) -> object:
        raise AssertionError

    def to_dicts(self) -> object:
        return [{"a": 1}]


class PolarsSeries:
    def to_list(self) -> object:
        return [1, None]


def row() -> sqlite3.Row:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    found: sqlite3.Row = connection.execute("select 7 as id, 'a' as name").fetchone()
    connection.close()
    return found


TIMES = np.array(["2026-01-02T03:04:05.678901234", "NaT"], "M8[ns]")
KNOWN: dict[str, tuple[object, object]] = {
    # subclasses of what msgspec knows
    "a subclass of str": (Text("a"), "a"),
    "a subclass of int": (Whole(7), 7),
    "a subclass of float": (Real(1.5), 1.5),
    "a subclass of bytes": (Blob(b"abc"), "YWJj"),
    "a subclass of datetime": (Moment(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
    "another zone": (Moment(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T00:00:00+02:00"),
    "a subclass of date": (Day(2026, 1, 2), "2026-01-02"),
    "a subclass of time": (Hour(1, 2, 3, 4), "01:02:03.000004"),
    "a subclass of timedelta": (Span(days=1, seconds=2), "P1DT2S"),
    "a subclass of Decimal": (Money("1.50"), "1.50"),
    "a safe string of Django": (SafeString("<b>"), "<b>"),
    "markup": (Markup("<b>"), "<b>"),
    "a lazy text of Django": (lazystr("hello"), "hello"),
    "a lazy object of Django": (SimpleLazyObject(lambda: "hello"), "hello"),
    "a lazy text of Flask-Babel": (LazyText(), "später"),
    "a user string": (UserString("a"), "a"),
    # containers
    "a deque": (deque([1, Text("a")]), [1, "a"]),
    "a range": (range(3), [0, 1, 2]),
    "a user list": (UserList([1]), [1]),
    "an array": (array.array("d", [1.5]), [1.5]),
    "a view of keys": ({"a": 1}.keys(), ["a"]),
    "a view of values": ({"a": 1}.values(), [1]),
    "a view of items": ({"a": 1}.items(), [["a", 1]]),
    "a mapping proxy": (MappingProxyType({"a": Whole(1)}), {"a": 1}),
    "a chain map": (ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
    "a user dict": (UserDict({"a": 1}), {"a": 1}),
    "a row of a database": (row(), {"id": 7, "name": "a"}),
    # within what msgspec knows
    "in a dict": ({"a": [{"b": (deque([1]),)}]}, {"a": [{"b": [[1]]}]}),
    "in a dataclass": (Box(deque([1])), {"content": [1]}),
    "in an attrs class": (Crate(deque([1])), {"content": [1]}),
    "in a struct": (Parcel(deque([1])), {"theContent": [1]}),
    # pydantic
    "a model": (Fill(), FILL),
    "a model in a model": (Fill(parts=[Fill()]), FILL | {"parts": [FILL]}),
    "models in a list": ([Fill(), Fill()], [FILL, FILL]),
    "a model in a dataclass": (Box({"a": Fill()}), {"content": {"a": FILL}}),
    "a root model": (pydantic.RootModel[list[Decimal]]([Decimal("1.50")]), ["1.50"]),
    # NumPy
    "float64": (np.float64(1.5), 1.5),
    "float32": (np.float32(0.1), 0.10000000149011612),
    "longdouble": (np.longdouble(1.5), 1.5),
    "int64": (np.int64(-7), -7),
    "uint64": (np.uint64(2**64 - 1), 2**64 - 1),
    "bool": (np.bool_(True), True),
    "str": (np.str_("a"), "a"),
    "bytes": (np.bytes_(b"abc"), "YWJj"),
    "an array of floats": (np.array([[1.5, math.nan], [math.inf, -0.5]]), [[1.5, None], [None, -0.5]]),
    "an array of long doubles": (np.array([1.5], "longdouble"), [1.5]),
    "an array of integers": (np.arange(3), [0, 1, 2]),
    "an array of texts": (np.array(["a"]), ["a"]),
    "an array of objects": (np.array([Decimal("1.5"), TIMES[0], None]), ["1.5", "2026-01-02T03:04:05.678901", None]),
    "an array without dimensions": (np.array(5), 5),
    "a masked array": (np.ma.array([1, 2], mask=[False, True]), [1, None]),
    "nanoseconds": (TIMES[0], "2026-01-02T03:04:05.678901"),
    "not a time": (TIMES[1], None),
    "an array of nanoseconds": (TIMES.reshape(1, 2), [["2026-01-02T03:04:05.678901", None]]),
    "days": (np.array(["2026-01-02"], "M8[D]"), ["2026-01-02"]),
    "seconds": (np.datetime64("2026-01-02T03:04:05"), "2026-01-02T03:04:05"),
    "a duration": (np.timedelta64(1500, "ms"), "PT1.5S"),
    "a duration of nanoseconds": (np.timedelta64(1_500_000_000, "ns"), "PT1.5S"),
    "a structured array": (np.array([(1, TIMES[0])], [("a", int), ("t", "M8[ns]")]),
                           [{"a": 1, "t": "2026-01-02T03:04:05.678901"}]),
    "a structured scalar": (np.array([(1, "x")], [("a", int), ("b", "U1")])[0], {"a": 1, "b": "x"}),
    # pandas and polars
    "a row of pandas": (Column({"a": np.int64(1), "b": NAType()}), {"a": 1, "b": None}),
    "a column of pandas": (Column({0: NaT(2026, 1, 2)}), {"0": None}),
    "a table of pandas": (Frame(), [{"a": None, "t": None, "n": 1.5}]),
    "a table of polars": (PolarsFrame(), [{"a": 1}]),
    "a column of polars": (PolarsSeries(), [1, None]),
    # what is not finite
    "NaN": ([math.nan, np.float32("nan"), Real("nan"), -math.inf], [None, None, None, None]),
    "a Decimal that is not finite": ([Decimal("NaN"), Money("-Infinity")], ["NaN", "-Infinity"]),
    "integers beyond 53 bits": ([2**53 + 1, -(2**63), Whole(2**64 - 1)], [2**53 + 1, -(2**63), 2**64 - 1]),
    # keys
    "keys": (
        {Whole(1): 1, Text("a"): 1, np.int64(2): 1, np.str_("b"): 1, UUID(int=1): 1, Side.BUY: 1, Level.HIGH: 1,
         Colour.RED: 1, date(2026, 1, 2): 1, Decimal("1.50"): 1, None: 1, 2.5: 1, TIMES[0]: 1},
        dict.fromkeys(
            ("1", "a", "2", "b", "00000000-0000-0000-0000-000000000001", "buy", "3", "red", "2026-01-02", "1.50",
             "null", "2.5", "2026-01-02T03:04:05.678901"), 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "shown"), KNOWN.values(), ids=KNOWN.keys())
def test_a_payload_is_the_same_in_both_formats(data: object, shown: object) -> None:
    body = encode_data(data)

    assert json.loads(body, parse_constant=pytest.fail) == shown
    assert msgspec.msgpack.decode(transcode(body)) == shown
    assert repr(json.loads(encode_data([data]))) == repr([json.loads(body)])


def test_booleans_and_none_are_keys() -> None:
    assert encode_data({True: 1, False: 2, None: 3}) == b'{"true":1,"false":2,"null":3}'


async def unawaited() -> None:
    pass


class Unknown:
    pass


class WithDict:
    def to_dict(self) -> dict[str, int]:
        return {"a": 1}


class Failing(pydantic.BaseModel):
    def model_dump(self, **options: Any) -> dict[str, Any]:
        raise KeyError("of the application")


ELSEWHERE = "publish a dict, a dataclass or another type of docs/payloads.md, or pass the hub `encode=`"
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "at the top": (Unknown, f"data of type Unknown cannot be encoded as JSON; {ELSEWHERE}"),
    "in a dict": (lambda: {"a": [1, {"b c": Unknown()}]}, f"$.a[1]['b c'] is of type {__name__}.Unknown; {ELSEWHERE}"),
    "in a dataclass": (lambda: Box(Box((1, 1j))), "$.content.content[1] is of type complex; publish"),
    "in an attrs class": (lambda: Crate({1j}), "$.content[0] is of type complex; publish"),
    "in a struct": (lambda: [Parcel(1), Parcel(1j)], "$[1].theContent is of type complex; publish"),
    "in a converted value": (lambda: {"d": deque([1, 1j])}, "$.d[1] is of type complex; publish"),
    "in an Enum": (lambda: [Enum("E", {"A": 1j}).A], "$[0] is of type complex; publish"),  # type: ignore[attr-defined]
    "a key": (lambda: {"a": {(1, 2): 3}}, "$.a key (1, 2) is of type tuple; keys are texts, numbers, times"),
    "a key that is a list": (lambda: {Corner.TOP: 3}, f"$ key <Corner.TOP: (0, 1)> is of type {__name__}.Corner; keys"),
    "a text": (lambda: {"a": ["\ud800"]}, "$.a[0] is of type str: 'utf-8' codec can't encode"),
    "a key that UTF-8 cannot encode": (lambda: {"\ud800": 1}, "$ key '\\ud800' is of type str: 'utf-8' codec"),
    "thousands of digits": (lambda: {"a": 10**5000}, "$.a is of type int: Exceeds the limit (4300 digits)"),
    "an iterator": (lambda: {"a": iter([1])}, "$.a is of type list_iterator; publish a list of it, or pass the hub"),
    "a way out of its own": (lambda: [WithDict()], f"$[0] is of type {__name__}.WithDict; publish its `to_dict()`, or"),
    "a model that fails": (lambda: [Failing()], f"$[0] is of type {__name__}.Failing: KeyError: 'of the application'"),
    "a mock": (lambda: {"a": Mock()}, "$.a is of type unittest.mock.Mock; publish a dict"),
    "a magic mock": (lambda: {"a": MagicMock()}, "$.a is of type unittest.mock.MagicMock; publish"),
    "a complex scalar": (lambda: np.complex64(1), "data of type complex64 cannot be encoded as JSON; publish"),
    "a long complex scalar": (lambda: np.clongdouble(1), "data of type clongdouble cannot be encoded as JSON; publish"),
    "a duration without a unit": (lambda: np.timedelta64(5), "times must have a unit, and lie in the years 1 to 9999"),
    "a time of another age": (lambda: np.array([10**18]).view("M8[us]"), "and lie in the years 1 to 9999"),
    "a place far within": (lambda: {"x" * 200: {"y" * 200: 1j}}, "yyyyyyyy is of type complex; publish"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_names_the_place_the_type_and_the_ways_out(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidItem) as caught:
        encode_data(make())

    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_coroutine_is_to_be_awaited() -> None:
    coroutine = unawaited()
    with pytest.raises(InvalidItem, match=r"\$\.a is of type coroutine; await it first$"):
        encode_data({"a": coroutine})
    coroutine.close()


@pytest.mark.parametrize("kind", [list, deque])
def test_a_payload_that_contains_itself_is_refused(kind: type[list[Any] | deque[Any]]) -> None:
    for wrap in (list, deque):
        data = kind()
        data.append(wrap([data]))
        with pytest.raises(InvalidItem, match="nested too deeply or contains itself"):
            encode_data(data)


# --- the function of the application


def show_complex(value: object) -> object:
    if isinstance(value, complex):
        return [value.real, value.imag]
    raise TypeError(f"no number: {value}")


def test_the_function_of_the_application_converts_what_is_not_known() -> None:
    encode = PayloadEncoder(show_complex).encode

    assert encode({"a": [1j], "b": deque([2j])}) == b'{"a":[[0.0,1.0]],"b":[[0.0,2.0]]}'


def test_it_is_called_for_nothing_else() -> None:
    asked: list[object] = []

    def ask(value: object) -> object:
        asked.append(value)
        return "asked"

    encoder = PayloadEncoder(ask)
    for data, _ in KNOWN.values():
        encoder.encode(data)

    assert asked == []
    assert encoder.encode({"a": 1j, (1, 2): 3}) == b'{"a":"asked","asked":3}'
    assert asked == [1j, (1, 2)]


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (show_complex, "$.a is of type " + f"{__name__}.Unknown: no number: <"),
        (lambda value: value, f"$.a is of type {__name__}.Unknown; publish"),
        (lambda _: NotImplemented, f"$.a is of type {__name__}.Unknown; publish"),
        (lambda _: 1 / 0, f"$.a is of type {__name__}.Unknown: ZeroDivisionError: division by zero"),
    ],
    ids=["refusal", "itself", "nothing", "failure"],
)
def test_its_refusal_and_its_failure_are_reported_with_the_place(
    convert: Callable[[object], object], message: str
) -> None:
    with pytest.raises(InvalidItem) as caught:
        PayloadEncoder(convert).encode({"a": Unknown()})

    assert message in str(caught.value)


# --- keys of items


KEYS: tuple[tuple[object, str], ...] = (
    ("a", "a"), ("ä", "ä"), (Text("a"), "a"), (SafeString("a"), "a"), (lazystr("a"), "a"), (7, "7"), (-7, "-7"),
    (np.int64(7), "7"), (Level.HIGH, "3"), (UUID(int=1), str(UUID(int=1))), (Side.BUY, "buy"), (Colour.RED, "red"),
    (date(2026, 1, 2), "2026-01-02"), (Decimal("1.50"), "1.50"), ("k" * 255, "k" * 255),
)  # fmt: skip


@pytest.mark.parametrize(("key", "text"), KEYS, ids=range(len(KEYS)))
def test_a_key_is_what_json_shows_of_a_text_or_an_integer(key: object, text: str) -> None:
    found = PayloadEncoder().encode_key(key)

    assert (found, type(found)) == (text, str)


NO_KEYS: tuple[object, ...] = (
    "", "k" * 256, True, 1.5, None, b"", [], {}, np.float64(1), Corner.TOP, 10**300, math.nan,
)  # fmt: skip


@pytest.mark.parametrize("key", NO_KEYS, ids=range(len(NO_KEYS)))
def test_another_key_is_refused(key: object) -> None:
    with pytest.raises(InvalidItem, match=r"^key .* must be a text of 1 to 255 characters, or a value that JSON shows"):
        PayloadEncoder().encode_key(key)


def test_a_key_of_an_unknown_type_is_refused_or_converted() -> None:
    with pytest.raises(InvalidItem, match="data of type complex cannot be encoded"):
        PayloadEncoder().encode_key(1j)
    assert PayloadEncoder(str).encode_key(1j) == "1j"
