"""Event streams and requests to the hub itself over real sockets of the native transport."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import AuthenticationError, Channel, Handshake, Hub, HubClosed, Identity, Tuning
from analytics_hub.http import MAX_BODY
from analytics_hub.testing import ManualClock
from analytics_hub.transports._websocket import request as incoming
from analytics_hub.transports.websocket import Limits

from ..conformance.client import Closed, Reader, Refused
from ..conformance.sse import EventClient, connect, dial
from .peer import HANG_GUARD, Clock, Peer, serving

pytestmark = pytest.mark.anyio

WRITERS = frozenset({"writer"})
CHANNELS = (
    Channel("events", publishers=WRITERS),
    Channel("table", mode="table", key="k"),
    Channel("durable", mode="durable", keep_items=5),
    Channel("secret", roles=frozenset({"admin"})),
)
FAST = Tuning(interval=0.001, rate=None, max_item_bytes=128 * 1024)


def new_hub(**options: Any) -> Hub:
    def authenticate(handshake: Handshake) -> Identity:
        if handshake.token is None:
            raise AuthenticationError("missing")
        expires = started + 100 if handshake.token == "brief" else None
        return Identity(id=handshake.token, roles=WRITERS, expires=expires)

    clock = options.get("clock")
    started = clock.wall() if isinstance(clock, ManualClock) else 0.0
    return Hub(CHANNELS, authenticate=authenticate, tuning=FAST, grace=1.0, **options)


@asynccontextmanager
async def open_house(**options: Any) -> AsyncIterator[tuple[Hub, int]]:
    """A hub and the port where it is served."""
    async with new_hub() as hub, serving(hub, **options) as port:
        yield hub, port


async def gone(hub: Hub) -> None:
    while hub.statistics().sessions:
        await checkpoint()


async def read_seqs(client: EventClient, channel: str, up_to: int) -> Reader:
    reader = Reader(client)
    await reader.reach(channel, up_to)
    return reader


async def read_until(peer: Peer, end: bytes) -> bytes:
    data = bytearray()
    while not data.endswith(end):
        data += await peer.read(1)
    return bytes(data)


async def test_the_head_keeps_caches_and_proxies_away() -> None:
    async with open_house() as (_, port), dial(port, "ann", "channels=events,secret,nosuch") as client:
        reader = Reader(client)
        answer = await reader.next("$subscribed")

        assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert client.headers["cache-control"] == "no-store"
        assert client.headers["x-accel-buffering"] == "no"
        assert not {"content-length", "transfer-encoding"} & set(client.headers)
        assert client.retry is not None
        assert 500 <= client.retry <= 1000
        assert [item["type"] for item in reader.items] == ["$hello", "$subscribed"]
        assert [channel.get("code") for channel in answer["channels"]] == [None, "forbidden", "unknown-channel"]


async def test_a_client_of_the_last_century_is_served_too() -> None:
    async with open_house() as (hub, port), await Peer.connect(port) as peer:
        await peer.send(b"GET /events?channels=events&token=ann HTTP/1.0\r\n\r\n")
        head = await peer.read_head()
        while not hub.statistics().subscriptions:
            await checkpoint()
        hub.publish("events", 1)
        await read_until(peer, b'"data":1}]\n\n')

        assert head.status == 200
        assert "transfer-encoding" not in head.headers


async def test_whoever_comes_back_with_the_last_id_has_lost_nothing_and_gets_nothing_twice() -> None:
    """The connection is cut wherever it is, also within an event; the last whole one counts."""
    query = "channel=events;last=1000&channels=durable,table"
    seen: dict[str, list[int]] = {"events": [], "durable": []}
    table: dict[str, int] = {}
    cursor, number = "", 0
    async with open_house() as (hub, port):
        for life in range(12):
            async with dial(port, "ann", query, cursor=cursor) as client:
                reader = Reader(client)
                await reader.next("$subscribed")
                for _ in range(40):
                    number += 1
                    hub.publish("events", {"n": number, "padding": "x" * 300})
                    hub.publish("table", {"k": f"key {number % 7}", "n": number})
                    if life:  # a stream that knows nothing yet starts at the end of a durable channel
                        await hub.publish_confirmed("durable", number)
                for _ in range(life % 4):
                    await reader.until(lambda item: "seq" in item)
                if life == 11:
                    await reader.reach("events", number)
                    await reader.reach("durable", number - 41)
                    await reader.reach("table", number)
                cursor = client.cursor
                assert reader.control("$gap") == []
                for channel, numbers in seen.items():
                    numbers += reader.seqs(channel)
                table |= {item["key"]: item["data"]["n"] for item in reader.of("table")}
                await client.vanish()
            number += 1
            hub.publish("events", {"n": number})
            hub.publish("table", {"k": f"key {number % 7}", "n": number})
            if life:
                await hub.publish_confirmed("durable", number)
            if life == 11:
                number -= 1

    assert seen["events"] == list(range(1, number + 1))
    assert seen["durable"] == list(range(1, number - 40))
    assert table == {f"key {n % 7}": n for n in range(number - 6, number + 1)}


async def test_channels_that_were_added_by_command_are_resumed_as_well() -> None:
    async with open_house() as (hub, port):
        async with dial(port, "ann", "channels=events") as client:
            reader = Reader(client)
            await reader.subscribe("durable")
            await hub.publish_confirmed("durable", 1)
            await reader.reach("durable", 1)
            cursor = client.cursor
        await hub.publish_confirmed("durable", 2)
        async with dial(port, "ann", "channels=events", cursor=cursor) as client:
            reader = await read_seqs(client, "durable", 2)

            (answer,) = reader.control("$subscribed")
            assert [(one["channel"], one["recovered"]) for one in answer["channels"]] == [
                ("events", True),
                ("durable", True),
            ]
            assert reader.seqs("durable") == [2]


async def test_a_cursor_of_another_life_or_of_nobody_begins_with_a_gap() -> None:
    async with open_house() as (hub, port):
        hub.publish("events", 1)
        for cursor in ("events~7~otherlife.1", "gibberish", "-"):
            async with dial(port, "ann", "channels=events", cursor=cursor) as client:
                reader = await read_seqs(client, "events", 1)

                (gap,) = reader.gaps("events")
                assert (gap["from"], gap["to"], gap["count"]) == (None, None, None)
                assert gap["epoch"]["new"] == hub.statistics().channels["events"].epoch
                assert reader.seqs("events") == [1]
                assert client.cursor.startswith("events~1~")


async def test_silence_is_filled_with_comments() -> None:
    clock = ManualClock()
    hub = clock.attach(new_hub(clock=clock, wall_clock=clock.wall))
    async with hub, serving(hub) as port, dial(port, "ann", "channels=events") as client:
        await Reader(client).next("$subscribed")
        cursor = client.cursor
        clock.advance(20.5)

        assert await client.receive() == []
        assert client.cursor == cursor


async def test_a_token_that_runs_out_ends_the_stream_and_the_next_attempt() -> None:
    """By a status, which is the only word that stops an `EventSource`."""
    clock = ManualClock()
    hub = clock.attach(new_hub(clock=clock, wall_clock=clock.wall))
    async with hub, serving(hub) as port:
        async with dial(port, "brief", "channels=events") as client:
            reader = Reader(client)
            await reader.next("$subscribed")
            clock.advance(71)
            await reader.next("$expiring")
            clock.advance(30)
            assert await reader.closed() == 4401
            with pytest.raises(Closed):
                await client.receive()
        with pytest.raises(Refused) as refused:
            async with dial(port, "brief", "channels=events", cursor=client.cursor):
                pass

        assert refused.value.status == 401


async def test_what_a_listener_sends_is_passed_over_and_its_end_is_noticed() -> None:
    async with open_house() as (hub, port):
        async with await Peer.connect(port) as peer:
            await peer.send(b"GET /events?token=ann HTTP/1.1\r\nHost: h\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 1000)
            await peer.read_head()
            await read_until(peer, b"$hello")
            await peer.send(b"x" * 100_000)
            async with dial(port, "bob"):
                assert hub.statistics().sessions == 2
        await gone(hub)


async def test_a_server_that_is_cancelled_says_so() -> None:
    with anyio.fail_after(HANG_GUARD):
        async with new_hub() as hub, AsyncExitStack() as stack:
            async with serving(hub) as port:
                client = await stack.enter_async_context(dial(port, "ann"))
                await client.receive()

            assert await Reader(client).closed() == 1001
            await gone(hub)


@pytest.mark.parametrize(("error", "code"), [(HubClosed("just now"), 1012), (RuntimeError("a bug"), 1011)])
async def test_a_hub_that_takes_nobody_ends_the_stream(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def connect(*args: object, **options: object) -> None:
        raise error

    async with open_house() as (hub, port):
        monkeypatch.setattr(hub, "connect", connect)
        async with dial(port, "ann") as client:
            assert await Reader(client).closed() == code


async def test_a_stream_that_cannot_begin_leaves_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive_data(*args: object) -> None:
        raise RuntimeError("a bug")

    async with open_house() as (hub, port):
        monkeypatch.setattr(hub, "receive_data", receive_data)
        async with dial(port, "ann", "channels=events") as client:
            assert await Reader(client).closed() == 1011
            await gone(hub)


async def test_a_stream_over_tls(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    async with open_house(ssl_context=server_side) as (hub, port), await Peer.connect(port, tls=client_side) as peer:
        await peer.send(b"GET /events?channels=events&token=ann HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await peer.read_head()).status == 200
        while not hub.statistics().subscriptions:
            await checkpoint()
        hub.publish("events", "x" * 20_000)

        assert b"x" * 20_000 in await read_until(peer, b'x"}]\n\n')


async def test_one_too_many_is_told_to_come_again() -> None:
    async with open_house(limits=Limits(max_clients=1)) as (hub, port), dial(port, "ann"):
        with pytest.raises(Refused) as refused:
            async with dial(port, "bob"):
                pass
        async with await Peer.connect(port) as peer:
            await peer.send(b"GET /events?token=eve HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n")
            browser = await peer.read_answer()

        assert refused.value.status == 503
        assert browser.status == 200
        assert b'"code":1013' in browser.body
        assert b"retry: " in browser.body
        assert hub.statistics().sessions == 1


async def test_the_largest_item_fits_a_request_and_more_is_refused_in_json() -> None:
    largest = json.dumps({"channel": "events", "data": "é" * 65_000}, ensure_ascii=False).encode()
    async with open_house() as (hub, port):
        async with connect(port) as exchange:
            assert await exchange.ask("POST", "/publish?token=ann", {}, largest) == 200
        async with connect(port) as exchange:
            assert await exchange.ask("POST", "/publish?token=ann", {}, b" " * (MAX_BODY + 1)) == 413
            error = json.loads(await exchange.read_to_the_end())

        assert error == {"error": {"code": "too-large", "message": f"a body may have {MAX_BODY} bytes"}}
        assert hub.statistics().channels["events"].head == 1


async def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MAX_HELD", 100_000)
    part = b"POST /publish?token=ann HTTP/1.1\r\nHost: h\r\nContent-Length: 140000\r\n\r\n" + b"x" * 60_000
    async with open_house() as (hub, port):
        async with await Peer.connect(port) as one, await Peer.connect(port) as other, connect(port) as third:
            await one.send(part)
            await other.send(part)
            while not hub.statistics().counters.get("refused-crowded"):
                await checkpoint()
            assert await third.ask("GET", "/healthz", {}) == 200
        status = 503
        while status == 503:  # until the server has noticed that they have gone
            async with connect(port) as exchange:
                status = await exchange.ask("POST", "/publish?token=ann", {}, b" " * 60_000)

        assert status == 400


async def test_what_takes_too_long_is_given_up_and_health_does_not_wait_behind_it() -> None:
    async def authenticate(handshake: Handshake) -> Identity:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    clock, asked = Clock(), anyio.Event()
    statuses: list[int] = []

    async def ask(method: str, path: str) -> int:
        async with connect(port) as exchange:
            status = await exchange.ask(method, path, {}, b"{}")
            if path != "/healthz":
                statuses.append(status)
            return status

    async with (
        Hub(CHANNELS, authenticate=authenticate) as hub,
        serving(hub, clock=clock, limits=Limits(max_checks=1)) as port,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ask, "POST", "/publish")
        await asked.wait()
        tasks.start_soon(ask, "GET", "/events")
        assert await ask("GET", "/healthz") == 200
        clock.now += 5.1
        while len(statuses) < 2:
            await ask("GET", "/healthz")  # so that the loop looks at the clock

        assert sorted(statuses) == [503, 504]
        assert hub.statistics().counters["check-timeout"] == 1
        assert hub.statistics().counters["handshake-timeout"] == 1


async def test_a_server_may_keep_these_paths_to_itself() -> None:
    async with open_house(has_endpoints=False) as (_, port), connect(port) as exchange:
        assert await exchange.ask("GET", "/healthz", {}) == 404
