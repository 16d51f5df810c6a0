"""The witness: a client that does nothing wrong, in a process of its own, while the server is attacked.

It subscribes to the known feeds and, asked over its stdin, tells what it has seen: it must have lost nothing, got
nothing twice, and never waited long. Run as a program it is the client; `Witness` is the handle for a test.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self, TypeAlias

from ..project.layout import ROOT

FEEDS: Final = ("feed", "alerts")
"""An ephemeral channel and a durable one, both published without a pause."""
LONGEST: Final = 1.5
"""Seconds that it may wait for the next frame."""
PATIENCE: Final = 20.0
BEAT: Final = 0.02


class Record:
    """What has been seen so far. Written by the thread that receives, read by the one that is asked."""

    def __init__(self) -> None:
        self.news = threading.Condition()
        self.positions: dict[str, int] = {}
        self.faults: list[str] = []
        self.heard = time.monotonic()
        self.longest = 0.0
        self.overslept = 0.0

    def take(self, items: list[dict[str, Any]]) -> None:
        with self.news:
            now = time.monotonic()
            self.longest = max(self.longest, now - self.heard)
            self.heard = now
            for item in items:
                if item["type"] == "$subscribed":
                    self.positions |= {answer["channel"]: answer["seq"] for answer in item["channels"]}
                elif not item["type"].startswith("$"):
                    self._take_data(item)
                elif item["type"] in ("$gap", "$error", "$close", "$drain"):
                    self.faults.append(f"was told {item}")
            self.news.notify_all()

    def _take_data(self, item: dict[str, Any]) -> None:
        channel, n = item["channel"], item["data"]["n"]
        if n != item["seq"]:
            self.faults.append(f"{channel}: item {n} is numbered {item['seq']}")
        if n != (expected := self.positions[channel] + 1):
            self.faults.append(f"{channel}: item {n} came where {expected} was due")
        self.positions[channel] = n

    def fail(self, reason: str) -> None:
        with self.news:
            self.faults.append(reason)
            self.news.notify_all()

    def answer(self, until: int) -> dict[str, Any]:
        """Wait for item `until` of the feed, and tell everything since the last answer."""
        with self.news:
            if not self.news.wait_for(lambda: self.faults or self.positions.get("feed", 0) >= until, PATIENCE):
                self.faults.append(f"item {until} has not come")
            longest = max(self.longest, time.monotonic() - self.heard)
            answer = {"faults": self.faults, "longest": longest, "overslept": self.overslept} | self.positions
            self.longest = self.overslept = 0.0
        return answer

    def watch_the_machine(self) -> None:
        """Note how long this process itself was kept waiting: that much is not the server's fault."""
        while True:
            started = time.monotonic()
            time.sleep(BEAT)
            self.overslept = max(self.overslept, time.monotonic() - started - BEAT)


Line: TypeAlias = tuple[Callable[[str], None], Iterator[str | bytes]]
"""How to send a command, and the frames that come."""


def receive(record: Record, frames: Iterator[str | bytes]) -> None:
    try:
        for frame in frames:
            record.take(json.loads(frame))
        record.fail("the server has ended the connection")
    except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
        record.fail(f"{type(error).__name__}: {error}")


def main(url: str, token: str, *ca: str) -> None:
    record = Record()
    threading.Thread(target=record.watch_the_machine, daemon=True).start()
    context = ssl.create_default_context(cafile=ca[0]) if ca else None
    with (_connect_tcp if url.startswith("tcp://") else _connect_websocket)(url, context) as (send, frames):
        send(json.dumps({"action": "auth", "token": token}))
        send(json.dumps({"action": "subscribe", "channels": FEEDS}))
        threading.Thread(target=receive, args=(record, frames), daemon=True).start()
        for line in sys.stdin:
            sys.stdout.write(json.dumps(record.answer(int(line))) + "\n")
            sys.stdout.flush()


@contextmanager
def _connect_websocket(url: str, context: ssl.SSLContext | None) -> Iterator[Line]:
    from websockets.sync.client import connect

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


class Witness:
    """The process, as a test sees it; a context manager."""

    def __init__(self, url: str, token: str, *, ca: str | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, url, token, *([ca] if ca else [])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self) -> None:
        """How long it has waited until now does not matter any more."""
        self._ask(0)

    def check(self, until: int, excused: float = 0.0) -> None:
        """That it has everything up to item `until` of the feed, each once and in order, and never waited long.

        `excused` are seconds for which the machine, and not the server, has kept it waiting.
        """
        answer = self._ask(until)
        assert not answer["faults"], f"the witness was harmed: {answer}"
        excused += answer["overslept"]
        assert answer["longest"] <= LONGEST + excused, f"the witness was kept waiting: {answer}, {excused} s excused"

    def _ask(self, until: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{until}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the witness has died: {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    main(*sys.argv[1:])
