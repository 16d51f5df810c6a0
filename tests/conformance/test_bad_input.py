"""Bad input is answered with an error that names the mistake, and ends the connection only where it must."""

from __future__ import annotations

import json

import pytest

from analytics_hub import Tuning

from .client import TransportUnderTest
from .harness import serving

pytestmark = pytest.mark.anyio

BAD = {
    "not JSON": ("{", "bad-request"),
    "empty": ("", "bad-request"),
    "a word": ("hello", "bad-request"),
    "a number": ("17", "bad-request"),
    "null": ("null", "bad-request"),
    "an array of numbers": ("[1]", "bad-request"),
    "an empty array": ("[]", "bad-request"),
    "no action": ("{}", "bad-request"),
    "unknown action": ('{"action":"shutdown"}', "unknown-action"),
    "an action that is a number": ('{"action":7}', "unknown-action"),
    "unknown field": ('{"action":"ping","colour":"red"}', "bad-request"),
    "channels missing": ('{"action":"subscribe"}', "bad-request"),
    "channels that are a text": ('{"action":"subscribe","channels":"routing"}', "bad-request"),
    "an empty list of channels": ('{"action":"subscribe","channels":[]}', "bad-request"),
    "a channel that is a number": ('{"action":"subscribe","channels":[1]}', "bad-request"),
    "a channel that is null": ('{"action":"unsubscribe","channels":[null]}', "bad-request"),
    "an unknown option": ('{"action":"subscribe","channels":[{"channel":"routing","form":1}]}', "bad-request"),
    "an option of another type": (
        '{"action":"subscribe","channels":[{"channel":"routing","last":"3"}]}',
        "bad-request",
    ),
    "a negative count": ('{"action":"subscribe","channels":[{"channel":"routing","last":-1}]}', "bad-request"),
    "a pace of zero": ('{"action":"subscribe","channels":[{"channel":"routing","max_hz":0}]}', "bad-request"),
    "a position without epoch": (
        '{"action":"subscribe","channels":[{"channel":"a","since":{"seq":1}}]}',
        "bad-request",
    ),
    "a token that is an object": ('{"action":"auth","token":{"a":1}}', "bad-request"),
    "an id that is an object": ('{"action":"ping","id":{}}', "bad-request"),
    "20000 digits": ('{"action":"ping","id":' + "9" * 20_000 + "}", "bad-request"),
    "a nesting bomb": ("[" * 30_000, "bad-request"),
    "a nesting bomb in a field": ('{"action":' + "[" * 30_000 + "]" * 30_000 + "}", "unknown-action"),
    "a lone surrogate": ('{"action":"\\ud800"}', "unknown-action"),
}


@pytest.mark.parametrize(("text", "code"), BAD.values(), ids=BAD.keys())
async def test_bad_input_is_answered_and_the_connection_stays_open(
    transport: TransportUnderTest, text: str, code: str
) -> None:
    async with serving(transport) as served, served.reader("routing") as reader:
        await reader.client.send_raw(text)
        error = await reader.next("$error")
        served.hub.publish("routing", "still here")
        await reader.reach("routing", 1)

        assert error["code"] in {code, "bad-request"}
        assert error["message"]
        assert error["retry"] == "never"
        assert len(json.dumps(error)) < 1000
        assert reader.data("routing") == ["still here"]


async def test_a_binary_frame_on_a_json_session_is_answered(transport: TransportUnderTest) -> None:
    if not transport.abilities.has_binary:
        pytest.skip("this transport has no binary frames")
    async with serving(transport) as served, served.reader() as reader:
        await reader.client.send_raw(b'{"action":"ping"}')
        error = await reader.next("$error")
        await reader.ping()

        assert error["code"] == "bad-request"
        assert "binary" in error["message"]


async def test_the_valid_commands_of_a_mixed_frame_are_carried_out(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        await reader.client.send_raw('[{"action":"ping","id":1},{"action":"dance"},7,{"action":"ping","id":2}]')
        await reader.until(lambda item: item.get("id") == 2)

        assert [item["type"] for item in reader.items[1:]] == ["$pong", "$error", "$error", "$pong"]


async def test_ten_malformed_commands_in_a_row_end_the_connection(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader() as reader:
        await reader.client.send(*[{"action": "nonsense"}] * 9)
        await reader.ping()
        await reader.client.send(*[{"action": "nonsense"}] * 10)
        code = await reader.closed()

        assert code == 4400
        assert len(reader.control("$error")) == 19
        assert served.hub.statistics().counters["closed-4400"] == 1


async def test_a_client_far_over_the_command_rate_is_closed(transport: TransportUnderTest) -> None:
    async with (
        serving(transport, tuning=Tuning(command_rate=5), manual=True) as served,
        served.reader() as reader,
        served.reader("routing") as neighbour,
    ):
        await reader.client.send_raw("[" + ",".join(['{"action":"ping"}'] * 1100) + "]")
        code = await reader.closed()
        served.hub.publish("routing", "undisturbed")
        await neighbour.reach("routing", 1)

        assert code == 4429
        assert neighbour.data("routing") == ["undisturbed"]
