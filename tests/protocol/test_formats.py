"""Both formats show the same values and accept the same commands; no input makes them raise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analytics_hub.exceptions import InvalidItem
from analytics_hub.protocol import InvalidCommand, Parsed, Ping, Seen, encode, formats, parse_json, parse_msgpack
from analytics_hub.protocol.formats import JSON, MEMO_BYTES, MSGPACK, SUBPROTOCOLS, Format, choose_format, transcode
from analytics_hub.protocol.items import encode_data

read_msgpack: Final = msgspec.msgpack.decode
pack: Final = msgspec.msgpack.encode


# --- choosing


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((), JSON),
        (("analytics-hub.v1.json",), JSON),
        (("analytics-hub.v1.msgpack",), MSGPACK),
        (("other", "analytics-hub.v1.msgpack", "analytics-hub.v1.json"), MSGPACK),
        (("bearer.analytics-hub.v1.msgpack",), JSON),
        (("bearer.token", "analytics-hub.v1.msgpack"), MSGPACK),
        (("bearer.token", "other"), None),
        (("ANALYTICS-HUB.V1.JSON",), None),
    ],
)
def test_the_first_known_subprotocol_is_chosen(offered: Iterable[str], chosen: Format | None) -> None:
    assert choose_format(offered) is chosen


def test_each_format_has_a_name_and_a_subprotocol() -> None:
    assert (JSON.subprotocol, MSGPACK.subprotocol) == SUBPROTOCOLS
    assert (JSON.name, JSON.is_binary) == ("json", False)
    assert (MSGPACK.name, MSGPACK.is_binary) == ("msgpack", True)


# --- values


def as_javascript_reads(text: str) -> Any:
    """The value of a JSON text, with numbers beyond 64 bits as doubles."""

    def integer(digits: str) -> int | float:
        if len(digits) > 30:
            return float(digits)
        number = int(digits)
        return number if -(2**63) <= number < 2**64 else float(digits)

    return json.loads(text, parse_int=integer)


def is_same(one: object, other: object) -> bool:
    """Equal, also in the types and the sign of zero."""
    return repr(one) == repr(other)


numbers = st.one_of(
    st.integers().map(str),
    st.integers(-(10**40), 10**40).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(json.dumps),
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(
        ("1e308", "1e400", "-1e400", "1" * 400, "1" * 5000, "-0", "-0.0", "5e-324", "18446744073709551616")
    ),
)
characters = st.sampled_from(
    ("a", '\\"', "\\\\", "\\u0000", "\\/", "\\ud83d\\ude00", "\\ud83d", "\\n", "é", "\U0001f600")
)
texts = st.lists(characters, max_size=8).map(lambda parts: '"' + "".join(parts) + '"')
spaces = st.sampled_from(("", " ", "\n\t"))


def arrays(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(spaces, st.lists(parts, max_size=20)).map(lambda pair: f"[{pair[0]}{','.join(pair[1])}{pair[0]}]")


def objects(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(texts, spaces, parts).map(lambda each: f"{each[0]}{each[1]}:{each[2]}"), max_size=20)
    return pairs.map(lambda pairs: "{" + ",".join(pairs) + "}")


json_texts = st.recursive(
    st.one_of(numbers, texts, st.sampled_from(("true", "false", "null"))),
    lambda parts: st.one_of(arrays(parts), objects(parts)),
    max_leaves=25,
)


@settings(max_examples=60)
@given(json_texts)
@example('{"a":1,"a":12345678901234567890123}')
def test_published_data_has_the_same_value_in_both_formats(text: str) -> None:
    try:
        data = encode_data(msgspec.Raw(text.encode()))
    except InvalidItem:
        return
    items = [b'{"type":"a","data":%b}' % data] * 2

    expected = as_javascript_reads(JSON.join(items).decode())

    assert is_same(read_msgpack(MSGPACK.join(items)), expected)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (2**64 - 1, 2**64 - 1),
        (2**64, float(2**64)),
        (-(2**63), -(2**63)),
        (-(2**63) - 1, float(-(2**63) - 1)),
        (12345678901234567890123, 1.2345678901234568e22),
        (10**400, math.inf),
        (-(10**400), -math.inf),
    ],
)
def test_integers_beyond_64_bits_become_doubles(number: int, shown: float) -> None:
    item = encode({"a": [number, {"b": number, "c": [True, "1"]}], "d": number})

    assert is_same(read_msgpack(transcode(item)), {"a": [shown, {"b": shown, "c": [True, "1"]}], "d": shown})
    assert is_same(read_msgpack(transcode(encode(number))), shown)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_a_frame_is_an_array_of_any_length(count: int) -> None:
    assert read_msgpack(MSGPACK.join([b"7"] * count)) == json.loads(JSON.join([b"7"] * count)) == [7] * count


UNREADABLE: Final = (
    b"",
    b"nonsense",
    b"\xff",
    b'{"a"}',
    b"{1:2}",
    b'{"a":1}}',
    b'["\\ud800"]',
    b"1 2",
    b"1e400",
    b"1" * 5000,
    b"[" * 60_000 + b"]" * 60_000,
    b'{"a":' * 60_000 + b"1" + b"}" * 60_000,
)


@pytest.mark.parametrize("data", UNREADABLE, ids=range(len(UNREADABLE)))
def test_an_unreadable_item_is_replaced_by_a_control_item(data: bytes) -> None:
    """A `msgspec.Raw` within other data is published without a check."""
    replacement = {"type": "$invalid", "message": "an item that cannot be read as JSON"}

    assert read_msgpack(MSGPACK.join([data, b"1"])) == [replacement, 1]
    with pytest.raises(InvalidItem, match="Raw"):
        encode_data(msgspec.Raw(data))


@given(st.one_of(st.binary(), st.text(alphabet='[]{}",:1-.eE\\u0dn ').map(str.encode)))
def test_any_item_leaves_its_frame_readable(data: bytes) -> None:
    assert len(read_msgpack(MSGPACK.join([data, b"1"]))) == 2


# --- the cache


class Counting:
    """Replaces `transcode`, and counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.transcoded = 0
        monkeypatch.setattr(formats, "transcode", self)

    def __call__(self, item: bytes) -> bytes:
        self.transcoded += 1
        return pack(json.loads(item))


def test_an_item_is_transcoded_once_while_it_may_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    memo, count = type(MSGPACK)(), Counting(monkeypatch)

    for _ in range(3):
        assert memo.join([b"1", b"2"]) == b"\x92\x01\x02"

    assert count.transcoded == 2


def test_items_in_use_stay_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    memo, count = type(MSGPACK)(), Counting(monkeypatch)
    step = 64 * 1024
    for number in range(3 * MEMO_BYTES // (2 * step)):
        memo.join([b'"used"', encode("x" * step + str(number))])
    others = count.transcoded - 1

    memo.join([b'"used"'])
    assert count.transcoded == others + 1
    memo.join([encode("x" * step + "0")])
    assert count.transcoded == others + 2


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_the_cache_is_bounded(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    memo, count = type(MSGPACK)(), Counting(monkeypatch)
    for number in range(2 * MEMO_BYTES // (2 * size + 300)):
        memo.join([encode("x" * size + str(number))])

    kept = {**vars(memo)["_young"], **vars(memo)["_old"]}

    assert count.transcoded > len(kept)
    assert sum(len(item) + len(packed) for item, packed in kept.items()) <= MEMO_BYTES


# --- commands

ids = st.one_of(
    st.none(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
anything = st.one_of(ids, st.booleans(), st.lists(ids, max_size=3), st.dictionaries(st.text(), ids, max_size=3))
selections = st.one_of(
    st.text(max_size=5),
    st.fixed_dictionaries(
        {"channel": st.text(max_size=5)},
        optional={
            "snapshot": st.booleans(),
            "last": st.integers(-1, 2**53),
            "max_hz": st.floats(-1, 2000),
            "since": st.fixed_dictionaries({"epoch": st.text(max_size=5), "seq": st.integers(0, 9)}),
            "lsat": anything,
        },
    ),
    anything,
)
commands = st.fixed_dictionaries(
    {"action": st.one_of(st.sampled_from(("subscribe", "unsubscribe", "auth", "ping", "seen", "dance")), anything)},
    optional={
        "id": ids,
        "channels": st.one_of(st.lists(selections, max_size=3), anything),
        "token": st.one_of(st.text(), anything),
        "frames": st.one_of(st.integers(-(2**63), 2**64 - 1), anything),
        "extra": anything,
    },
)


@given(st.one_of(commands, st.lists(commands, max_size=3), anything))
def test_commands_are_the_same_in_both_formats(message: object) -> None:
    assert list(map(meaning, MSGPACK.parse(pack(message)))) == list(map(meaning, JSON.parse(encode(message).decode())))


def meaning(parsed: Parsed) -> object:
    """A refusal without its message, in which msgspec names types as its format does."""
    return (parsed.code, parsed.id) if isinstance(parsed, InvalidCommand) else parsed


def test_seen_has_the_number_of_frames() -> None:
    assert JSON.parse('{"action":"seen","frames":5}') == [Seen(frames=5)]
    assert MSGPACK.parse(pack({"action": "seen", "id": 1, "frames": 0})) == [Seen(id=1, frames=0)]


@pytest.mark.parametrize("frames", [-1, 2**53, 1.5, "1", None])
def test_an_invalid_number_of_frames_is_refused(frames: object) -> None:
    (refused,) = JSON.parse(encode({"action": "seen", "id": 3, "frames": frames}).decode())

    assert isinstance(refused, InvalidCommand)
    assert (refused.code, refused.id) == ("bad-request", 3)
    assert "$.frames" in refused.message


def test_each_format_refuses_the_messages_of_the_other() -> None:
    assert (
        JSON.parse(pack({"action": "ping"}))
        == parse_json(b"")
        == [InvalidCommand("bad-request", "a binary message on a JSON session; send text")]
    )
    assert (
        MSGPACK.parse('{"action":"ping"}')
        == parse_msgpack("")
        == [InvalidCommand("bad-request", "a text message on a MessagePack session; send binary")]
    )


packed_commands = st.builds(pack, st.one_of(commands, st.lists(commands, max_size=3)))


@given(
    st.one_of(
        st.binary(),
        st.tuples(packed_commands, st.integers(0, 200), st.binary(max_size=3)).map(
            lambda each: each[0][: each[1]] + each[2] + each[0][each[1] + len(each[2]) :]
        ),
    )
)
@example(b"")
@example(b"\x91" * 60_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xc1")
@example(pack({"action": "ping", "id": b"binary"}))
@example(pack({"action": "ping", "id": msgspec.msgpack.Ext(5, b"")}))
@example(pack({1: 2}))
@example(b"\x81\xa6action\xa3\xed\xa0\x80")
def test_no_binary_message_makes_the_parser_raise(data: bytes) -> None:
    parsed = MSGPACK.parse(data)

    assert parsed
    if data[:1] in (b"", b"\xc1", b"\xdd", b"\xdf"):
        assert all(isinstance(each, InvalidCommand) and each.message for each in parsed)


@given(st.text(alphabet=st.characters(categories=None)))
@example("\ud800")
def test_no_text_message_makes_the_parser_raise(text: str) -> None:
    assert JSON.parse(text)


def test_an_array_of_commands_is_parsed_one_by_one() -> None:
    for count in (1, 16, 4096):
        assert MSGPACK.parse(pack([{"action": "ping"}] * count)) == [Ping()] * count
    assert MSGPACK.parse(b"\xdd\x00\x00\x00\x01" + pack({"action": "ping"})) == [Ping()]
    assert MSGPACK.parse(pack([])) == JSON.parse("[]")
