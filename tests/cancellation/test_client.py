"""`HubClient` may be cancelled at every wait of its tasks, and `HubPublisher` interrupted in every call."""

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
class House:
    """A hub with a server that stays; only what the client does is cancelled."""

    hub: Hub
    port: int

    def client(self, **options: Any) -> HubClient:
        token: Any = patient_token
        return HubClient(f"ws://127.0.0.1:{self.port}", **{"token": token, "jitter": lambda: 0.0} | options)

    def publisher(self) -> HubPublisher:
        return HubPublisher(f"http://127.0.0.1:{self.port}", "right")


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    with anyio.fail_after(2 * HANG):
        async with patient_hub() as hub, anyio.create_task_group() as group:
            port = await group.start(lambda task_status: serve(hub, port=0, task_status=task_status))
            await is_served_once(hub)
            yield House(hub, port)
            await hub.shutdown(0.0)
            group.cancel_scope.cancel()


async def sweep(home: House, work: Callable[[], Any]) -> int:
    """Cancel `work` at each wait; how many there are."""

    async def check() -> None:
        await sweeper.sweep()
        await is_served_once(home.hub)

    await work()  # uvloop opens a descriptor of its own with the first stream
    sweeper = Sweeper(lambda: kept_for_clients(home.hub))
    return await cancel_everywhere(work, check)


async def test_connecting_and_leaving() -> None:
    async def work() -> None:
        async with home.client(token_in="message") as client:
            assert client.state == "open"

    async with house() as home:
        assert await sweep(home, work) > 15


async def test_subscribing_and_reading() -> None:
    """With a reader that is so slow that its channel is stopped and taken up again, and a token that is renewed."""

    async def work() -> None:
        async with home.client() as client, client.subscribe("events", last=1) as events:
            async with client.subscribe("durable", buffer=1) as durable:
                for number in range(3):
                    home.hub.publish("durable", number)
                for _ in range(3):
                    await anext(durable)
            await anext(events)
            await client.refresh()

    async with house() as home:
        home.hub.publish("events", "kept")
        assert await sweep(home, work) > 30


async def test_a_subscription_of_a_client_that_stays() -> None:
    """The channel is free again for the next one, and nothing more of it comes."""

    async def work() -> None:
        async with client.subscribe("events", last=1) as events:
            await anext(events)

    async def check() -> None:
        while home.hub.statistics().subscriptions:
            await checkpoint()
        await sweeper.sweep()

    async with house() as home:
        home.hub.publish("events", "kept")
        async with home.client() as client:
            sweeper = Sweeper()
            assert await cancel_everywhere(work, check) >= 3
            async with client.subscribe("events", last=1) as events:
                assert getattr(await anext(events), "data", None) == "kept"


async def test_coming_back() -> None:
    """The server ends the connection; the client asks for a token again, connects and resumes."""

    async def work() -> None:
        async with home.client() as client, client.subscribe("events") as events:
            home.hub.publish("events", 1)
            await anext(events)
            for session in home.hub.sessions:
                session.peer.hang_up(reset=True)
            while home.hub.sessions:
                await checkpoint()
            home.hub.publish("events", 2)
            value = await anext(events)
            assert not isinstance(value, Gap)
            assert value.data == 2

    async with house() as home:
        assert await sweep(home, work) > 30


async def test_a_server_that_is_not_there() -> None:
    async def work() -> None:
        with anyio.move_on_after(HANG) as scope:
            async with HubClient(f"ws://127.0.0.1:{port}", on_event=lambda event: scope.cancel()):
                pass
        assert scope.cancelled_caught

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with house() as home:
        assert await sweep(home, work) >= 3


# --- the publisher, which is synchronous: Ctrl-C in the middle of a call

CALLS: Final = (
    (HTTPConnection, "connect"),
    (HTTPConnection, "request"),
    (HTTPConnection, "getresponse"),
    (HTTPResponse, "read"),
)


@contextmanager
def interrupted_at(number: int) -> Iterator[list[str]]:
    """Raise `KeyboardInterrupt` before or after a call that waits for the network; yields those that were made."""
    made: list[str] = []

    def note(name: str) -> None:
        made.append(name)
        if len(made) == number:
            raise KeyboardInterrupt

    def noted(name: str, call: Callable[..., T]) -> Callable[..., T]:
        def noting(*arguments: Any, **options: Any) -> T:
            note(f"before {name}")
            result = call(*arguments, **options)
            note(f"after {name}")
            return result

        return noting

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, noted(name, getattr(owner, name)))
        yield made


async def test_a_publisher() -> None:
    """No descriptor outlives the call, and none is left to the garbage collector."""

    def publish() -> bool:
        try:
            with home.publisher() as publisher:
                publisher.publish("durable", 1)
        except KeyboardInterrupt:
            return True
        return False

    async with house() as home:
        assert not await anyio.to_thread.run_sync(publish)
        sweeper = Sweeper(lambda: kept_for_clients(home.hub))
        was_interrupted = True
        calls: list[str] = []
        number = 0
        while was_interrupted:
            number += 1
            with interrupted_at(number) as made:
                was_interrupted = await anyio.to_thread.run_sync(publish)
            calls = made
            await sweeper.sweep()
            await is_served_once(home.hub)
        gc.collect()

    assert len(calls) == 2 * len(CALLS)
