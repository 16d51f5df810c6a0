"""A soak test: clients of every kind connect and leave for hours, after which nothing may have grown.

    python -m tests.security.soak --hours 8 --target asyncio

In each round some read, some read slowly, some not at all, and some attack; then all leave, and the checks after each
attack (`environment.py`) must pass. Every minute a line reports the resources of the process. Fails if memory has grown
by more than 1 MiB an hour after the warm-up, or objects or descriptors at all.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, Final

from ..transports.certificates import write_certificate
from ..transports.peer import PING, TEXT
from .client import Peer, connections, frame
from .environment import SPARE_OBJECTS, monitored, warmed_up
from .exchanges import is_served, subscribe
from .server import Report
from .target import MIB, PLANS, Target

MINUTE: Final = 60.0
HOUR: Final = 3600.0
WARM: Final = 0.3
"""The part of the time that is warm-up."""
NOISE: Final = 2 * MIB
"""The difference of resident memory between two moments of a process that does not grow."""

QUICKLY_FULL: Final[dict[str, Any]] = {"burst_items": 512, "burst_bytes": MIB, "journal_items": 200}
"""Channels reach their limits within minutes instead of hours."""


def attack(target: Target, peer: Peer, random: Random) -> None:
    """One of the attacks that end a client; the tests check its answer."""
    ping = b'{"action":"ping"}'
    attacks: list[Callable[[], object]] = [
        lambda: peer.send_texts(*[b"{}"] * 10),
        lambda: peer.send_texts(b"[" + b",".join([ping] * 3000) + b"]"),
        lambda: peer.send_texts(ping.ljust(70_000)),
        lambda: peer.send_texts(b"[" * 30_000, b'{"action":"auth","token":"wrong"}'),
        lambda: subscribe(peer, *(f"unknown:{number}" for number in range(100))),
        lambda: peer.send(message(target, b"half a message")[:-3]),
    ]
    if not target.is_tcp:
        attacks += [
            lambda: peer.send(frame(0x3)),
            lambda: peer.send(frame(TEXT, masked=False)),
            lambda: peer.send(frame(PING, b"x" * 125) * 500),
            lambda: peer.send(frame(TEXT, length=2**62)),
        ]
    with suppress(EOFError):
        random.choice(attacks)()
        if random.random() < 0.5:
            peer.reset()
        elif random.random() < 0.5:
            peer.receives_within(0.1)


def message(target: Target, text: bytes) -> bytes:
    return text if target.is_tcp else frame(TEXT, text)


def read_feed(peer: Peer, count: int) -> None:
    """Read `count` items or reported losses of the feed, which must be consecutive."""
    feed = (item for item in peer.items() if item.get("channel") == "feed")
    expected = None
    for item in itertools.islice(feed, count):
        first, last = (item["from"], item["to"]) if item["type"] == "$gap" else (item["seq"], item["seq"])
        assert expected in (None, first), item
        expected = last + 1


def run_round(target: Target, random: Random) -> None:
    with (
        connections(target.open() for _ in range(10)) as good,
        connections(target.open(receive_buffer=4096) for _ in range(5)) as unread,
        connections(target.open(receive_buffer=4096) for _ in range(3)) as slow,
    ):
        for peer in (*unread, *slow):
            subscribe(peer, "burst", "archive", f"room:{random.randrange(20)}")
        for peer in good:
            peer.send_commands({"action": "subscribe", "channels": ["feed", "board", "burst"]})
        target.publish("burst", 300, size=2000, seconds=0.5)
        target.publish("archive", 20, size=100, seconds=0.5)
        for _ in range(20):
            with target.open() as hostile:
                attack(target, hostile, random)
            for peer in slow:
                with suppress(OSError):
                    peer.sock.recv(200)
        for peer in good:
            read_feed(peer, 20)
        assert is_served(good[0])
        for peer in random.sample(good, 5):
            peer.reset()


def rounds(name: str, certificate: Path, seconds: float, seed: int) -> Iterator[Report]:
    """A report of the process after each round."""
    random = Random(seed)
    with warmed_up(name, certificate, **QUICKLY_FULL) as environment:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            with monitored(environment) as target:
                target.allowance.peak = 64 * MIB
                run_round(target, random)
            yield environment.target.report()


def compare(first: list[Report], last: list[Report], hours: float) -> list[str]:
    """The resources that have grown between two periods."""
    grown = fmean(report.rss for report in last) - fmean(report.rss for report in first)
    faults = []
    if grown > NOISE + hours * MIB:
        faults.append(f"memory has grown by {grown / MIB:.2f} MiB in {hours:.2f} h")
    for what, spare in (("descriptors", 0), ("objects", SPARE_OBJECTS), ("tasks", 1)):
        before, after = (max(getattr(report, what) for report in part) for part in (first, last))
        if after > before + spare:
            faults.append(f"{what}: {before} -> {after}")
    return faults


def main() -> int:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--target", choices=PLANS, default="asyncio")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = reported = time.monotonic()
    reports: list[tuple[float, Report]] = []
    with tempfile.TemporaryDirectory() as folder:
        certificate = write_certificate(Path(folder) / "localhost.pem")
        for report in rounds(options.target, certificate, options.hours * HOUR, options.seed):
            now = time.monotonic()
            reports.append((now - started, report))
            if now - reported >= MINUTE or len(reports) == 1:
                reported = now
                print(_describe(now - started, len(reports), report), flush=True)
    length = reports[-1][0]
    warm = [report for at, report in reports if WARM * length <= at]
    part = max(1, len(warm) // 4)
    faults = compare(warm[:part], warm[-part:], (1 - WARM) * length / HOUR)
    print(_describe(length, len(reports), reports[-1][1]))
    print("\n".join(faults) or "nothing has grown")
    return 1 if faults else 0


def _describe(seconds: float, number: int, report: Report) -> str:
    ended = sum(count for name, count in report.counters.items() if name.startswith("closed-"))
    has = f"{report.rss / MIB:7.2f} MiB, {report.descriptors} descriptors, {report.tasks} tasks"
    clients = f"{report.counters['connected']} clients, {ended} of them ended"
    return f"{seconds / MINUTE:6.1f} min, {number:5} rounds: {has}, {report.objects} objects; {clients}"


if __name__ == "__main__":
    raise SystemExit(main())
