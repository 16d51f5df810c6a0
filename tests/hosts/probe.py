"""The checks of every pair; their results are the cells of the table in `docs/hosts.md`.

Behaviour that all pairs must have is asserted; a result is behaviour in which they differ.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx
from websockets.exceptions import InvalidStatus

from analytics_hub.auth import mint

from ..project.layout import ROOT
from .clients import MSGPACK, Item, Socket, Stream, dial, event_source
from .pairs import EXAMPLES, NATIVE, SECRET, Pair
from .process import TIMEOUT, Server

YES: Final = "yes"
NOTHING: Final = "-"


class Target:
    """A running pair, as a client sees it. Each client has a token of its own, which identifies it in a log."""

    def __init__(self, pair: Pair, server: Server) -> None:
        self.pair = pair
        self.host = pair.host
        self.server = server
        self.channel = pair.host.channel
        self.base = f"127.0.0.1:{server.hub_port}{pair.host.prefix}"
        self.tokens: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def token(self, subject: str, *roles: str) -> str:
        return self.tokens.setdefault(subject, mint(SECRET, subject=subject, roles=roles))

    def socket_url(self, query_token: str | None = None) -> str:
        query = f"?token={query_token}" if query_token else ""
        return f"ws://{self.base}{self.host.socket}{query}"

    def events_url(self) -> str:
        return f"http://{self.base}/events?channels={self.channel}&token={self.token('HTTP')}"

    def publish(self, roles: list[str], body: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token('-'.join(['http', *roles]), *roles)}"}
        return httpx.post(f"http://{self.base}/publish", json=body, headers=headers, timeout=TIMEOUT, trust_env=False)

    def book(self) -> str:
        """Make the application publish, as its users do; the symbol of the published item."""
        symbol = f"SYM{next(self._numbers)}"
        if not self.host.books:
            answer = self.publish(["worker"], {"channel": "trades", "data": {"symbol": symbol}})
        else:
            url = f"http://127.0.0.1:{self.server.port}/trades?symbol={symbol}"
            answer = httpx.post(url, json={"symbol": symbol}, timeout=TIMEOUT, trust_env=False)
        assert answer.is_success, answer.text
        return symbol

    def assert_delivery(self, client: Socket | Stream) -> Item:
        """An item that the application publishes reaches the client."""
        symbol = self.book() if not self.host.is_program else None
        item = client.item(self.channel)
        assert item["data"].get("symbol") == symbol, item
        return item


def subscribe(target: Target) -> str:
    """Subscribe with `?token=`, like a page of the same site, and receive the items of the application."""
    origin = f"http://127.0.0.1:{target.server.hub_port}"
    with dial(target.socket_url(target.token("WebSocket")), origin=origin) as client:
        client.subscribe(target.channel)
        target.assert_delivery(client)
        target.assert_delivery(client)
    return YES


def pack(target: Target) -> str:
    """MessagePack, chosen by subprotocol, with the token beside it, which no server logs."""
    subprotocols = [MSGPACK, f"bearer.{target.token('packer')}"]
    with dial(target.socket_url(), subprotocols=subprotocols) as client:
        assert client.connection.subprotocol == MSGPACK
        client.subscribe(target.channel)
        target.assert_delivery(client)
    return YES


def compress(target: Target) -> str:
    """Whether the server accepts an offer of permessage-deflate."""
    with dial(target.socket_url(), token=target.token("shrinker"), compression="deflate") as client:
        client.subscribe(target.channel)
        target.assert_delivery(client)
        headers = client.connection.response
        return YES if headers is not None and "permessage-deflate" in headers.headers.get(_EXTENSIONS, "") else "no"


_EXTENSIONS: Final = "Sec-WebSocket-Extensions"


def resume_events(target: Target) -> str:
    """An `EventSource` reconnects with its `Last-Event-ID` and receives the items that it missed."""
    if target.host.is_program:
        return _follow_events(target)
    url = target.events_url()
    with event_source(url) as stream:
        target.assert_delivery(stream)
        last_id = stream.last_id
    missed = [target.book() for _ in range(3)]
    with event_source(url, last_id) as stream:
        assert [stream.item("trades")["data"]["symbol"] for _ in missed] == missed
    return YES


def _follow_events(target: Target) -> str:
    with event_source(target.events_url()) as stream:
        target.assert_delivery(stream)
    return YES


def publish(target: Target) -> str:
    """`POST /publish` with and without the role."""
    if target.host.is_program:
        return NOTHING
    with dial(target.socket_url(), token=target.token("reader")) as client:
        client.subscribe(target.channel)
        answer = target.publish(["worker"], {"channel": "trades", "data": {"symbol": "HTTP"}})
        assert answer.is_success, answer.text
        assert client.item("trades")["data"] == {"symbol": "HTTP"}
    assert target.publish(["trader"], {"channel": "trades", "data": {}}).status_code == 403
    return YES


def refuse_service(target: Target) -> str:
    """A service gets an HTTP status for a wrong token, and the reason if the server supports it."""
    if target.host.is_program:
        return NOTHING
    try:
        with dial(target.socket_url(), token="wrong"):
            raise AssertionError("a wrong token was accepted")
    except InvalidStatus as refused:
        response = refused.response
    assert response.status_code in {401, 403}
    return f"{response.status_code}{', and why' if b'invalid token' in response.body else ''}"


def refuse_page(target: Target) -> str:
    """A browser gets a close code for a wrong token, and the reason if the server supports it."""
    if target.host.is_program:
        return NOTHING
    origin = f"http://127.0.0.1:{target.server.hub_port}"
    with dial(target.socket_url("wrong"), origin=origin) as client:
        client.rest()
        assert client.closed is not None
        code, reason = client.closed
    assert code == 4401
    return f"4401{', and why' if reason else ''}"


def request(target: Target) -> str:
    """A request with a token in its URL that is complete, because some servers log only those."""
    url = f"http://{target.base}/healthz?token={target.token('HTTP')}"
    assert httpx.get(url, timeout=TIMEOUT, trust_env=False).status_code == 200
    return YES


CHECKS: Final[dict[str, Callable[[Target], str]]] = {
    "WebSocket": subscribe,
    "HTTP": request,
    "SSE, resumed": resume_events,
    "MessagePack": pack,
    "`POST /publish`": publish,
    "refused service": refuse_service,
    "refused page": refuse_page,
    "compresses": compress,
}


def publish_from_workers(target: Target) -> str:
    """The examples for other processes publish over HTTP."""
    hub = {"HUB_URL": f"http://{target.base}", "HUB_TOKEN": target.token("nightly", "worker")}
    with dial(target.socket_url(), token=target.token("worker reader")) as client:
        client.subscribe("trades")
        for name in ("worker", "worker_stdlib"):
            run = subprocess.run(
                [sys.executable, "-X", "dev", EXAMPLES / f"{name}.py"],
                env=os.environ | {"PYTHONPATH": str(ROOT)} | hub,
                capture_output=True,
                text=True,
                check=False,
            )
            assert (run.returncode, run.stderr) == (0, "")
            assert [client.item("trades")["data"]["symbol"] for _ in range(2)] == ["EURUSD", "GBPUSD"]
    return YES


def publish_from_threads(target: Target) -> str:
    """Views publish from many threads at once: each item arrives once, and the numbers have no hole."""
    with dial(target.socket_url(), token=target.token("thread reader")) as client:
        client.subscribe("trades")
        with ThreadPoolExecutor(8) as pool:
            booked = list(pool.map(lambda _: target.book(), range(40)))
        items = [client.item("trades") for _ in booked]
    assert sorted(item["data"]["symbol"] for item in items) == sorted(booked)
    assert [item["seq"] - items[0]["seq"] for item in items] == list(range(40))
    return YES


# Views run in threads: of Starlette, and in Flask beside the event loop of another thread.
FURTHER_CHECKS: Final[dict[str, dict[str, Callable[[Target], str]]]] = {
    "Starlette / uvicorn": {"workers": publish_from_workers, "threads": publish_from_threads},
    f"Flask / {NATIVE}": {"threads": publish_from_threads},
}
"""Checks of some pairs, which have no column in the table."""
LOGGED: Final = "logs `?token=`"
ENDED: Final = "at the end"


@dataclass(slots=True)
class Report:
    """The results of a pair."""

    answers: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None
    log: str = ""


@contextmanager
def running(pair: Pair) -> Iterator[Server]:
    environment = {"ANALYTICS_HUB_SECRET": SECRET}
    has_hub_port = pair.host.is_native and not pair.host.is_program
    with Server(pair.command, EXAMPLES, environment=environment, has_hub_port=has_hub_port) as server:
        yield server


def examine(pair: Pair) -> Report:
    """Start the pair, run all checks, end it by a signal. Failures are in the report."""
    report = Report()
    with ExitStack() as stack:
        try:
            target = Target(pair, stack.enter_context(running(pair)))
        except AssertionError as error:
            report.faults["start"] = str(error)
            return report
        checks = CHECKS | FURTHER_CHECKS.get(str(pair), {}) | {ENDED: lambda target: end(target, report)}
        for column, check in checks.items():
            try:
                report.answers[column] = check(target)
            except Exception as error:  # noqa: BLE001 - the report of a pair includes its failures
                report.faults[column] = f"{type(error).__name__}: {error}"
        report.log = target.server.log()
        report.answers[LOGGED] = find_leaks(target, report.log)
    return report


# It cancels its applications while the hub notifies their clients.
BY_CHANCE: Final = {"daphne": "4503, mostly after `$drain`; SSE `$close`"}


def end(target: Target, report: Report) -> str:
    """What a WebSocket client and an `EventSource` receive at an orderly end."""
    with ExitStack() as stack:
        client = stack.enter_context(dial(target.socket_url(), token=target.token("last")))
        client.subscribe(target.channel)
        stream = stack.enter_context(event_source(target.events_url()))
        target.assert_delivery(stream)
        report.exit_code = target.server.end(target.host.ended_by)
        seen = [f"`{name}`" for name in client.rest()]
        assert client.closed is not None
        seen.append(str(client.closed[0]))
        stream_seen = [f"`{name}`" for name in stream.rest()] or ["cut"]
    chances = BY_CHANCE.get(target.pair.server)
    if chances is not None:
        assert all(word in chances for word in [*seen, *stream_seen]), (seen, stream_seen)
        return chances
    return f"{', '.join(seen)}; SSE {', '.join(stream_seen)}"


def find_leaks(target: Target, log: str) -> str:
    """The clients with tokens in the log of the server."""
    leaks = [subject for subject, token in target.tokens.items() if token.rpartition(".")[2] in log]
    return ", ".join(leaks) or "no"
