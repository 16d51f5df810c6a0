"""C03: `publish` and `delete` may be called from anywhere, also in signal handlers; other calls raise elsewhere.

Threads are in `tests/hub/test_threads.py`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

import analytics_hub
from analytics_hub import Handshake, Hub, HubError, Tuning, anonymous
from analytics_hub.hub import driver
from analytics_hub.transports.memory import MemoryClient, subscribe

from ...hub.rig import FakeTransport, plug_in, read, running

pytestmark = pytest.mark.anyio

READER = anonymous(Handshake())
OURS: Final = str(Path(analytics_hub.__file__).parent)


def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(OURS)


@contextmanager
def interrupted_at(
    number: int, handler: Callable[[], None], counts: Callable[[CodeType], bool] = is_ours
) -> Iterator[list[str]]:
    """Call `handler` before the line with this number runs, as the interpreter does for a signal.

    The lines of functions for which `counts` is true are counted. Yields a list that gets the place of that line.
    """
    lines = 0
    places: list[str] = []

    def begin(frame: FrameType, event: str, argument: Any) -> Any:
        return look if counts(frame.f_code) and not places else None

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if event == "line" and not places:
            lines += 1
            if lines == number:
                places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
                handler()
        return look

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        yield places
    finally:
        sys.settrace(before)


def use(hub: Hub) -> None:
    """The usual calls in a turn of the event loop: items, and a client that connects, is served and leaves."""
    hub.publish("events", 1)
    hub.publish("durable", 1)
    hub.publish("table", 1, key="k")
    session = plug_in(hub, FakeTransport(), "events", {"channel": "table", "last": 1}, identity=READER)
    hub._driver.transmit()
    hub.publish("events", 2)
    hub._driver.transmit()
    hub.gateway.receive_data(session, '{"action":"unsubscribe","channels":["events"]}')
    hub.gateway.disconnect(session)


async def read_to_the_end(hub: Hub, client: MemoryClient) -> list[dict[str, Any]]:
    await hub.publish_confirmed("durable", "end")
    items = await read(client, lambda item: item.get("data") == "end")
    hub.publish("events", "end")
    return items + await read(client, lambda item: item["type"] == "events" and item["data"] == "end")


async def test_c03_a_signal_handler_may_publish_between_any_two_lines() -> None:
    """During a publication, a flush, or a subscription: no item is lost, doubled or out of order."""
    number = 1
    is_line = True
    while is_line:
        async with running() as hub, subscribe(hub, "events", "durable", "table", identity=READER) as client:

            def handle() -> None:
                hub.publish("events", "signal")
                hub.publish("durable", "signal")
                hub.delete("table", "k")

            with interrupted_at(number, handle) as places:
                use(hub)
            is_line = bool(places)
            items = await read_to_the_end(hub, client)

            found = {name: [item for item in items if item.get("channel") == name] for name in ("events", "durable")}
            for name, ours in (("events", [1, 2]), ("durable", [1])):
                data = [item.get("data") for item in found[name]]
                assert [item.get("seq") for item in found[name]] == list(range(1, len(data) + 1)), places
                assert [one for one in data if one != "signal"] == [*ours, "end"], places
                assert data.count("signal") == len(places)
            assert all(channel.ledger.is_balanced for channel in hub.statistics().channels.values())
        number += 29  # each line would take a minute; a prime stride reaches all lines of a loop

    assert number > 1000


async def test_c03_a_signal_handler_may_publish_while_the_event_loop_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """It wakes up for the item, because no timer is due."""
    monkeypatch.setattr(driver, "IDLE", 1.0e9)

    def handle(number: int, frame: FrameType | None) -> None:
        hub.publish("events", "from a signal handler")

    async with running(tuning=Tuning(heartbeat=3600.0)) as hub, subscribe(hub, "events", identity=READER) as client:
        before = signal.signal(signal.SIGALRM, handle)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            items = await read(client, lambda item: item.get("data") == "from a signal handler")
        finally:
            signal.signal(signal.SIGALRM, before)

    assert [item["seq"] for item in items if item.get("channel") == "events"] == [1]


async def test_c03_another_event_loop_may_only_publish(anyio_backend_name: str) -> None:
    async with running() as hub, subscribe(hub, "events", identity=READER) as client:
        errors: list[str] = []

        async def elsewhere() -> None:
            hub.publish("events", "from elsewhere")
            for call in (hub.publish_confirmed("events", 1), hub.shutdown()):
                try:
                    await call
                except HubError as error:
                    errors.append(str(error))

        await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere, backend=anyio_backend_name))

        assert len(errors) == 2
        assert all("another thread" in error for error in errors)
        await read(client, lambda item: item.get("data") == "from elsewhere")
