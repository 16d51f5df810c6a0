"""`publish` is the one call that any thread may make."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from analytics_hub import Channel, HubClosed, HubError, HubOverloaded, Identity, Tuning
from analytics_hub.event_loop import threadsafe
from analytics_hub.hub.inbox import MAX_BYTES, Inbox, QueuedItem
from analytics_hub.transports.memory import subscribe

from .rig import FAST, FakeTransport, new_hub, plug_in, read, read_data, running

pytestmark = pytest.mark.anyio


def run_while_the_loop_is_blocked(work: Callable[[], None]) -> None:
    """Run `work` in another thread while the thread of the event loop waits for it."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def test_every_thread_keeps_its_order() -> None:
    threads, items = 8, 250
    room = (threads + 1) * items  # the client reads after all was published: with less room it would lose the oldest

    def publish(name: int) -> None:
        for number in range(items):
            hub.publish("events", [name, number])

    async with running() as hub, subscribe(hub, "events", room=room) as client:
        async with anyio.create_task_group() as tasks:
            for name in range(threads):
                tasks.start_soon(anyio.to_thread.run_sync, publish, name)
            publish(threads)  # and so does the thread of the event loop
        data = await read_data(client, "events", room)

        for name in range(threads + 1):
            assert [number for origin, number in data if origin == name] == list(range(items))
        assert hub.statistics().channels["events"].ledger.delivered == room


async def test_a_thread_may_publish_to_all_modes_and_delete() -> None:
    def publish() -> None:
        hub.publish("table", {"id": "a"}, type="row")
        hub.publish("table", {"id": "b"})
        hub.delete("table", "a")
        hub.delete("table", "never there")
        hub.publish("user:new", 1)
        hub.publish("durable", 2)

    async with running() as hub, subscribe(hub, "table", "user:new", "durable") as client:
        run_while_the_loop_is_blocked(publish)
        items = await read(client, lambda item: item["type"] == "durable")

        assert {item["channel"]: item["data"] for item in items} == {"table": None, "user:new": 1, "durable": 2}
        assert [item["key"] for item in items if item["channel"] == "table"] == ["b", "a"]
        assert hub.statistics().channels["table"].head == 3


async def test_an_item_has_the_time_at_which_its_thread_published_it() -> None:
    now = 1_768_800_000.0
    async with running(wall_clock=lambda: now) as hub, subscribe(hub, "events") as client:

        def publish() -> None:
            nonlocal now
            for number in range(3):
                hub.publish("events", number)
                now += 1.25

        run_while_the_loop_is_blocked(publish)
        items = await read(client, lambda item: item.get("seq") == 3)

        assert [item["timestamp"][17:] for item in items] == ["00.000Z", "01.250Z", "02.500Z"]


async def test_the_inbox_is_bounded_while_the_loop_is_blocked() -> None:
    """Afterwards all queued items arrive, and there is room again."""
    room = 100
    refused: list[str] = []

    def publish() -> None:
        for number in range(room + 3):
            try:
                hub.publish("latest", number)
            except HubOverloaded as error:
                refused.append(str(error))

    async with running() as hub, subscribe(hub, "latest", "events") as client:
        hub._driver.inbox._max_items = room
        run_while_the_loop_is_blocked(publish)
        await read(client, lambda item: item.get("data") == room - 1)
        await anyio.to_thread.run_sync(hub.publish, "events", "room again")

        assert await read_data(client, "events", 1) == ["room again"]
        assert len(refused) == 3
        assert "limits are 100 items" in refused[0]
        assert hub.statistics().channels["latest"].head == room


def queued(nbytes: int) -> QueuedItem:
    return QueuedItem("events", b"x" * nbytes, None, None, "", False)


def test_the_inbox_bounds_items_and_bytes() -> None:
    wakes: list[None] = []
    inbox = Inbox(lambda: wakes.append(None), max_items=3, max_bytes=10)
    for nbytes in (4, 6):
        inbox.put(queued(nbytes))
    with pytest.raises(HubOverloaded, match=r"2 items of 10 bytes .* limits are 3 items and 10 bytes"):
        inbox.put(queued(1))
    inbox.put(queued(0))
    with pytest.raises(HubOverloaded):
        inbox.put(queued(0))

    assert [len(item.data) for item in inbox.drain()] == [4, 6, 0]
    assert len(wakes) == 1
    inbox.put(queued(10))
    assert len(wakes) == 2
    assert inbox.drain() == [queued(10)]
    assert inbox.drain() == []


class Interrupted(bytes):
    """Data at the length of which a signal handler of the same thread publishes too."""

    def __len__(self) -> int:
        self.inbox.put(queued(1))
        return super().__len__()

    inbox: Inbox


def test_a_signal_handler_may_publish_while_its_thread_does() -> None:
    """It runs within `put`; a lock that is not reentrant would never be released."""
    inbox = Inbox(lambda: None)
    data = Interrupted(b"xyz")
    data.inbox = inbox

    def put() -> None:
        inbox.put(QueuedItem("events", data, None, None, "", False))

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    thread.join(timeout=10)

    assert not thread.is_alive()
    assert any(item.data is data for item in inbox.drain())


def test_a_single_item_always_fits_into_the_inbox() -> None:
    assert Tuning().max_item_bytes < MAX_BYTES


async def test_an_item_that_only_the_loop_can_refuse_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A table that fills up between the check and the turn of the loop: the caller has returned already."""

    def publish() -> None:
        for key in ("a", "b", "c", "d"):
            hub.publish("table", 1, key=key)

    async with running() as hub, subscribe(hub, "table") as client:
        run_while_the_loop_is_blocked(publish)
        items = await read(client, lambda item: item.get("key") == "c")

        assert [item["key"] for item in items] == ["a", "b", "c"]
        assert hub.statistics().counters["publish-refused"] == 1
        assert "from another thread was refused: key 'd' would be one more than the 3" in caplog.text


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_key_is_checked_before_the_member_exists(key: str | None) -> None:
    """The programming mistake raises in the caller's frame, also for the first use of the channel."""
    channels = [Channel("tables:*", mode="table"), Channel("logs:*")]
    async with running(channels) as hub:
        name = "tables:1" if key is None else "logs:1"
        with pytest.raises(HubError, match=name):
            await anyio.to_thread.run_sync(lambda: hub.publish(name, 1, key=key))


async def test_threads_that_publish_after_the_end_get_hub_closed() -> None:
    """At whatever moment the hub ends."""
    outcomes: list[Exception] = []
    started = threading.Barrier(5)

    def publish() -> None:
        started.wait()
        try:
            while True:
                hub.publish("events", 1)
        except (HubClosed, HubOverloaded) as error:
            outcomes.append(error)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    async with running() as hub, subscribe(hub, "events"):
        for thread in threads:
            thread.start()
        await anyio.to_thread.run_sync(started.wait)
    for thread in threads:
        thread.join()

    assert len(outcomes) == 4


async def test_waking_a_loop_that_has_ended_is_no_error(anyio_backend_name: str) -> None:
    call_soon: list[Callable[[Callable[[], None]], None]] = []

    async def make() -> None:
        call_soon.append(threadsafe())

    await anyio.to_thread.run_sync(lambda: anyio.run(make, backend=anyio_backend_name))

    call_soon[0](lambda: None)


async def elsewhere(function: Callable[..., Any], *arguments: Any) -> BaseException | None:
    """The exception of a function that is called, or run, in another thread."""

    def call() -> BaseException | None:
        try:
            result = function(*arguments)
            if hasattr(result, "__await__"):

                async def wait() -> None:
                    await result

                anyio.run(wait)
        except Exception as error:  # noqa: BLE001 - whatever it raises is the result
            return error
        return None

    return await anyio.to_thread.run_sync(call)


async def test_other_calls_from_another_thread_raise() -> None:
    async with running() as hub:
        transport = FakeTransport()
        session = plug_in(hub, transport)
        outcomes = [
            await elsewhere(hub.shutdown),
            await elsewhere(hub.publish_confirmed, "events", 1),
            await elsewhere(plug_in, hub, FakeTransport()),
            await elsewhere(hub.gateway.receive_data, session, '{"action":"ping"}'),
        ]

        for outcome in outcomes:
            assert isinstance(outcome, HubError)
            assert "only publish and delete may be" in str(outcome)
        assert not hub.is_draining
        assert hub.statistics().sessions == 1


async def test_two_hubs_of_one_process_do_not_mix() -> None:
    other = new_hub(tuning=FAST)
    async with running() as hub, other, subscribe(hub, "events", identity=Identity(id="a")) as client:
        run_while_the_loop_is_blocked(lambda: other.publish("events", "elsewhere"))
        run_while_the_loop_is_blocked(lambda: hub.publish("events", "here"))

        assert await read_data(client, "events", 1) == ["here"]
