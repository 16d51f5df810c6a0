"""The observer: a well-behaved client in a process of its own, while the server is attacked.

It subscribes to the known feeds and, when asked, reports what it has received: it must have lost nothing, received
nothing twice, and never waited long.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final, Self, TypeAlias

from websockets.sync.client import connect

from ..support.forked import ForkedProcess

FEEDS: Final = ("feed", "alerts")
"""An ephemeral channel and a durable one, both published to without a pause."""
LONGEST: Final = 1.5
"""Seconds that it may wait for the next frame."""
TIMEOUT: Final = 20.0
TICK: Final = 0.02


class Record:
    """What was received so far. Written by the thread that receives, read by the one that reports."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.positions: dict[str, int] = {}
        self.faults: list[str] = []
        self.received_at = time.monotonic()
        self.longest = 0.0
        self.overslept = 0.0

    def add(self, items: list[dict[str, Any]]) -> None:
        with self.changed:
            now = time.monotonic()
            self.longest = max(self.longest, now - self.received_at)
            self.received_at = now
            for item in items:
                if item["type"] == "$subscribed":
                    self.positions |= {answer["channel"]: answer["seq"] for answer in item["channels"]}
                elif not item["type"].startswith("$"):
                    self._add_data(item)
                elif item["type"] in ("$gap", "$error", "$close", "$drain"):
                    self.faults.append(f"received {item}")
            self.changed.notify_all()

    def _add_data(self, item: dict[str, Any]) -> None:
        channel, n = item["channel"], item["data"]["n"]
        if n != item["seq"]:
            self.faults.append(f"{channel}: item {n} has the number {item['seq']}")
        if n != (expected := self.positions[channel] + 1):
            self.faults.append(f"{channel}: item {n} instead of {expected}")
        self.positions[channel] = n

    def fail(self, reason: str) -> None:
        with self.changed:
            self.faults.append(reason)
            self.changed.notify_all()

    def report(self, until: int) -> dict[str, Any]:
        """Wait for item `until` of the feed, and return everything since the last report."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.faults or self.positions.get("feed", 0) >= until, TIMEOUT):
                self.faults.append(f"item {until} did not arrive")
            longest = max(self.longest, time.monotonic() - self.received_at)
            report = {"faults": self.faults, "longest": longest, "overslept": self.overslept} | self.positions
            self.longest = self.overslept = 0.0
        return report

    def watch_the_machine(self) -> None:
        """Measure how long this process itself was kept waiting, which is not the server's fault."""
        while True:
            started = time.monotonic()
            time.sleep(TICK)
            self.overslept = max(self.overslept, time.monotonic() - started - TICK)


Line: TypeAlias = tuple[Callable[[str], None], Iterator[str | bytes]]
"""How to send a command, and the frames that arrive."""


def receive(record: Record, frames: Iterator[str | bytes]) -> None:
    try:
        for frame in frames:
            record.add(json.loads(frame))
        record.fail("the server ended the connection")
    except Exception as error:  # noqa: BLE001 - any error is reported to the test
        record.fail(f"{type(error).__name__}: {error}")


def main(test: Connection, url: str, token: str, ca: str | None) -> None:
    record = Record()
    threading.Thread(target=record.watch_the_machine, daemon=True).start()
    context = ssl.create_default_context(cafile=ca) if ca else None
    with (_connect_tcp if url.startswith("tcp://") else _connect_websocket)(url, context) as (send, frames):
        send(json.dumps({"action": "auth", "token": token}))
        send(json.dumps({"action": "subscribe", "channels": FEEDS}))
        threading.Thread(target=receive, args=(record, frames), daemon=True).start()
        while True:
            test.send(record.report(test.recv()))


@contextmanager
def _connect_websocket(url: str, context: ssl.SSLContext | None) -> Iterator[Line]:
    name = "localhost" if context else None
    options: dict[str, Any] = {"compression": None, "ping_interval": None, "proxy": None, "close_timeout": 0}
    with connect(url, ssl=context, server_hostname=name, **options) as connection:
        yield connection.send, iter(connection)


@contextmanager
def _connect_tcp(url: str, context: ssl.SSLContext | None) -> Iterator[Line]:
    host, _, port = url.removeprefix("tcp://").partition(":")
    with socket.create_connection((host, int(port))) as sock:
        line = context.wrap_socket(sock, server_hostname="localhost") if context else sock
        with line.makefile("rb") as lines:
            yield lambda command: line.sendall(command.encode() + b"\n"), iter(lines)


class Observer:
    """The process, for a test; a context manager."""

    def __init__(self, url: str, token: str, *, ca: str | None = None) -> None:
        self._process = ForkedProcess(main, url, token, ca, timeout=2 * TIMEOUT)

    def begin(self) -> None:
        """Forget how long it has waited until now."""
        self._report(0)

    def assert_undisturbed(self, until: int, excused: float = 0.0) -> None:
        """It has every item up to `until` of the feed, each once and in order, and never waited long.

        `excused` are seconds for which the machine, and not the server, kept it waiting.
        """
        report = self._report(until)
        assert not report["faults"], f"the observer was disturbed: {report}"
        excused += report["overslept"]
        assert report["longest"] <= LONGEST + excused, f"the observer was kept waiting: {report}, {excused} s excused"

    def _report(self, until: int) -> dict[str, Any]:
        self._process.send(until)
        report: dict[str, Any] = self._process.receive()
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.__exit__(*exc)
