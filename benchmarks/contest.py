"""Servers measured side by side: all run at once, and work one at a time, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from . import machine
from .processes import Clients, Load, Mark, Server

T = TypeVar("T")

CALM: Final = 0.03
"""The part of a window for which other processes may have our cores."""
QUIET: Final = 0.25
"""Seconds without an item after which all items have arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured: `clients` and `connections` are the large numbers of the rows."""

    rounds: int = 3
    seconds: float = 3.0
    warm: float = 1.0
    clients: int = 1000
    connections: int = 10_000
    seed: int = 1
    loops: tuple[str, ...] = ("asyncio",)


FULL: Final = Effort()
QUICK: Final = Effort(rounds=1, seconds=0.4, warm=0.2, clients=50, connections=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One server in one measured window."""

    clients: int
    rate: float
    mark: Mark
    cpu: float
    load_cpu: float
    waited: float
    """The part of the window in which other processes had the cores of the server or of the load."""

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds of the server for each million items delivered."""
        return self.cpu / max(self.mark.items, 1) * 1e6

    @property
    def delivered(self) -> float:
        """The part of the published items, `rate` a second for each client, that arrived in the window."""
        return self.mark.items / (self.rate * self.mark.seconds * self.clients)

    @property
    def items_per_frame(self) -> float:
        return self.mark.items / max(self.mark.frames, 1)

    @property
    def frames_per_second(self) -> float:
        """For each client."""
        return self.mark.frames / self.mark.seconds / self.clients

    @property
    def item_bytes(self) -> float:
        """Of an item without its comma; a frame has two brackets."""
        return (self.mark.bytes / max(self.mark.frames, 1) - 1) / max(self.items_per_frame, 1e-9) - 1

    @property
    def load_share(self) -> float:
        """The load of the load generator: near 1 it limits the figures."""
        return self.load_cpu / self.mark.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A server, its clients and the command that starts its work, which may depend on the first window of the round."""

    name: str
    command: Callable[[], Sequence[str]]
    clients: Clients
    go: Callable[[Window | None], str]
    rate: float


class Running:
    """A running contestant with connected clients."""

    def __init__(self, contestant: Contestant, stack: ExitStack) -> None:
        self.contestant = contestant
        self.server = stack.enter_context(Server(contestant.command()))
        self.load = stack.enter_context(Load(self.server, contestant.clients))
        self.answer: dict[str, Any] = {}

    def measure(self, first: Window | None, effort: Effort) -> Window:
        """Warm up, measure, stop, and wait until all items have arrived."""
        self.server.send(self.contestant.go(first))
        time.sleep(effort.warm)
        before, waited = self.load.mark(), self._waited()
        time.sleep(effort.seconds)
        after, waited = self.load.mark(), self._waited() - waited
        self.answer = self.server.request("stop")
        self.wait_until_quiet(min(QUIET, effort.seconds))
        return Window(
            clients=self.contestant.clients.count - self.contestant.clients.deaf,
            rate=self.contestant.rate,
            mark=after,
            cpu=after.server_cpu - before.server_cpu,
            load_cpu=after.own_cpu - before.own_cpu,
            waited=waited / after.seconds,
        )

    def _waited(self) -> float:
        return sum(machine.waited_seconds(child.pid) for child in (self.server, self.load))

    def wait_until_quiet(self, quiet: float = QUIET, timeout: float = 30.0) -> None:
        """Wait until nothing has arrived for `quiet` seconds, so that the next contestant has the machine to itself."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            time.sleep(quiet)
            if self.load.mark().items == 0:
                return


def compete(contestants: Sequence[Contestant], effort: Effort) -> dict[str, list[Window]]:
    """Measure all in turns, A B A B; contestants that copy frames copy those of the first of the round."""
    with ExitStack() as stack:
        running = [Running(contestant, stack) for contestant in contestants]

        def play() -> list[Window]:
            windows: list[Window] = []
            for one in running:
                windows.append(one.measure(windows[0] if windows else None, effort))
            return windows

        rounds = calmest(play, noise, effort.rounds)
    return {one.name: list(windows) for one, windows in zip(contestants, zip(*rounds, strict=True), strict=True)}


def calmest(play: Callable[[], T], noise: Callable[[T], float], rounds: int) -> list[T]:
    """Play `rounds` rounds, one more for each in which other processes used our cores; return the calmest."""
    played: list[T] = []
    while len(played) < 2 * rounds and sum(noise(one) < CALM for one in played) < rounds:
        played.append(play())
    return sorted(played, key=noise)[:rounds]


def noise(windows: Sequence[Window]) -> float:
    return max(window.waited for window in windows)


def median(windows: Sequence[Window], what: Callable[[Window], float]) -> float:
    return statistics.median(what(window) for window in windows)


def median_ratio(ours: Sequence[Window], theirs: Sequence[Window], what: Callable[[Window], float]) -> float:
    """The median over the rounds of the ratio within a round, so that a slow machine cancels out."""
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(what(mine) / max(what(other), 1e-9) for mine, other in pairs)
