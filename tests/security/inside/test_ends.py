"""C09: a hub shuts down once and in time, wherever `shutdown` is called, and whatever is in progress.

Twice, while publishing, and by `authenticate`: `tests/hub/test_shutdown.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Handshake, HubClosed, Identity, JournalError, anonymous
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.transports import tcp, websocket
from analytics_hub.transports.memory import subscribe

from ...cancellation.leftovers import Process, lines
from ...hub.rig import HANG, FakeTransport, is_empty, new_hub, plug_in, running
from ...transports.peer import Peer, serving, upgrade

pytestmark = pytest.mark.anyio

READER = anonymous(Handshake())
RESTARTS = (1012, "the server restarts")


async def ended(transports: Sequence[FakeTransport]) -> None:
    for transport in transports:
        await transport.until(lambda: transport.ended is not None)  # noqa: B023 - awaited at once


async def test_c09_a_shutdown_within_a_write_ends_every_session_once() -> None:
    """The rest of the flush is written, then all sessions end."""
    async with anyio.create_task_group() as tasks, running() as hub:

        def write(frame: bytes) -> None:
            if b'"last item"' in frame and not hub.is_draining:
                tasks.start_soon(hub.shutdown)
                tasks.start_soon(hub.shutdown)

        transports = [FakeTransport(write) for _ in range(600)]
        for transport in transports:
            plug_in(hub, transport, "events", identity=READER)
        await hub.publish_confirmed("durable", None)
        hub.publish("events", "last item")
        await ended(transports)

        assert {transport.ended for transport in transports} == {RESTARTS}
        assert all(transport.text.count("last item") == 1 for transport in transports)
        assert is_empty(hub)


class LastJournal(MemoryJournal):
    """Shuts the hub down with the first item, which it keeps."""

    hub: Any

    async def append(self, channel: str, first: int, items: Sequence[bytes]) -> int:
        oldest = await super().append(channel, first, items)
        await self.hub.shutdown(grace=0.05)
        return oldest


async def test_c09_a_shutdown_in_the_journal_ends_within_the_grace() -> None:
    """It waits for itself, and not for longer than the grace."""
    journal = LastJournal()
    async with running(journal=journal) as hub, subscribe(hub, "durable", identity=READER) as client:
        journal.hub = hub
        try:
            await hub.publish_confirmed("durable", 1)
        except JournalError:
            pass
        async for _ in client:
            pass

        assert (client.close_code, client.close_reason) == RESTARTS
        assert is_empty(hub)


async def test_c09_a_shutdown_in_authorize_ends_sessions_that_wait_for_it() -> None:
    opened = anyio.Event()

    async def authorize(identity: Identity, *question: str) -> bool:
        if identity.id == "last":
            await hub.shutdown(grace=0.05)
            opened.set()
        await opened.wait()
        return True

    async with running(authorize=authorize) as hub:
        transports = [FakeTransport() for _ in range(5)]
        for transport in transports:
            plug_in(hub, transport, "events", identity=Identity(id="waits"))
        plug_in(hub, FakeTransport(), "events", identity=Identity(id="last"))
        await ended(transports)
        with pytest.raises(HubClosed):
            async with subscribe(hub, "events", identity=Identity(id="late")):
                pass

        assert {transport.ended for transport in transports} == {RESTARTS}
        assert is_empty(hub)


@pytest.mark.parametrize("serve", [websocket.serve, tcp.serve], ids=["websocket", "tcp"])
async def test_c09_a_shutdown_during_handshakes_closes_all_connections(serve: Any) -> None:
    """Silent, half sent, being checked: `serve` ends, and each of them is closed."""
    asked = anyio.Event()

    async def authenticate(handshake: Handshake) -> Identity:
        asked.set()
        await checkpoint()
        await checkpoint()
        return READER

    before = Process.now()
    head = lines({"action": "auth", "token": "t"}) if serve is tcp.serve else upgrade("Authorization: Bearer t")
    async with (
        running(authenticate=authenticate) as hub,
        serving(hub, serve=serve, cancels=False) as port,
        await Peer.connect(port) as silent,
        await Peer.connect(port) as half,
        await Peer.connect(port) as checked,
    ):
        await half.send(head[:9])
        await checked.send(head)
        await asked.wait()
        await hub.shutdown(grace=0.05)
        assert is_empty(hub)
        await checked.read_end()
        for peer in (silent, half):
            if serve is tcp.serve:
                await peer.read_end()
            else:  # their handshakes may still time out; on TCP they were admitted when they connected
                peer.close()
    assert Process.now().more_than(before) == []


@pytest.mark.parametrize("number", range(6))
async def test_c09_a_shutdown_while_the_hub_is_exited_ends_sessions_once(number: int) -> None:
    """`shutdown` at the same time as the end of `async with`, some turns of the event loop apart."""

    async def shut_down() -> None:
        for _ in range(number):
            await checkpoint()
        await hub.shutdown(grace=0.05)

    hub = new_hub(grace=0.05)
    transports = [FakeTransport() for _ in range(3)]
    with anyio.fail_after(HANG):
        async with anyio.create_task_group() as tasks, hub:
            for transport in transports:
                plug_in(hub, transport, "events", "durable", identity=READER)
            hub.publish("events", 1)
            tasks.start_soon(shut_down)

    assert [transport.ended for transport in transports] == [RESTARTS] * 3
    assert is_empty(hub)
