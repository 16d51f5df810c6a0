"""`HubClient` is cancelled at every checkpoint of its tasks, and `HubPublisher` interrupted in every call."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Hub
from analytics_hub.client import Gap, HubClient, HubPublisher
from analytics_hub.transports.websocket import serve

from ..hub.rig import HANG
from .leftovers import Sweeper, is_served_once, kept_for_clients
from .rig import patient_hub
from .sweep import cancel_everywhere

pytestmark = pytest.mark.anyio

T = TypeVar("T")


async def patient_token() -> str:
    await checkpoint()
    return "right"


@dataclass
class Server:
    """A hub with a server that keeps running; only the client is cancelled."""

    hub: Hub
    port: int

    def client(self, **options: Any) -> HubClient:
        token: Any = patient_token
        return HubClient(f"ws://127.0.0.1:{self.port}", **{"token": token, "jitter": lambda: 0.0} | options)

    def publisher(self) -> HubPublisher:
        return HubPublisher(f"http://127.0.0.1:{self.port}", "right")


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    with anyio.fail_after(2 * HANG):
        async with patient_hub() as hub, anyio.create_task_group() as group:
            port = await group.start(lambda task_status: serve(hub, port=0, task_status=task_status))
            await is_served_once(hub)
            yield Server(hub, port)
            await hub.shutdown(0.0)
            group.cancel_scope.cancel()


async def sweep(server: Server, work: Callable[[], Any]) -> int:
    """Cancel `work` at each of its checkpoints; returns their number."""

    async def check() -> None:
        await sweeper.sweep()
        await is_served_once(server.hub)

    await work()  # uvloop opens a file descriptor with the first stream
    sweeper = Sweeper(lambda: kept_for_clients(server.hub))
    return await cancel_everywhere(work, check)


async def test_connecting_and_leaving() -> None:
    async def work() -> None:
        async with server.client(token_in="message") as client:
            assert client.state == "open"

    async with serving() as server:
        assert await sweep(server, work) > 15


async def test_subscribing_and_reading() -> None:
    """With a slow reader, for which the channel is stopped and resumed, and a token that is renewed."""

    async def work() -> None:
        async with server.client() as client, client.subscribe("events", last=1) as events:
            async with client.subscribe("durable", buffer=1) as durable:
                for number in range(3):
                    server.hub.publish("durable", number)
                for _ in range(3):
                    await anext(durable)
            await anext(events)
            await client.refresh()

    async with serving() as server:
        server.hub.publish("events", "kept")
        assert await sweep(server, work) > 30


async def test_a_subscription_of_a_client_that_stays() -> None:
    """Afterwards the channel can be subscribed to again."""

    async def work() -> None:
        async with client.subscribe("events", last=1) as events:
            await anext(events)

    async def check() -> None:
        while server.hub.statistics().subscriptions:
            await checkpoint()
        await sweeper.sweep()

    async with serving() as server:
        server.hub.publish("events", "kept")
        async with server.client() as client:
            sweeper = Sweeper()
            assert await cancel_everywhere(work, check) >= 3
            async with client.subscribe("events", last=1) as events:
                assert getattr(await anext(events), "data", None) == "kept"


async def test_reconnecting() -> None:
    """The server ends the connection; the client requests a token again, connects and resumes."""

    async def work() -> None:
        async with server.client() as client, client.subscribe("events") as events:
            server.hub.publish("events", 1)
            await anext(events)
            for session in server.hub.sessions:
                session.transport.close(1001, "gone")
            while server.hub.sessions:
                await checkpoint()
            server.hub.publish("events", 2)
            value = await anext(events)
            assert not isinstance(value, Gap)
            assert value.data == 2

    async with serving() as server:
        assert await sweep(server, work) > 30


async def test_connecting_without_a_server() -> None:
    async def work() -> None:
        with anyio.move_on_after(HANG) as scope:
            async with HubClient(f"ws://127.0.0.1:{port}", on_event=lambda event: scope.cancel()):
                pass
        assert scope.cancelled_caught

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with serving() as server:
        assert await sweep(server, work) >= 3


# --- the publisher is synchronous: Ctrl-C during a call

CALLS: Final = (
    (HTTPConnection, "connect"),
    (HTTPConnection, "request"),
    (HTTPConnection, "getresponse"),
    (HTTPResponse, "read"),
)


@contextmanager
def interrupted_at(number: int) -> Iterator[list[str]]:
    """Raise `KeyboardInterrupt` before or after a call that waits for the network; yields the calls so far."""
    calls: list[str] = []

    def record(name: str) -> None:
        calls.append(name)
        if len(calls) == number:
            raise KeyboardInterrupt

    def recorded(name: str, call: Callable[..., T]) -> Callable[..., T]:
        def wrapper(*arguments: Any, **options: Any) -> T:
            record(f"before {name}")
            result = call(*arguments, **options)
            record(f"after {name}")
            return result

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, recorded(name, getattr(owner, name)))
        yield calls


async def test_a_publisher() -> None:
    """No file descriptor outlives the call, and none is left to the garbage collector."""

    def publish() -> bool:
        try:
            with server.publisher() as publisher:
                publisher.publish("durable", 1)
        except KeyboardInterrupt:
            return True
        return False

    async with serving() as server:
        assert not await anyio.to_thread.run_sync(publish)
        sweeper = Sweeper(lambda: kept_for_clients(server.hub))
        was_interrupted = True
        calls: list[str] = []
        number = 0
        while was_interrupted:
            number += 1
            with interrupted_at(number) as made:
                was_interrupted = await anyio.to_thread.run_sync(publish)
            calls = made
            await sweeper.sweep()
            await is_served_once(server.hub)
        gc.collect()

    assert len(calls) == 2 * len(CALLS)
