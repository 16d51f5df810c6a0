"""R: the process as a whole: storms, many who idle, signals, and too little memory."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from ..transports.peer import CLOSE, TEXT
from .asking import is_alive, subscribe
from .attack import GUARD, Peer, crowd, upgrade
from .target import ASGI, MIB, NATIVE, PLAIN, Target
from .watch import targets

house = targets(*NATIVE, *ASGI, "tcp")

KIB: Final = 1024
SMALL: Final = 4096
"""What the kernel takes for a client that does not read; of what it sends under ASGI, it takes 4 to 7 MB besides."""
MORTAL: Final = ("asyncio", "trio-tls", "uvicorn", "hypercorn", "tcp")
"""Whom a signal ends: servers of their own, all started at once."""


PATIENT: Final[dict[str, Any]] = {"handshake_timeout": 30.0, "silence_timeout": 60.0}
"""For what takes its time while other servers are attacked."""


@contextmanager
def started(names: Iterable[str], certificate: Path, **options: Any) -> Iterator[list[Target]]:
    """Servers of one's own, all of which start before the first is waited for."""
    with ExitStack() as stack:
        servers = [Target(name, certificate, **options) for name in names]
        for target in servers:
            stack.push(target)
        for target in servers:
            target.__enter__()
            target.begin()
        yield servers


# --- storms and crowds


def test_r01_connections_in_turn_leave_nothing_behind(target: Target) -> None:
    """500, half of which vanish; 100 where each costs a handshake of TLS, or a server's own time."""
    for number in range(500 if target.name in PLAIN else 100):
        peer = target.open()
        peer.say({"action": "subscribe", "channels": ["feed"]})
        peer.next_item("$hello")
        peer.reset() if number % 2 else peer.close()
    target.wait_until(lambda now: now.sessions == target.before.sessions, "all have left")


def test_r01_r02_a_crowd_that_comes_at_once_and_idles(target: Target) -> None:
    """400, each below 64 KiB. All vanish, half come back, and are given what they have missed.

    100 where each costs a handshake of TLS, or a server's own time: it must not take longer than one may say nothing.
    """
    number = 400 if target.name in PLAIN else 100
    target.allowance.peak = 2 * number * 64 * KIB
    positions = []
    with crowd(target.open() for _ in range(number)) as peers:
        for peer in peers:
            peer.say({"action": "subscribe", "channels": ["alerts"]})
        for peer in peers:
            (answer,) = peer.next_item("$subscribed")["channels"]
            positions.append({"epoch": answer["epoch"], "seq": answer["seq"]})
        cost = (target.report().rss - target.before.rss) / len(peers)
        assert cost < 64 * KIB, f"{cost} bytes for each"
        for peer in peers:
            peer.reset()
    with crowd(target.open() for _ in range(number // 2)) as peers:
        for peer, position in zip(peers, positions, strict=False):
            peer.say({"action": "subscribe", "channels": [{"channel": "alerts", "since": position}]})
        for peer, position in zip(peers, positions, strict=False):
            items = (item for item in peer.items() if item["type"] in ("$subscribed", "$gap", "alerts"))
            (answer,) = next(items)["channels"]
            assert answer["recovered"] is True
            assert next(items)["seq"] == position["seq"] + 1


# --- signals


def make_deaf(target: Target) -> Peer:
    """A client that takes nothing more, although much waits for it."""
    deaf = target.open(room=SMALL)
    subscribe(deaf, "burst")
    target.publish("burst", 200, size=60_000)
    target.wait_counted("stalled")
    return deaf


class Mourners:
    """The clients of a server that is about to end: one who reads, one who is due something later, one who is deaf."""

    def __init__(self, target: Target, stack: ExitStack) -> None:
        self.target = target
        self.reader, self.patient = stack.enter_context(crowd(target.open() for _ in range(2)))
        self.deaf = stack.enter_context(make_deaf(target))
        subscribe(self.reader, "room:last")
        target.publish("room:last", 500, size=100)
        self.patient.say({"action": "subscribe", "channels": [{"channel": "room:held", "max_hz": 0.4}]})
        assert self.patient.next_item("$subscribed")["channels"][0]["ok"]

    def assemble(self, stack: ExitStack) -> None:
        """Just before the end. What is due later holds it up, and a native transport accepts nobody any more then."""
        target = self.target
        target.publish("room:held")
        assert self.patient.next_item("room:held")["seq"] == 1
        target.publish("room:held")
        if not target.is_tcp:
            self.prober = stack.enter_context(target.dial())
            with target.open() as later:  # it is accepted in turn
                assert is_alive(later)
        heads = {"room:last": 500, "room:held": 2}
        target.wait_until(lambda now: heads.items() <= now.heads.items() and now.sessions == 3, "all is ready")

    def see_drain(self) -> None:
        assert read_until(self.patient, "$drain") == []
        if not self.target.is_tcp:
            self.prober.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert self.prober.read_head().status == 503

    def see_end(self) -> None:
        assert read_until(self.patient) == [2]
        assert read_until(self.reader) == [*range(1, 501)]
        is_hypercorn = self.target.name == "hypercorn"
        if is_hypercorn:
            self.deaf.close()  # it waits for its clients, for ever
        assert self.target.process.wait(GUARD) == 0
        assert self.target.process.stdout is not None
        assert json.loads(self.target.process.stdout.readline())["counters"]["closed-1012"] == 3
        if not is_hypercorn:  # it logs that it is cancelled
            self.target.check_log()


def read_until(peer: Peer, type_: str | None = None) -> list[int]:
    """The numbers of the items that come before one of that type, or before the server says that it restarts."""
    found: list[int] = []
    while (received := peer.read_frame()).opcode != CLOSE:
        for item in json.loads(received.payload) if received.opcode == TEXT else ():
            if item["type"] == type_:
                return found
            if "data" in item:
                found.append(item["seq"])
    assert type_ is None
    assert received.code == 1012
    return found


def test_r04_sigterm_says_goodbye_to_all_and_ends_though_one_is_deaf(certificate: Path) -> None:
    """Whoever looks whether it is ready learns that before it is over; who reads gets all that is due."""
    with started(MORTAL, certificate, grace=10.0, **PATIENT) as ending, ExitStack() as stack:
        everyone = [Mourners(target, stack) for target in ending]
        for mourners in everyone:
            mourners.assemble(stack)
        for target in ending:
            target.process.send_signal(signal.SIGTERM)
        for mourners in everyone:
            mourners.see_drain()
        for mourners in everyone:
            mourners.see_end()


def test_r05_after_a_kill_the_same_port_serves_again(certificate: Path) -> None:
    """Although the connections of the one before are not over for the kernel."""
    with started(("asyncio", "hypercorn", "tcp"), certificate) as killed, ExitStack() as stack:
        for target in killed:
            clients = stack.enter_context(crowd(target.open() for _ in range(20)))
            assert all(map(is_alive, clients))
        for target in killed:
            assert target.end(signal.SIGKILL) == -signal.SIGKILL
        for target in killed:
            with started([target.name], certificate, port=target.port) as again, again[0].open() as peer:
                assert is_alive(peer)


# --- memory


def test_r08_what_little_memory_there_is_is_kept_for_those_who_are_there(certificate: Path) -> None:
    """The process may take 64 MiB more than it has, and the hub's own limit stands before that.

    While many do not read, newcomers are sent away and those who do read are served; when the deaf have gone,
    everybody is let in again.
    """
    names = [name for name in MORTAL if name != "hypercorn"]
    with started(names, certificate, max_buffered=2 * MIB, **PATIENT) as poor, ThreadPoolExecutor(len(poor)) as pool:
        for code in pool.map(starve, poor):  # side by side, because it takes `LOOK_AGAIN`, twice
            assert code == 0


def starve(target: Target) -> int:
    """How the process ends after it."""
    bound_memory(target, 64 * MIB)
    with target.open() as neighbour:
        with crowd(target.open(room=SMALL) for _ in range(20)) as deaf:
            for peer in deaf:
                subscribe(peer, "burst")
            target.publish("burst", 200, size=60_000)
            target.wait_until(lambda _: not is_let_in(target), "it has noticed")
            assert subscribe(neighbour, "feed") == {"feed": "ok"}
            assert neighbour.next_item("feed")
        target.wait_until(lambda _: is_let_in(target), "it recovers")
        assert is_alive(neighbour)
    after = target.wait_until(lambda now: now.sessions == 0, "all have gone")
    assert after.ledger["is_balanced"], after.ledger["unbalanced"]
    assert after.counters["overloaded"]
    target.check_log()
    return target.end()


def is_let_in(target: Target) -> bool:
    """Whether a newcomer is; if not, it must be told to come back later."""
    with target.dial() as peer:
        if target.is_tcp:
            peer.say(target.credentials())
            first = peer.read_frame()
            if first.opcode == TEXT and b"rate-limited" in first.payload:
                first = peer.read_close()
            assert first.opcode == TEXT or first.code == 1013, first
            return first.opcode == TEXT
        peer.send(upgrade(f"Authorization: Bearer {target.token()}"))
        answer = peer.read_head()
        assert answer.status == 101 or (answer.status == 503 and answer.headers["retry-after"]), answer
        return answer.status == 101


def bound_memory(target: Target, more: int) -> None:
    pid = target.process.pid
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    most = int(status["VmSize"].split()[0]) * KIB + more
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
