"""The lives of a hub: entered again, entered and left by different tasks, and cut off by a fork."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import unittest
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from anyio.lowlevel import checkpoint
from fastapi import FastAPI
from sniffio import current_async_library

from analytics_hub import HubClosed, HubOverloaded, Identity, InvalidItem, UnknownChannel
from analytics_hub.contracts import Handshake, Peer
from analytics_hub.exceptions import RevokedError
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.testing import ManualClock
from analytics_hub.transports.asgi import HubApp
from analytics_hub.transports.memory import connect, subscribe

from ..project.layout import ROOT
from .rig import CHANNELS, HANG, FakeTransport, is_empty, new_hub, plug_in, read, read_data, running

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have a successor of httpx
    from fastapi.testclient import TestClient

ALICE = Identity(id="alice")


# --- entered again


@pytest.mark.anyio
async def test_a_hub_is_not_entered_while_it_is_open() -> None:
    async with running() as hub:
        with pytest.raises(HubClosed, match="the hub is open already; it can be entered again after it was left"):
            await hub.__aenter__()

        async with subscribe(hub, "events") as client:
            hub.publish("events", "still here")
            assert await read_data(client, "events", 1) == ["still here"]


@pytest.mark.anyio
async def test_each_life_begins_with_nothing_of_the_one_before() -> None:
    """New epochs, so that a client that resumes is sent a gap; no items, sessions, tickets or counters."""
    hub = new_hub()
    lives: list[dict[str, Any]] = []
    for _ in range(3):
        async with hub:
            before = hub.statistics()
            transport = FakeTransport()
            session = plug_in(hub, transport, "events", "durable")
            hub.publish("events", 1)
            receipt = await hub.publish_confirmed("durable", 1)
            ticket = hub.issue_ticket(ALICE)
            lives.append(
                {"ticket": ticket, "session": session.id, "node": hub.node, "durable": receipt.epoch}
                | {name: channel.epoch for name, channel in hub.statistics().channels.items() if name != "durable"}
            )

            assert before.counters == {}
            assert {channel.head for channel in before.channels.values()} == {0}
            assert receipt.seq == 1
            for life in lives[:-1]:
                with pytest.raises(Exception, match="invalid token"):
                    await hub.gateway.authenticate(Handshake(token=life["ticket"]))
        assert transport.ended is not None
        assert is_empty(hub)

    for name in lives[0]:
        assert len({life[name] for life in lives}) == 3, name


@pytest.mark.anyio
async def test_a_client_of_an_earlier_life_is_sent_a_gap() -> None:
    hub = new_hub()
    async with hub, connect(hub, identity=ALICE) as client:
        hub.publish("events", 1)
        epoch = hub.statistics().channels["events"].epoch
    async with hub, connect(hub, identity=ALICE) as client:
        hub.publish("events", 2)
        client.send({"action": "subscribe", "channels": [{"channel": "events", "since": {"epoch": epoch, "seq": 1}}]})
        with anyio.fail_after(HANG):
            items = await read(client, lambda item: item["type"] == "$gap")
        (answer,) = next(item["channels"] for item in items if item["type"] == "$subscribed")

    assert answer["recovered"] is False


@pytest.mark.anyio
async def test_a_revocation_outlives_the_life_in_which_it_was_made() -> None:
    """The tokens that it concerns do, too."""
    hub = new_hub()
    async with hub:
        hub.revoke("alice")
    hub.revoke("bob")  # between two lives
    async with hub:
        for name in ("alice", "bob"):
            peer = Peer(Handshake(), Identity(id=name, issued=1.0))
            with pytest.raises(RevokedError):
                hub.gateway.current_identity(peer)


@pytest.mark.anyio
async def test_a_journal_that_was_passed_continues_and_the_default_one_does_not() -> None:
    for journal, head in ((MemoryJournal(), 2), (None, 1)):
        hub = new_hub(journal=journal)
        numbers: list[int] = []
        for _ in range(2):
            async with hub:
                numbers.append((await hub.publish_confirmed("durable", 1)).seq)

        assert numbers[-1] == head


def test_a_hub_moves_from_one_event_loop_to_another() -> None:
    hub = new_hub()
    application = HubApp(hub)

    async def life() -> int:
        async with hub, subscribe(hub, "events") as client:
            hub.publish("events", "here")
            assert await read_data(client, "events", 1) == ["here"]
            assert application._current_state().checks is application._current_state().checks
            return id(application._current_state())

    states = [
        anyio.run(life, backend="asyncio"),
        anyio.run(life, backend="trio"),
        anyio.run(life, backend="asyncio", backend_options={"use_uvloop": True}),
    ]

    assert len(set(states)) == 3


@pytest.mark.anyio
async def test_a_life_that_could_not_begin_does_not_count() -> None:
    class Broken(MemoryJournal):
        async def open(self, channel: str, epoch: str) -> Any:
            raise OSError("no disk")

    hub = new_hub(journal=Broken())
    for _ in range(2):
        with pytest.raises(OSError, match="no disk"):
            await hub.__aenter__()
        with pytest.raises(HubClosed, match="not running"):
            hub.publish("events", 1)


def test_statistics_and_mistakes_do_not_wait_for_the_hub_to_be_entered() -> None:
    assert set(new_hub().statistics().channels) == {channel.name for channel in CHANNELS if "*" not in channel.name}
    with pytest.raises(Exception, match="declared twice"):
        new_hub([CHANNELS[0], CHANNELS[0]])
    with pytest.raises(ValueError, match="before_start is 'wait'; it must be 'raise', 'drop' or 'keep'"):
        new_hub(before_start="wait")


# --- test suites


hub = new_hub()


def make_application() -> FastAPI:
    """As in README: a hub at module level, entered by the lifespan."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with hub:
            yield

    application = FastAPI(lifespan=lifespan)
    application.mount("/hub", HubApp(hub))
    application.get("/publish")(lambda: hub.publish("events", "published"))
    return application


APPLICATION = make_application()


@pytest.mark.parametrize("number", range(3))
def test_a_client_for_each_test(number: int) -> None:
    with TestClient(APPLICATION) as client, client.websocket_connect("/hub/ws") as socket:
        socket.send_json({"action": "subscribe", "channels": ["events"]})
        while all(item["type"] != "$subscribed" for item in socket.receive_json()):
            pass
        client.get("/publish")
        (item,) = socket.receive_json()

        assert (item["seq"], item["data"]) == (1, "published")
        assert client.get("/hub/healthz").status_code == 200
        assert hub.statistics().counters["connected"] == 1


def test_a_unittest_case_enters_its_hub_in_another_task_than_it_leaves_it() -> None:
    class Case(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self) -> None:
            self.hub = await self.enterAsyncContext(new_hub())

        async def test_one(self) -> None:
            async with subscribe(self.hub, "events") as client:
                self.hub.publish("events", 1)
                assert await read_data(client, "events", 1) == [1]

        test_two = test_one

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)

    assert (result.testsRun, result.errors, result.failures) == (2, [], [])


# --- left by another task


async def in_a_task(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Run `function` in a task of its own, to its end.

    Not in one of anyio: on Trio it has a cancel scope around it, which must not end before one that was opened in it.
    """
    results: list[Any] = []

    async def run() -> None:
        results.append(await function(*arguments))

    if current_async_library() == "asyncio":
        await asyncio.create_task(run())
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
    return results[0]


@pytest.mark.anyio
async def test_the_task_that_leaves_a_hub_need_not_be_the_one_that_entered_it() -> None:
    hub = new_hub()
    for enter, leave in ((True, True), (True, False), (False, False)):
        transport = FakeTransport()
        with anyio.fail_after(HANG):
            await (in_a_task(hub.__aenter__) if enter else hub.__aenter__())
            plug_in(hub, transport, "events")
            hub.publish("events", "delivered")
            await (in_a_task(hub.__aexit__, None, None, None) if leave else hub.__aexit__(None, None, None))

        assert '"delivered"' in transport.text
        assert transport.ended == (1012, "the server restarts")


@pytest.mark.anyio
async def test_a_hub_may_be_left_while_the_task_that_entered_it_runs(anyio_backend_name: str) -> None:
    """On Trio it cannot; there the shutdown is complete all the same, and the error says what to do."""
    entered, left = anyio.Event(), anyio.Event()
    hub, transport = new_hub(), FakeTransport()

    async def enter() -> None:
        await hub.__aenter__()
        plug_in(hub, transport, "events")
        entered.set()
        await left.wait()

    async def live() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
            await entered.wait()
            try:
                await hub.__aexit__(None, None, None)
            finally:
                left.set()

    with anyio.fail_after(HANG):
        if anyio_backend_name == "trio":
            with pytest.raises(BaseExceptionGroup) as raised:
                await live()
            assert raised.group_contains(RuntimeError, match="must be left by the task that entered it")
        else:
            await live()

    assert transport.ended == (1012, "the server restarts")
    assert not hub.is_open


@pytest.mark.anyio
async def test_a_bug_is_raised_where_the_hub_is_left_if_it_can_be_raised_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def explode(now: float) -> None:
        raise RuntimeError("a bug in the engine")

    hub, transport = new_hub(), FakeTransport()
    await in_a_task(hub.__aenter__)
    plug_in(hub, transport)
    monkeypatch.setattr(hub._engine, "handle_timer", explode)
    hub.publish("durable", 1)
    with anyio.fail_after(HANG):
        while hub.is_open:
            await checkpoint()
    with pytest.raises(HubClosed):
        hub.publish("events", 1)
    with pytest.raises(ExceptionGroup) as surfaced:
        await hub.__aexit__(None, None, None)

    assert surfaced.group_contains(RuntimeError, match="a bug in the engine")
    assert transport.ended == (1011, "internal error")
    async with hub, subscribe(hub, "events") as client:  # it is no reason not to begin again
        hub.publish("events", 1)
        assert await read_data(client, "events", 1) == [1]


@pytest.mark.anyio
async def test_the_interruption_by_a_bug_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str
) -> None:
    """The application goes on after it has caught the error, even if it had caught the interruption before."""

    def explode(now: float) -> None:
        raise RuntimeError("a bug in the engine")

    async def application(is_raised: bool) -> None:
        async with new_hub() as hub:
            monkeypatch.setattr(hub._engine, "handle_timer", explode)
            hub.publish("durable", 1)
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                if is_raised:
                    raise

    for is_raised in (True, False):
        with pytest.raises(ExceptionGroup):
            await application(is_raised)
        await checkpoint()
        if anyio_backend_name == "asyncio":
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()


def test_an_event_loop_that_ends_without_leaving_the_hub_ends_its_life() -> None:
    hub, transport = new_hub(), FakeTransport()

    async def forget() -> None:
        await hub.__aenter__()
        plug_in(hub, transport)

    asyncio.run(forget())

    assert not hub.is_open
    assert transport.ended is not None
    with pytest.raises(HubClosed):
        hub.publish("events", 1)
    asyncio.run(forget())


# --- forks


def run_script(script: str) -> Any:
    """The JSON that a program prints: processes that fork have only one thread, which a process with tests has not."""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=HANG
    )
    return json.loads(run.stdout)


NAMES = """
import anyio, json, os
from analytics_hub import Channel, Handshake, Hub, Identity, anonymous
from analytics_hub.contracts import Peer
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.transports.asgi import HubApp
from tests.hub.rig import FakeTransport, plug_in

CHANNELS = [Channel("events"), Channel("latest", mode="latest"), Channel("durable", mode="durable"), Channel("user:*")]
journal = MemoryJournal()
hubs = {"passed": Hub(CHANNELS, authenticate=anonymous, journal=journal), "own": Hub(CHANNELS, authenticate=anonymous)}
applications = [HubApp(hub) for hub in hubs.values()]

async def names():
    found = {}
    for which, hub in hubs.items():
        async with hub:
            session = plug_in(hub, FakeTransport())
            hub.publish("user:1", 1)
            await hub.publish_confirmed("durable", 1)
            channels = hub.statistics().channels
            found |= {f"{which} {name}": (channel.epoch, channel.head)[0] for name, channel in channels.items()}
            found |= {f"{which} node": hub.node, f"{which} session": session.id}
            found |= {f"{which} ticket": hub.issue_ticket(Identity(id="alice"))}
            found |= {f"{which} head": [channels["durable"].head, os.getpid()]}
    return found

def child():
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, json.dumps(anyio.run(names)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.wait()
    return json.loads(text)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("has_served", [False, True])
def test_processes_that_were_forked_from_one_have_nothing_in_common(has_served: bool) -> None:
    """As those of gunicorn --preload, and a worker that replaces another: a client must not resume there."""
    first = "anyio.run(names)" if has_served else "child()"
    processes = run_script(f"{NAMES}\nprint(json.dumps([{first}, child(), child()]))")

    assert len(processes[0]) > 10
    for name in processes[0]:
        assert len({json.dumps(process[name]) for process in processes}) == len(processes), name


FORKED = """
import anyio, json, os
from analytics_hub import Channel, Hub, Identity, anonymous
from analytics_hub.transports.memory import subscribe
hub = Hub([Channel("events"), Channel("table", mode="table")], authenticate=anonymous, before_start="keep")
closed = Hub([Channel("events")], authenticate=anonymous)
ALICE = Identity(id="alice")

def outcome(call, *arguments):
    try:
        result = call(*arguments)
        if hasattr(result, "send"):
            result.send(None)  # the event loop itself is the parent's
        return result
    except Exception as error:
        return f"{type(error).__name__}: {error}"

async def serve_again():
    async with hub, subscribe(hub, "events") as client:
        hub.publish("events", "of the child")
        return [item["data"] for item in await anext(client)], len(hub.sessions)

async def main():
    async with closed:
        pass
    async with hub, subscribe(hub, "events") as client:
        hub.publish("events", "before")
        reader, writer = os.pipe()
        if not os.fork():
            said = {
                "publish": outcome(hub.publish, "events", 1), "delete": outcome(hub.delete, "table", "a"),
                "confirm": outcome(hub.publish_confirmed, "events", 1), "revoke": outcome(hub.revoke, "alice"),
                "set_roles": outcome(hub.set_roles, "alice", []), "ticket": outcome(hub.issue_ticket, ALICE),
                "reauthorize": outcome(hub.reauthorize, "alice"), "shutdown": outcome(hub.shutdown),
                "open": hub.is_open or hub.is_draining, "closed": outcome(closed.publish, "events", 1),
            }
            import threading
            found = []
            thread = threading.Thread(target=lambda: found.append(anyio.run(serve_again)))
            thread.start()
            thread.join()
            os.write(writer, json.dumps({**said, "again": found[0]}).encode())
            os._exit(0)
        os.close(writer)
        with open(reader) as file:
            said = json.loads(file.read())
        os.wait()
        hub.publish("events", "after")
        said["parent"] = [item["data"] for item in await anext(client)]
        print(json.dumps(said))

anyio.run(main)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_is_told_that_nothing_is_served_there() -> None:
    """What it publishes would reach no client, and a client that it revokes would stay; it can serve itself."""
    said = run_script(FORKED)

    for call in ("publish", "delete", "confirm", "revoke", "set_roles", "ticket", "reauthorize", "shutdown"):
        assert said[call].startswith("HubClosed: the hub runs in the parent process"), (call, said[call])
        assert "HubPublisher, or enter a hub in this process" in said[call]
    assert said["closed"] == "HubClosed: the hub has been shut down; nothing more can be published"
    assert said["open"] is False
    assert said["again"] == [["of the child"], 1]
    assert said["parent"] == ["before", "after"]


# --- before the start


@pytest.mark.anyio
@pytest.mark.parametrize("policy", ["drop", "keep"])
async def test_what_is_published_early_is_dropped_or_kept(policy: str) -> None:
    clock = ManualClock(wall=1_768_800_000.0)
    hub = new_hub(before_start=policy, clock=clock, wall_clock=clock.wall)

    def publish_early() -> None:
        for number in range(3):
            hub.publish("events", number)
        hub.publish("table", {"id": "a"})
        hub.publish("table", {"id": "b"})
        hub.delete("table", "a")

    await anyio.to_thread.run_sync(publish_early)
    with pytest.raises(InvalidItem):
        hub.publish("events", object())
    with pytest.raises(UnknownChannel):
        hub.publish("nosuch", 1)
    with pytest.raises(HubClosed, match="not running"):
        await hub.publish_confirmed("events", 1)
    assert hub.statistics().counters["published-early"] == 6
    clock.advance(60.0)
    async with hub, subscribe(hub, {"channel": "events", "last": 10}, {"channel": "table", "snapshot": True}) as client:
        hub.publish("events", "later")
        clock.attach(hub)
        clock.advance(1.0)
        with anyio.fail_after(HANG):
            items = await read(client, lambda item: item.get("data") == "later")

        kept = [item["data"] for item in items if item["channel"] == "events"]
        rows = [item["key"] for item in items if item["channel"] == "table"]
        assert hub.statistics().counters["published-early"] == 6
        assert (kept, rows) == (([0, 1, 2, "later"], ["b"]) if policy == "keep" else (["later"], []))
        if policy == "keep":
            assert items[0]["timestamp"].endswith("00.000Z")
    with pytest.raises(HubClosed, match="shut down"):
        hub.publish("events", 1)


def test_no_more_is_kept_than_may_wait_of_other_threads() -> None:
    hub = new_hub(before_start="keep")
    hub._inbox._max_items = 2
    hub.publish("events", 1)
    hub.publish("events", 2)
    with pytest.raises(HubOverloaded, match="2 items"):
        hub.publish("events", 3)


# --- the time of an item


@pytest.mark.anyio
async def test_an_item_may_be_given_the_time_at_which_it_happened() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone(timedelta(hours=2)))
    async with running() as hub, subscribe(hub, "events", "durable") as client:
        hub.publish("events", 1, timestamp=moment)
        hub.publish("events", 2, timestamp=moment.timestamp())
        await anyio.to_thread.run_sync(lambda: hub.publish("events", 3, timestamp=moment))
        await hub.publish_confirmed("durable", 4, timestamp=moment)
        items = await read(client, lambda item: item["data"] == 4)

        assert [item["timestamp"] for item in items] == ["2026-01-02T01:04:05.678Z"] * 4
        for wrong in (datetime(2026, 1, 2), math.nan, math.inf, 1e300, -1e300, "2026-01-02", True):  # noqa: DTZ001
            with pytest.raises(InvalidItem, match=r"timestamp is .*; it must be an aware datetime or Unix seconds"):
                hub.publish("events", 1, timestamp=wrong)  # type: ignore[arg-type]
        assert hub.statistics().channels["events"].head == 3
