"""Commands in lines, and a task that publishes at a set rate. Runs on asyncio, uvloop and Trio."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio

PACE_S: Final = 0.005
"""Between two turns of the publisher. Each turn costs a timer and a wake-up, which are the application's, not the
server's: 5 ms keeps them near 1 % of the work, and is well under the 16 ms of a batch. And 16 is not a multiple of it:
a server that sends at a fixed interval would otherwise always meet the publisher in the same phase."""
TIMER_S: Final = 0.0015
"""The usual lateness of a timer of an event loop: epoll counts in milliseconds."""


async def lines() -> AsyncIterator[str]:
    """The lines of standard input, until its end."""
    descriptor, unread = sys.stdin.fileno(), b""
    while True:
        await anyio.wait_readable(descriptor)
        data = os.read(descriptor, 4096)
        if not data:
            return
        *whole, unread = (unread + data).split(b"\n")
        for line in whole:
            yield line.decode()


def send(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


@dataclass(slots=True)
class Publisher:
    """Calls `publish(n, stamp)` for n = 0, 1, 2 ... at `rate` a second while it works; it catches up when late.

    The stamp is the time at which the call was due. Otherwise a server that blocks the event loop would look fast,
    because nothing is published meanwhile ("coordinated omission").
    """

    publish: Callable[[int, int], None]
    rate: float = 0.0
    published: int = 0
    _started: float = 0.0

    def go(self, rate: float) -> None:
        self.rate, self.published, self._started = rate, 0, time.monotonic()

    def stop(self) -> int:
        self.rate = 0.0
        return self.published

    async def run(self) -> None:
        while True:
            since = time.monotonic() - self._started
            due = int(since * self.rate)
            while self.published < due and self.rate:
                turn = math.ceil((self.published + 1) / self.rate / PACE_S) * PACE_S
                at = self._started + (since if since - turn < TIMER_S else turn)
                self.publish(self.published, int(at * 1e9))
                self.published += 1
            await anyio.sleep(PACE_S - since % PACE_S)


def run(main: Callable[..., Any], loop: str, *args: object) -> None:
    """`main` on the event loop of that name."""
    backend = "trio" if loop == "trio" else "asyncio"
    options = {"use_uvloop": loop == "uvloop"} if backend == "asyncio" else {}
    anyio.run(main, *args, backend=backend, backend_options=options)
