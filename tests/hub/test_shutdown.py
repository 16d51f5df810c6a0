"""The shutdown of a hub: bounded in time, once, after pending data was delivered."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from analytics_hub import Action, Handshake, HubClosed, HubError, Identity, JournalError, Tuning
from analytics_hub.hub import driver as driver_module
from analytics_hub.transports.memory import connect, subscribe

from ..cancellation.sweep import cancelled_at
from .rig import HANG, FakeTransport, MoodyJournal, is_empty, new_hub, plug_in, read, read_data, running

pytestmark = pytest.mark.anyio

FOREVER = 1e9
"""Seconds of grace, longer than a test may take."""


async def test_a_stalled_client_is_not_waited_for() -> None:
    """When its peer will read again is known to the kernel alone."""
    async with running() as hub:
        stuck = FakeTransport(lambda frame: False)
        plug_in(hub, stuck, "events")
        while not hub.statistics().stalled:
            hub.publish("events", 1)
            await checkpoint()
        for number in range(1000):
            hub.publish("events", number)
        await hub.shutdown(grace=FOREVER)

        assert stuck.ended is not None
        assert is_empty(hub)


async def test_a_rate_limited_client_is_waited_for_as_long_as_the_grace() -> None:
    tuning = Tuning(rate=0.1)
    async with running(tuning=tuning) as hub:
        transport = FakeTransport()
        plug_in(hub, transport, "events")
        for number in range(3):
            hub.publish("events", number)
        await hub.shutdown(grace=0.05)

        assert transport.ended is not None
        assert hub.statistics().channels["events"].ledger.abandoned == 2
        assert is_empty(hub)


async def test_a_client_that_leaves_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "IDLE", FOREVER)
    tuning = Tuning(heartbeat=3600.0)
    async with running(tuning=tuning) as hub, subscribe(hub, {"channel": "events", "max_hz": 0.001}) as client:
        hub.publish("events", "at once")
        await read_data(client, "events", 1)
        hub.publish("events", "a quarter of an hour later")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.shutdown, FOREVER)
            await read(client, lambda item: item["type"] == "$drain")
            client.leave()

        assert is_empty(hub)


async def test_a_journal_that_hangs_is_not_waited_for_longer_than_the_grace() -> None:
    journal = MoodyJournal()
    async with running(journal=journal) as hub, subscribe(hub, "durable") as client:
        journal.gate = anyio.Event()
        hub.publish("durable", 1)
        await hub.shutdown(grace=0.05)

        assert client.close_code == 1012
        assert is_empty(hub)


async def test_pending_confirmations_raise_when_the_hub_ends() -> None:
    """Those of the batch being appended and of the one behind it; otherwise they would wait for ever."""
    journal = MoodyJournal()
    outcomes: list[Exception] = []

    async def confirm() -> None:
        try:
            await hub.publish_confirmed("durable", 1)
        except HubError as error:
            outcomes.append(error)

    with anyio.fail_after(HANG):
        async with anyio.create_task_group() as tasks, new_hub(journal=journal, grace=0.05) as hub:
            journal.gate = anyio.Event()
            journal.arrived = anyio.Event()
            tasks.start_soon(confirm)
            await journal.arrived.wait()
            tasks.start_soon(confirm)
            tasks.start_soon(confirm)
            await checkpoint()
            await checkpoint()

    assert [type(error) for error in outcomes] == [JournalError] * 3
    assert "closed before the journal answered" in str(outcomes[0])


async def test_a_second_shutdown_waits_for_the_first() -> None:
    """Otherwise its caller would go on while clients are still being written to."""
    ended: list[str] = []

    async def shut_down(name: str) -> None:
        await hub.shutdown(grace=0.2)
        ended.append(f"{name}: {hub.statistics().sessions}")

    tuning = Tuning(rate=0.1)
    async with running(tuning=tuning) as hub:
        plug_in(hub, FakeTransport(), "events")
        for number in range(3):
            hub.publish("events", number)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(shut_down, "first")
            tasks.start_soon(shut_down, "second")
        await shut_down("third")

        assert sorted(ended) == ["first: 0", "second: 0", "third: 0"]


async def test_a_cancelled_shutdown_ends_every_session() -> None:
    tuning = Tuning(rate=0.1)
    async with running(tuning=tuning) as hub:
        transport = FakeTransport()
        plug_in(hub, transport, "events")
        for number in range(3):
            hub.publish("events", number)
        assert await cancelled_at(1, lambda: hub.shutdown(grace=FOREVER))

        assert transport.ended == (1012, "the server restarts")
        assert is_empty(hub)
        await hub.shutdown(grace=FOREVER)


async def test_leaving_while_another_task_shuts_down_waits_for_it() -> None:
    with anyio.fail_after(HANG):
        async with anyio.create_task_group() as tasks:
            async with new_hub(tuning=Tuning(interval=0.05, max_frames=1, rate=None)) as hub:
                transport = FakeTransport()
                plug_in(hub, transport, "events")
                for number in range(200):
                    hub.publish("events", number)
                tasks.start_soon(hub.shutdown, 10.0)
                await transport.until(lambda: "$drain" in transport.text)

            assert transport.ended is not None
            assert '"seq":200,' in transport.text


async def test_a_callback_may_shut_the_hub_down() -> None:
    async def authenticate(handshake: Handshake) -> Identity:
        await hub.shutdown(grace=0.1)
        return Identity(id="too late")

    async with running(authenticate=authenticate) as hub:
        witness = FakeTransport()
        plug_in(hub, witness)
        with pytest.raises(HubClosed):
            async with connect(hub):
                pass

        assert witness.ended is not None
        assert is_empty(hub)


async def test_no_client_connects_while_the_hub_drains() -> None:
    async with running() as hub:
        assert not hub.is_draining
        await hub.shutdown()

        assert hub.is_draining
        with pytest.raises(HubClosed):
            plug_in(hub, FakeTransport())


async def test_publishing_during_a_shutdown_is_refused() -> None:
    refused: list[HubClosed] = []

    async def publish() -> None:
        try:
            while True:
                hub.publish("events", 1)
                await checkpoint()
        except HubClosed as error:
            refused.append(error)

    async with running() as hub, subscribe(hub, "events"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await checkpoint()
            tasks.start_soon(hub.shutdown)

        assert len(refused) == 1
        assert is_empty(hub)


async def test_a_hub_that_was_never_entered_has_nothing_to_end() -> None:
    hub = new_hub()
    await hub.shutdown()
    async with hub, subscribe(hub, "events") as client:
        hub.publish("events", 1)

        assert await read_data(client, "events", 1) == [1]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
async def test_an_exception_of_the_application_is_not_wrapped_in_a_group(kind: type[BaseException]) -> None:
    """`except ValueError` around `async with hub` works."""
    transport = FakeTransport()

    async def application() -> None:
        async with new_hub() as hub:
            plug_in(hub, transport)
            raise kind("the application's own")

    with pytest.raises(kind, match="the application's own"):
        await application()

    assert transport.ended is not None


async def test_cancelling_the_application_still_delivers_what_was_published() -> None:
    """Without waiting for the whole grace."""
    journal = MoodyJournal()
    transport = FakeTransport()
    with anyio.fail_after(HANG), anyio.CancelScope() as scope:
        async with new_hub(grace=FOREVER, journal=journal) as hub:
            plug_in(hub, transport, "events", "durable")
            journal.gate = anyio.Event()
            journal.arrived = anyio.Event()
            hub.publish("events", "the last word")
            hub.publish("durable", "the very last word")
            await journal.arrived.wait()
            scope.cancel()
            journal.gate.set()
            await checkpoint()

    assert scope.cancelled_caught
    assert "the last word" in transport.text
    assert "the very last word" in transport.text
    assert transport.ended is not None


class BrokenTransport(FakeTransport):
    """Raises where a transport must not."""

    def __init__(self, *faults: str) -> None:
        super().__init__()
        self.faults = faults

    def _fail(self, what: str) -> None:
        self.news.set()
        if what in self.faults:
            raise RuntimeError(f"a bug in {what}")

    def write(self, frame: bytes) -> bool:
        self._fail("write")
        return super().write(frame)

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        self._fail("close")

    def pause_reading(self) -> None:
        super().pause_reading()
        self._fail("pause_reading")

    def confirmed(self, frames: int) -> None:
        super().confirmed(frames)
        self._fail("confirmed")


@pytest.mark.parametrize("faults", [("write",), ("close",), ("pause_reading",), ("write", "pause_reading", "close")])
async def test_a_transport_that_raises_ends_alone(faults: tuple[str, ...]) -> None:
    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        if identity.id == "broken":
            await anyio.sleep_forever()
        return True

    async with running(authorize=authorize) as hub, subscribe(hub, "events") as witness:
        broken = BrokenTransport(*faults)
        session = plug_in(hub, broken, "events", identity=Identity(id="broken"))
        hub.gateway.receive_data(session, " " * 70_000 + '{"action":"ping"}')  # more than may wait for authorize
        await broken.until(lambda: broken.is_paused or broken.ended is not None)
        for _ in range(2):
            hub.publish("events", "undisturbed")
            assert await read_data(witness, "events", 1) == ["undisturbed"]
        if faults == ("close",):
            await hub.shutdown(grace=0.05)

        assert broken.ended is not None
        assert hub.statistics().sessions == (0 if hub.is_draining else 1)
        assert hub.statistics().counters["transport-failed"] == 1 + ("close" in faults[1:])


async def test_a_transport_is_told_how_many_frames_its_client_has_confirmed() -> None:
    async with running() as hub, subscribe(hub, "events") as witness:
        transport, broken = FakeTransport(), BrokenTransport("confirmed")
        for session in (plug_in(hub, transport), plug_in(hub, broken), witness.session):
            assert session is not None
            hub.gateway.receive_data(session, '[{"action":"seen","frames":3},{"action":"seen","frames":5}]')
        await broken.until(lambda: broken.ended is not None)

        assert transport.seen == 5
        assert transport.ended is None
        assert hub.statistics().sessions == 2


async def test_a_bug_of_the_hub_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shutdown does not wait for a hub that has stopped working."""

    def explode(now: float) -> None:
        raise RuntimeError("a bug in the engine")

    transport = FakeTransport()

    async def application() -> None:
        async with new_hub(grace=FOREVER) as hub:
            plug_in(hub, transport)
            monkeypatch.setattr(hub._engine, "handle_timer", explode)
            hub.publish("durable", 1)
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as surfaced, anyio.fail_after(HANG):
        await application()

    assert surfaced.group_contains(RuntimeError, match="a bug in the engine")
    assert transport.ended == (1011, "internal error")
