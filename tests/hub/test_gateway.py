"""What a hub offers to its transports, apart from sessions: requests that publish or delete, and look-ups."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from analytics_hub import Channel, HubClosed, HubError, InvalidItem, Receipt, UnknownChannel
from analytics_hub.hub.journal import PendingReceipt
from analytics_hub.protocol import Selection
from analytics_hub.transports.memory import connect

from .rig import FakeTransport, new_hub, plug_in, running

pytestmark = pytest.mark.anyio

CHANNELS = (Channel("events"), Channel("table", mode="table"), Channel("durable", mode="durable"), Channel("user:*"))


async def test_submit_returns_a_receipt_or_one_that_waits_for_the_journal() -> None:
    async with running(CHANNELS) as hub:
        at_once = hub.gateway.submit("events", 1)
        later = [hub.gateway.submit("durable", number) for number in range(3)]

        assert isinstance(at_once, Receipt)
        assert at_once.seq == 1
        assert [(await each.wait()).seq for each in later if isinstance(each, PendingReceipt)] == [1, 2, 3]


async def test_a_key_is_removed_once() -> None:
    async with running(CHANNELS) as hub:
        hub.publish("table", 1, key="A")
        removed = hub.gateway.remove("table", "A")

        assert removed == Receipt(hub.statistics().channels["table"].epoch, 2)
        assert hub.gateway.remove("table", "A") is None
        with pytest.raises(InvalidItem, match="has no keys"):
            hub.gateway.remove("events", "A")


async def test_submit_and_remove_are_for_the_thread_of_an_open_hub() -> None:
    closed = new_hub(CHANNELS)
    with pytest.raises(HubClosed):
        closed.gateway.remove("table", "A")
    assert not closed.gateway.is_open
    async with running(CHANNELS) as hub:
        gateway = hub.gateway
        assert gateway.is_open
        for call in (lambda: gateway.submit("events", 1), lambda: gateway.remove("table", "A")):
            with pytest.raises(HubError, match="was called from another thread"):
                await anyio.to_thread.run_sync(call)
        await hub.shutdown()
        assert not gateway.is_open


async def test_a_session_is_found_by_the_id_in_its_hello() -> None:
    async with running(CHANNELS) as hub, connect(hub) as client:
        assert client.session is not None
        assert hub.gateway.find_session(client.session.id) is client.session
        assert hub.gateway.find_session("guessed") is None
        client.leave()
        assert hub.gateway.find_session(client.session.id) is None


async def test_the_declaration_of_a_member_is_its_pattern() -> None:
    async with running(CHANNELS) as hub:
        assert hub.gateway.declaration("user:7").name == "user:*"
        assert "user:7" not in hub.statistics().channels
        with pytest.raises(UnknownChannel):
            hub.gateway.declaration("nosuch")


async def test_subscribe_is_answered_like_the_command() -> None:
    async with running(CHANNELS) as hub:
        hub.publish("events", "published before")
        transport = FakeTransport()
        session = plug_in(hub, transport)
        hub.gateway.subscribe(session, [Selection("events", last=1), Selection("nosuch")])
        await transport.until(lambda: '"data":"published before"' in transport.text)

        assert '"type":"$subscribed"' in transport.text
        assert '"code":"unknown-channel"' in transport.text
