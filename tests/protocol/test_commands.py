from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from analytics_hub.protocol import (
    MAX_COMMANDS,
    Auth,
    CommandId,
    InvalidCommand,
    Ping,
    Position,
    Selection,
    Subscribe,
    Timestamps,
    Unsubscribe,
    control_item,
    encode,
    name_in_error,
    parse_json,
)

DEPTH = 100_000  # beyond what any version of Python recurses to in C


def refuse(data: str | bytes) -> InvalidCommand:
    """The one refusal of `data`."""
    (refused,) = parse_json(data)
    assert isinstance(refused, InvalidCommand), refused
    return refused


def test_every_command_is_parsed() -> None:
    text = """[{"action":"subscribe","id":7,"channels":["a",{"channel":"b","snapshot":true},
        {"channel":"c","since":{"epoch":"e","seq":9}},{"channel":"d","last":3,"max_hz":0.5}]},
        {"action":"unsubscribe","id":"x","channels":["a"]},{"action":"auth","token":"t"},{"action":"ping","id":1.5}]"""

    assert parse_json(text) == [
        Subscribe(
            id=7,
            channels=[
                "a",
                Selection("b", snapshot=True),
                Selection("c", since=Position("e", 9)),
                Selection("d", last=3, max_hz=0.5),
            ],
        ),
        Unsubscribe(id="x", channels=["a"]),
        Auth(token="t"),
        Ping(id=1.5),
    ]


def test_a_frame_may_be_one_command_with_white_space() -> None:
    assert parse_json(' \t\r\n{"action":"ping"} \n') == [Ping()]


def test_start_options_are_counted() -> None:
    assert Selection("a").start_options == 0
    assert Selection("a", last=0).start_options == 1
    assert Selection("a", snapshot=True, last=0, since=Position("e", 0)).start_options == 3


def test_repr_does_not_show_the_token() -> None:
    assert "secret" not in repr(Auth(id=1, token="secret"))


@pytest.mark.parametrize(
    "text", ["", " ", "{", "nonsense", '{"action":"ping"', '{"action":"ping"}x', "[", "[1,]", "\x00"]
)
def test_malformed_json_is_a_bad_request(text: str) -> None:
    assert refuse(text).code == "bad-request"


@pytest.mark.parametrize("text", ["5", '"ping"', "null", "true", "[5]", "[[]]"])
def test_a_value_that_is_not_an_object_is_a_bad_request(text: str) -> None:
    refused = refuse(text)

    assert refused.code == "bad-request"
    assert "Expected `object`" in refused.message


def test_an_empty_array_is_a_bad_request() -> None:
    assert refuse("[]") == InvalidCommand("bad-request", "an empty array of commands; send an object with an action")


def test_a_binary_message_is_a_bad_request() -> None:
    assert refuse(b'{"action":"ping"}') == InvalidCommand(
        "bad-request", "a binary message on a JSON session; send text"
    )


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"action": "ping", "extra": 1}, "extra"),
        ({"action": "subscribe"}, "channels"),
        ({"action": "subscribe", "channels": "a"}, "$.channels"),
        ({"action": "subscribe", "channels": []}, "$.channels"),
        ({"action": "unsubscribe", "channels": []}, "$.channels"),
        ({"action": "subscribe", "channels": [5]}, "$.channels[...]"),
        ({"action": "unsubscribe", "channels": [{"channel": "a"}]}, "$.channels[...]"),
        ({"action": "subscribe", "channels": [{"channel": "a", "lsat": 5}]}, "lsat"),
        ({"action": "subscribe", "channels": [{"channel": "a", "last": -1}]}, "$.channels[...].last"),
        ({"action": "subscribe", "channels": [{"channel": "a", "last": 2**53}]}, "$.channels[...].last"),
        ({"action": "subscribe", "channels": [{"channel": "a", "max_hz": 0}]}, "$.channels[...].max_hz"),
        ({"action": "subscribe", "channels": [{"channel": "a", "max_hz": 1001}]}, "$.channels[...].max_hz"),
        ({"action": "subscribe", "channels": [{"channel": "a", "since": 5}]}, "$.channels[...].since"),
        ({"action": "subscribe", "channels": [{"channel": "a", "since": {"epoch": "e", "seq": -1}}]}, "since.seq"),
        ({"action": "subscribe", "channels": [{"channel": "a", "since": {"epoch": "e" * 129, "seq": 1}}]}, "epoch"),
        ({"action": "auth"}, "token"),
        ({"action": "auth", "token": 5}, "$.token"),
        ({"action": "ping", "id": "x" * 129}, "$.id"),
        ({"action": "ping", "id": []}, "$.id"),
    ],
)
def test_an_unknown_or_invalid_field_is_named(fields: dict[str, Any], place: str) -> None:
    refused = refuse(json.dumps(fields))

    assert refused.code == "bad-request"
    assert place in refused.message.replace("[0]", "[...]")


@pytest.mark.parametrize("fields", [{"action": "dance"}, {"action": 5}, {"action": None}])
def test_an_unknown_action_is_answered_with_the_known_actions(fields: dict[str, Any]) -> None:
    refused = refuse(json.dumps({**fields, "id": 3}))

    assert refused.code == "unknown-action"
    assert refused.message.endswith("the actions are subscribe, unsubscribe, auth, ping, seen")
    assert refused.id == 3


@pytest.mark.parametrize(("id", "found"), [(4, 4), ("x", "x"), (0.5, 0.5), (None, None), ([], None), ("x" * 129, None)])
def test_a_refusal_echoes_the_id_if_it_can_be_read(id: object, found: CommandId) -> None:
    assert refuse(json.dumps({"action": "subscribe", "id": id})).id == found


def test_the_commands_of_a_frame_are_limited() -> None:
    command = '{"action":"ping"}'

    assert parse_json(f"[{','.join([command] * MAX_COMMANDS)}]") == [Ping()] * MAX_COMMANDS
    assert refuse(f"[{','.join([command] * (MAX_COMMANDS + 1))}]") == InvalidCommand(
        "bad-request", "4097 commands in one frame; the limit is 4096"
    )


def test_an_invalid_command_of_an_array_does_not_affect_the_others() -> None:
    first, second, third = parse_json('[{"action":"ping","id":1},{"action":"dance","id":2},{"action":"ping","id":3}]')

    assert (first, third) == (Ping(id=1), Ping(id=3))
    assert isinstance(second, InvalidCommand)


@pytest.mark.parametrize(
    "text",
    [
        '{"action":"ping","id":' + "[" * DEPTH + "]" * DEPTH + "}",
        "[" * DEPTH + "]" * DEPTH,
        '{"action":' + "[" * DEPTH + "]" * DEPTH + "}",
        '{"action":"subscribe","channels":' + '{"a":' * DEPTH + "1" + "}" * DEPTH + "}",
    ],
)
def test_a_nesting_bomb_is_a_bad_request(text: str) -> None:
    refused = refuse(text)

    assert refused.code == "bad-request"
    assert refused.id is None


def test_deep_nesting_has_a_message_of_its_own() -> None:
    assert refuse("[" * DEPTH + "]" * DEPTH).message == "the message is nested too deeply"


def test_a_lone_surrogate_is_a_bad_request() -> None:
    assert refuse('{"action":"ping","id":"\ud800"}').message == "the text is not valid UTF-8"


@pytest.mark.parametrize("wall", [0.0, 1_700_000_000.0, 1_700_000_000.9994, 1_768_818_645.16])
def test_timestamps_are_rfc_3339(wall: float) -> None:
    text = Timestamps().format(wall)

    assert text.endswith("Z")
    assert len(text) == len("2026-01-19T10:30:45.160Z")
    assert 0 <= wall - datetime.fromisoformat(text).timestamp() < 0.0011


def test_timestamps_follow_the_clock_in_both_directions() -> None:
    timestamps = Timestamps()

    texts = [timestamps.format(wall) for wall in (59.25, 59.5, 60.0, 59.75)]

    assert texts == [
        "1970-01-01T00:00:59.250Z",
        "1970-01-01T00:00:59.500Z",
        "1970-01-01T00:01:00.000Z",
        "1970-01-01T00:00:59.750Z",
    ]
    assert datetime.fromisoformat(texts[0]).tzinfo == UTC


def test_a_control_item_has_type_timestamp_and_fields() -> None:
    assert json.loads(control_item("$pong", "now", id=None)) == {"type": "$pong", "timestamp": "now", "id": None}
    assert encode({"a": [1, "x"]}) == b'{"a":[1,"x"]}'


def test_a_name_in_an_error_is_shortened_if_it_cannot_be_one() -> None:
    assert name_in_error("x" * 255) == "x" * 255
    assert len(name_in_error("x" * 256)) < 270
    assert "..." in name_in_error("x" * 1_000_000)
