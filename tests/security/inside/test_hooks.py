"""C04: a hook of the application that raises, hangs or returns nonsense refuses one client and is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import (
    AuthenticationError,
    Handshake,
    Hub,
    HubError,
    Identity,
    JournalError,
    PermissionDenied,
    Tuning,
    anonymous,
)
from analytics_hub.client import HubClient
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.transports import tcp
from analytics_hub.transports._sockets.connection import Connection
from analytics_hub.transports.asgi import HubApp
from analytics_hub.transports.memory import connect, subscribe

from ...cancellation.leftovers import is_served_once, lines
from ...hub.rig import FakeTransport, plug_in, read, running
from ...transports import asgi_peer
from ...transports.peer import Peer, serving, upgrade

pytestmark = pytest.mark.anyio

READER = anonymous(Handshake())


async def await_a_cancelled_task() -> Any:
    """As an application does that shares a lookup with a request that was cancelled."""
    await checkpoint()
    raise asyncio.CancelledError


async def raise_group() -> Any:
    await checkpoint()
    raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])


async def run_out_of_memory() -> Any:
    await checkpoint()
    raise MemoryError


async def hang() -> Any:
    await anyio.sleep_forever()


def exhaust_the_stack() -> Any:
    return exhaust_the_stack()


def return_a_function() -> Any:
    return lambda: True


def return_an_exception() -> Any:
    return PermissionDenied("not raised")


FAULTS = (
    await_a_cancelled_task,
    raise_group,
    run_out_of_memory,
    hang,
    exhaust_the_stack,
    return_a_function,
    return_an_exception,
)
SHORT = Tuning(auth_timeout=0.1, interval=0.001)


each_fault = pytest.mark.parametrize("fault", FAULTS)


async def fail_if_bad(handshake: Handshake, fault: Callable[[], Any]) -> Any:
    if handshake.token is None:
        raise AuthenticationError("missing")
    if handshake.token == "bad":
        answer = fault()
        return await answer if hasattr(answer, "__await__") else answer
    return Identity(id="good")


@pytest.mark.parametrize("fault", [run_out_of_memory, exhaust_the_stack, hang])
async def test_c04_a_failing_authenticate_refuses_one_client(fault: Callable[[], Any]) -> None:
    """On the memory transport, as a first message, on WebSockets, HTTP, TCP and ASGI.

    Other faults: `tests/access/test_authentication.py`.
    """
    async with running(tuning=SHORT, authenticate=lambda handshake: fail_if_bad(handshake, fault)) as hub:
        reader = plug_in(hub, FakeTransport(), "events", identity=READER)
        with pytest.raises(HubError, match="tokens cannot be checked now"):
            async with connect(hub, token="bad"):
                pass
        async with connect(hub, token="good") as client:
            client.send({"action": "auth", "token": "bad"})
            await read(client, lambda item: item["type"] == "$error")
            assert client.close_code is None
        assert hub.statistics().counters["authenticate-failed"] == 2

        assert await try_websocket(hub) == [503, 503]
        assert await try_tcp(hub) == 1011
        assert await try_asgi(hub) == 503
        assert hub.statistics().counters["authenticate-failed"] == 6

        hub.gateway.disconnect(reader)
        await is_served_once(hub)


async def try_websocket(hub: Hub) -> list[int]:
    statuses = []
    async with serving(hub) as port:
        request = b"GET /asyncapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bad\r\n\r\n"
        for head in (upgrade("Authorization: Bearer bad"), request):
            async with await Peer.connect(port) as peer:
                await peer.send(head)
                statuses.append((await peer.read_answer()).status)
        async with await Peer.open(port, "Authorization: Bearer good"):
            pass
    return statuses


async def try_tcp(hub: Hub) -> int:
    async with serving(hub, serve=tcp.serve) as port, await Peer.connect(port) as peer:
        await peer.send(lines({"action": "auth", "token": "bad"}))
        end = await peer.read_end()
    assert b'"$close"' in end
    return int(end.rpartition(b'"code":')[2].partition(b",")[0])


async def try_asgi(hub: Hub) -> int:
    scope = asgi_peer.scope_for("bad")
    async with asgi_peer.running(HubApp(hub), scope, accepted=False) as server:
        status: int = (await server.read())["status"]
    return status


@each_fault
async def test_c04_a_failing_authorize_refuses_one_client(fault: Callable[[], Any]) -> None:
    async def authorize(identity: Identity, *question: str) -> Any:
        if identity.id == "good":
            return True
        answer = fault()
        return await answer if hasattr(answer, "__await__") else answer

    async with running(tuning=SHORT, authorize=authorize) as hub:
        async with subscribe(hub, "events", identity=Identity(id="good")):
            with pytest.raises(PermissionDenied):
                async with subscribe(hub, "events", identity=Identity(id="bad")):
                    pass

        assert hub.statistics().counters["authorize-failed"] >= 1
        async with subscribe(hub, "events", identity=Identity(id="good")):
            pass


class FailingJournal(MemoryJournal):
    """Fails as long as it has a `fault`."""

    def __init__(self, fault: Callable[[], Any]) -> None:
        super().__init__()
        self.fault: Callable[[], Any] | None = fault

    async def append(self, channel: str, first: int, items: Any) -> int:
        if self.fault is not None:
            answer = self.fault()
            return int(await answer if hasattr(answer, "__await__") else answer)
        return await super().append(channel, first, items)

    async def read(self, channel: str, after: int, limit: int) -> Any:
        if self.fault is not None:
            answer = self.fault()
            return await answer if hasattr(answer, "__await__") else answer
        return await super().read(channel, after, limit)


# Not `hang`: the hub does not limit how long a journal takes.
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault is not hang])
async def test_c04_a_failing_journal_refuses_one_item(fault: Callable[[], Any]) -> None:
    journal = FailingJournal(fault)
    async with running(journal=journal) as hub, subscribe(hub, "events", identity=READER):
        with pytest.raises(JournalError):
            await hub.publish_confirmed("durable", 1)
        journal.fault = None

        assert (await hub.publish_confirmed("durable", 2)).seq == 1
        assert not hub._journal.pending


@pytest.mark.parametrize("fault", [await_a_cancelled_task, raise_group, run_out_of_memory])
async def test_c04_a_failing_token_function_of_a_client_is_retried(fault: Callable[[], Any]) -> None:
    """The first failure is raised by `async with`; later ones are temporary."""
    tries = 0

    async def token() -> str:
        nonlocal tries
        tries += 1
        if tries in (1, 3):
            await fault()
        return "good"

    async with running(authenticate=lambda handshake: Identity(id="alice")) as hub, serving(hub) as port:
        url = f"ws://127.0.0.1:{port}"
        with pytest.raises(Exception):  # noqa: B017, PT011 - its own, whatever that is
            async with HubClient(url, token):
                pass
        async with HubClient(url, token, jitter=lambda: 0.0) as client, client.subscribe("events") as events:
            cast("Connection", hub.sessions[0].transport).abort(reset=True)
            while tries < 4:
                await checkpoint()
            while not hub.statistics().subscriptions:
                await checkpoint()
            hub.publish("events", "served again")

            assert getattr(await anext(events), "data", None) == "served again"
        await hub.shutdown(0.0)
