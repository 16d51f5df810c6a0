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
from analytics_hub.transports._websocket import request
from analytics_hub.transports.websocket import Limits

from ..conformance.client import Reader, Refused
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
        return Identity(id=handshake.token, roles=WRITERS)

    return Hub(CHANNELS, authenticate=authenticate, tuning=FAST, grace=1.0, **options)


@asynccontextmanager
async def open_hub(**options: Any) -> AsyncIterator[tuple[Hub, int]]:
    """A hub and the port that it is served at."""
    async with new_hub() as hub, serving(hub, **options) as port:
        yield hub, port


async def all_disconnected(hub: Hub) -> None:
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


async def test_the_headers_of_a_stream_prevent_caching_and_buffering() -> None:
    async with open_hub() as (_, port), dial(port, "ann", "channels=events,secret,nosuch") as client:
        reader = Reader(client)
        answer = await reader.next("$subscribed")

        assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert client.headers["cache-control"] == "no-store, no-transform"
        assert client.headers["x-accel-buffering"] == "no"
        assert not {"content-length", "transfer-encoding"} & set(client.headers)
        assert client.retry is not None
        assert 500 <= client.retry <= 1000
        assert [item["type"] for item in reader.items] == ["$hello", "$subscribed"]
        assert [channel.get("code") for channel in answer["channels"]] == [None, "forbidden", "unknown-channel"]


async def test_http_1_0_is_served_without_chunks() -> None:
    async with open_hub() as (hub, port), await Peer.connect(port) as peer:
        await peer.send(b"GET /events?channels=events&token=ann HTTP/1.0\r\n\r\n")
        head = await peer.read_head()
        while not hub.statistics().subscriptions:
            await checkpoint()
        hub.publish("events", 1)
        await read_until(peer, b'"data":1}]\n\n')

        assert head.status == 200
        assert "transfer-encoding" not in head.headers


async def test_a_reconnect_with_the_last_id_loses_and_repeats_nothing() -> None:
    """The connection breaks at any byte, also within an event; the last complete one counts."""
    query = "channel=events;last=1000&channels=durable,table"
    seen: dict[str, list[int]] = {"events": [], "durable": []}
    table: dict[str, int] = {}
    cursor, number = "", 0
    async with open_hub() as (hub, port):
        for life in range(12):
            async with dial(port, "ann", query, cursor=cursor) as client:
                reader = Reader(client)
                await reader.next("$subscribed")
                for _ in range(40):
                    number += 1
                    hub.publish("events", {"n": number, "padding": "x" * 300})
                    hub.publish("table", {"k": f"key {number % 7}", "n": number})
                    if life:  # a stream without a cursor starts at the end of a durable channel
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


async def test_channels_that_were_added_by_command_are_resumed_too() -> None:
    async with open_hub() as (hub, port):
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


async def test_a_cursor_of_another_epoch_or_an_invalid_one_begins_with_a_gap() -> None:
    async with open_hub() as (hub, port):
        hub.publish("events", 1)
        for cursor in ("events~7~other.1", "gibberish", "-"):
            async with dial(port, "ann", "channels=events", cursor=cursor) as client:
                reader = await read_seqs(client, "events", 1)

                (gap,) = reader.gaps("events")
                assert (gap["from"], gap["to"], gap["count"]) == (None, None, None)
                assert gap["epoch"]["new"] == hub.statistics().channels["events"].epoch
                assert reader.seqs("events") == [1]
                assert client.cursor.startswith("events~1~")


async def test_heartbeats_are_comments_without_an_id() -> None:
    clock = ManualClock()
    hub = clock.attach(new_hub(clock=clock, wall_clock=clock.wall))
    async with hub, serving(hub) as port, dial(port, "ann", "channels=events") as client:
        await Reader(client).next("$subscribed")
        cursor = client.cursor
        clock.advance(20.5)

        assert await client.receive() == []
        assert client.cursor == cursor


async def test_the_bytes_of_a_listener_are_ignored_and_its_end_is_noticed() -> None:
    async with open_hub() as (hub, port):
        async with await Peer.connect(port) as peer:
            await peer.send(b"GET /events?token=ann HTTP/1.1\r\nHost: h\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 1000)
            await peer.read_head()
            await read_until(peer, b"$hello")
            await peer.send(b"x" * 100_000)
            async with dial(port, "bob"):
                assert hub.statistics().sessions == 2
        await all_disconnected(hub)


async def test_a_cancelled_server_closes_streams_with_1001() -> None:
    with anyio.fail_after(HANG_GUARD):
        async with new_hub() as hub, AsyncExitStack() as stack:
            async with serving(hub) as port:
                client = await stack.enter_async_context(dial(port, "ann"))
                await client.receive()

            assert await Reader(client).closed() == 1001
            await all_disconnected(hub)


@pytest.mark.parametrize(("error", "code"), [(HubClosed("just now"), 1012), (RuntimeError("a bug"), 1011)])
async def test_a_hub_that_refuses_a_session_ends_the_stream(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def connect(*args: object, **options: object) -> None:
        raise error

    async with open_hub() as (hub, port):
        monkeypatch.setattr(hub.gateway, "connect", connect)
        async with dial(port, "ann") as client:
            assert await Reader(client).closed() == code


async def test_a_stream_that_cannot_begin_leaves_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def subscribe(*args: object) -> None:
        raise RuntimeError("a bug")

    async with open_hub() as (hub, port):
        monkeypatch.setattr(hub.gateway, "subscribe", subscribe)
        async with dial(port, "ann", "channels=events") as client:
            assert await Reader(client).closed() == 1011
            await all_disconnected(hub)


async def test_a_stream_over_tls(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    async with open_hub(ssl_context=server_side) as (hub, port), await Peer.connect(port, tls=client_side) as peer:
        await peer.send(b"GET /events?channels=events&token=ann HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await peer.read_head()).status == 200
        while not hub.statistics().subscriptions:
            await checkpoint()
        hub.publish("events", "x" * 20_000)

        assert b"x" * 20_000 in await read_until(peer, b'x"}]\n\n')


async def test_a_stream_over_the_limit_is_told_to_try_again_later() -> None:
    async with open_hub(limits=Limits(max_clients=1)) as (hub, port), dial(port, "ann"):
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


async def test_the_largest_item_fits_a_request_and_more_is_refused() -> None:
    largest = json.dumps({"channel": "events", "data": "é" * 65_000}, ensure_ascii=False).encode()
    async with open_hub() as (hub, port):
        async with connect(port) as exchange:
            assert await exchange.request("POST", "/publish?token=ann", {}, largest) == 200
        async with connect(port) as exchange:
            assert await exchange.request("POST", "/publish?token=ann", {}, b" " * (MAX_BODY + 1)) == 413
            error = json.loads(await exchange.read_body())

        assert error == {
            "error": {"code": "too-large", "message": f"the body is too large; at most {MAX_BODY} bytes are allowed"}
        }
        assert hub.statistics().channels["events"].head == 1


async def test_the_bodies_of_all_requests_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "MAX_HELD", 100_000)
    part = b"POST /publish?token=ann HTTP/1.1\r\nHost: h\r\nContent-Length: 140000\r\n\r\n" + b"x" * 60_000
    async with open_hub() as (hub, port):
        async with await Peer.connect(port) as one, await Peer.connect(port) as other, connect(port) as third:
            await one.send(part)
            await other.send(part)
            while not hub.statistics().counters.get("refused-crowded"):
                await checkpoint()
            assert await third.request("GET", "/healthz", {}) == 200
        status = 503
        while status == 503:  # until the server has noticed that the others have left
            async with connect(port) as exchange:
                status = await exchange.request("POST", "/publish?token=ann", {}, b" " * 60_000)

        assert status == 400


async def test_a_request_that_takes_too_long_is_a_timeout_and_does_not_delay_health() -> None:
    async def authenticate(handshake: Handshake) -> Identity:
        called.set()
        await anyio.sleep_forever()
        raise AssertionError

    clock, called = Clock(), anyio.Event()
    statuses: list[int] = []

    async def send(method: str, path: str) -> int:
        async with connect(port) as exchange:
            status = await exchange.request(method, path, {}, b"{}")
            if path != "/healthz":
                statuses.append(status)
            return status

    async with (
        Hub(CHANNELS, authenticate=authenticate) as hub,
        serving(hub, clock=clock, limits=Limits(max_checks=1)) as port,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(send, "POST", "/publish")
        await called.wait()
        tasks.start_soon(send, "GET", "/events")
        assert await send("GET", "/healthz") == 200
        clock.now += 5.1
        while len(statuses) < 2:
            await send("GET", "/healthz")  # so that the loop checks the clock

        assert sorted(statuses) == [503, 504]
        assert hub.statistics().counters["check-timeout"] == 1
        assert hub.statistics().counters["handshake-timeout"] == 1


async def test_a_server_may_leave_out_the_hubs_own_paths() -> None:
    async with open_hub(has_endpoints=False) as (_, port), connect(port) as exchange:
        assert await exchange.request("GET", "/healthz", {}) == 404
