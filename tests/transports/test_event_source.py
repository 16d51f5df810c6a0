"""The `EventSource` of a real browser: its connection breaks many times, it reconnects by itself and misses nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from analytics_hub import AuthenticationError, Channel, Handshake, Hub, Identity, Tuning
from analytics_hub.http import respond_page
from analytics_hub.transports.websocket import serve

from ..support.browser import Browser

PAGE = """<!doctype html><title>events</title><script>
const seen = {events: [], durable: [], added: []}, table = {}, gaps = [], closes = [], errors = [];
let session, source = new EventSource("/events?channels=durable,table&channel=events;last=1000&token=ann");
source.addEventListener("error", () => errors.push(source.readyState));
source.addEventListener("batch", event => {
  for (const item of JSON.parse(event.data)) {
    if (item.type === "$hello") session = item.session;
    else if (item.type === "$gap") gaps.push(item);
    else if (item.type === "$close") closes.push(item.code);
    else if (item.channel === "table") table[item.key] = item.data;
    else if (item.seq) seen[item.channel].push(item.data);
  }
});
const command = (id, body) => fetch(`/commands?session=${id}`, {
  method: "POST", headers: {Authorization: "Bearer ann"}, body: JSON.stringify(body),
}).then(response => response.status);
</script>"""
CHANNELS = (
    Channel("events"),
    Channel("durable", mode="durable", keep_items=10),
    Channel("table", mode="table"),
    Channel("added"),
)
ITEMS = 300
CUTS = (700, 2000, 5001, 1, 333, 12_345, 800, 4096, 900)
"""Bytes of an answer after which a connection breaks; further connections do not."""


def authenticate(handshake: Handshake) -> Identity:
    if handshake.token != "ann":
        raise AuthenticationError("invalid")
    return Identity(id="ann")


def new_hub() -> Hub:
    tuning = Tuning(rate=None, buffer_items=10_000, reconnect_min=0.05)
    return Hub(CHANNELS, authenticate=authenticate, tuning=tuning, grace=0.2)


class BreakingProxy:
    """A proxy between the browser and the server; it breaks connections with events after some bytes."""

    def __init__(self) -> None:
        self.target = 0
        self.cuts = list(CUTS)
        self.cursors: list[str] = []

    async def forward(self, browser: anyio.abc.SocketStream) -> None:
        try:
            async with browser, await anyio.connect_tcp("127.0.0.1", self.target) as server:
                request = await browser.receive()
                left = None
                if request.startswith(b"GET /events"):
                    found = re.search(rb"(?i)\r\nlast-event-id: ([^\r]*)", request)
                    self.cursors.append(found[1].decode() if found else "")
                    left = self.cuts.pop(0) if self.cuts else None
                await server.send(request)
                async for data in server:
                    await browser.send(data[:left])
                    if left is not None and (left := left - len(data)) <= 0:
                        await anyio.aclose_forcefully(browser)
                        return
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            pass


@asynccontextmanager
async def open_proxy(proxy: BreakingProxy) -> AsyncIterator[int]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.forward)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def open_hub() -> AsyncIterator[tuple[Hub, int]]:
    respond = respond_page("/", PAGE)
    async with new_hub() as hub, anyio.create_task_group() as tasks:
        yield hub, await tasks.start(partial(serve, hub, port=0, respond=respond))
        await hub.shutdown()
        tasks.cancel_scope.cancel()


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@contextmanager
def closing(browser: Browser) -> Iterator[Browser]:
    try:
        yield browser
    finally:
        browser.close()


def test_each_item_is_received_once_although_connections_break(portal: BlockingPortal, tmp_path: Path) -> None:
    proxy = BreakingProxy()
    with (
        portal.wrap_async_context_manager(open_proxy(proxy)) as port,
        closing(Browser(tmp_path / "chromium")) as browser,
    ):
        with portal.wrap_async_context_manager(open_hub()) as (hub, proxy.target):
            _load(browser, port)
            for number in range(1, ITEMS + 1):
                hub.publish("events", number)
                hub.publish("durable", number)
                hub.publish("table", number, key=f"key {number % 5}")
                if number % 50 == 0:  # so that items follow each loss
                    browser.wait_for(f"seen.events.includes({number - 40})")
            browser.wait_for(f"seen.events.includes({ITEMS}) && seen.durable.includes({ITEMS})")
            browser.wait_for(f"Object.values(table).includes({ITEMS})")

            assert proxy.cuts == []
            assert browser.evaluate("seen.events") == [*range(1, ITEMS + 1)]
            durable = browser.evaluate("seen.durable")
            assert durable == [*range(durable[0], ITEMS + 1)]
            assert browser.evaluate("table") == {f"key {n % 5}": n for n in range(ITEMS - 4, ITEMS + 1)}
            assert browser.evaluate("gaps") == []
            assert set(browser.evaluate("errors")) == {0}  # CONNECTING: it never gave up
            assert [bool(cursor) for cursor in proxy.cursors[:1] + proxy.cursors[-1:]] == [False, True]

            assert browser.evaluate("command(session, {action: 'subscribe', channels: ['added']})") == 202
            assert browser.evaluate("command('guessed', {action: 'ping'})") == 404
            hub.publish("added", "by command")
            browser.wait_for("seen.added.length")
        browser.wait_for("closes.length")
        with portal.wrap_async_context_manager(open_hub()) as (hub, proxy.target):
            browser.wait_for("gaps.length")  # each channel has another epoch
            hub.publish("events", "after the restart")
            hub.publish("added", "resumed too")
            browser.wait_for("seen.events.at(-1) === 'after the restart' && seen.added.at(-1) === 'resumed too'")

            assert browser.evaluate("closes") == [1012]
            gaps: list[dict[str, Any]] = browser.evaluate("gaps")
            assert {(gap["from"], gap["count"]) for gap in gaps} == {(None, None)}
            assert {gap["channel"] for gap in gaps} == {"events", "durable", "table", "added"}

            browser.evaluate("source.close(); source = new EventSource('/events?channels=events&token=forged')")
            browser.wait_for("source.readyState === EventSource.CLOSED")  # instead of CONNECTING for ever


def _load(browser: Browser, port: int) -> None:
    browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
    browser.wait_for("document.readyState === 'complete' && typeof session === 'string'")
