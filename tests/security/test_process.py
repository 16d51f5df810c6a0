"""R: the process as a whole: many connections, idle clients, signals, and little memory."""

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
from .client import Peer, connections, upgrade
from .environment import assert_recovers, targets
from .exchanges import is_served, subscribe
from .target import ASGI, MIB, NATIVE, PLAIN, Target

KIB: Final = 1024
SMALL: Final = 4096
"""The receive buffer of a client that does not read; under ASGI the server buffers another 4 to 7 MB for it."""
EACH: Final = ("asyncio", "trio-tls", "uvicorn", "hypercorn", "tcp")
"""Servers of the test's own, which start and end at the same time."""
PATIENT: Final[dict[str, Any]] = {"handshake_timeout": 30.0, "silence_timeout": 60.0}
"""For clients that wait while others connect, or while other servers are attacked."""
environment = targets(*NATIVE, *ASGI, "tcp", **PATIENT)


@contextmanager
def started(names: Iterable[str], certificate: Path, **options: Any) -> Iterator[list[Target]]:
    """Servers of the test's own, which start side by side."""
    with ExitStack() as stack:
        servers = [Target(name, certificate, **options) for name in names]
        for target in servers:
            stack.push(target)
        for target in servers:
            target.__enter__()
            target.begin_attack()
        yield servers


# --- many connections


def test_r01_connections_in_turn_leave_nothing_behind(target: Target) -> None:
    """500, half of which are reset; 100 where each costs a TLS handshake or ASGI server time."""
    for number in range(500 if target.name in PLAIN else 100):
        peer = target.open()
        peer.send_commands({"action": "subscribe", "channels": ["feed"]})
        peer.next_item("$hello")
        peer.reset() if number % 2 else peer.close()
    assert_recovers(target)


def test_r01_r02_idle_clients_cost_little_and_resume_after_a_reset(target: Target) -> None:
    """400, each below 64 KiB; half of them come back and get the items that they missed.

    100 where each costs a TLS handshake or ASGI server time, so that it takes less than `silence_timeout`.
    """
    number = 400 if target.name in PLAIN else 100
    target.allowance.peak = 2 * number * 64 * KIB
    positions = []
    with connections(target.open() for _ in range(number)) as peers:
        for peer in peers:
            peer.send_commands({"action": "subscribe", "channels": ["alerts"]})
        for peer in peers:
            (answer,) = peer.next_item("$subscribed")["channels"]
            positions.append({"epoch": answer["epoch"], "seq": answer["seq"]})
        cost = (target.report().rss - target.before.rss) / len(peers)
        assert cost < 64 * KIB, f"{cost} bytes each"
        for peer in peers:
            peer.reset()
    with connections(target.open() for _ in range(number // 2)) as peers:
        for peer, position in zip(peers, positions, strict=False):
            peer.send_commands({"action": "subscribe", "channels": [{"channel": "alerts", "since": position}]})
        for peer, position in zip(peers, positions, strict=False):
            items = (item for item in peer.items() if item["type"] in ("$subscribed", "$gap", "alerts"))
            (answer,) = next(items)["channels"]
            assert answer["recovered"] is True
            assert next(items)["seq"] == position["seq"] + 1


# --- signals


def open_stalled(target: Target) -> Peer:
    """A client that reads nothing while megabytes wait for it."""
    peer = target.open(receive_buffer=SMALL)
    subscribe(peer, "burst")
    target.publish("burst", 200, size=60_000)
    target.assert_counted("stalled")
    return peer


class Clients:
    """Clients of a server that will drain: one that reads, one with a later item, a stalled one."""

    def __init__(self, target: Target, stack: ExitStack) -> None:
        self.target = target
        self.reader, self.paced = stack.enter_context(connections(target.open() for _ in range(2)))
        self.stalled = stack.enter_context(open_stalled(target))
        subscribe(self.reader, "room:last")
        target.publish("room:last", 500, size=100)
        self.paced.send_commands({"action": "subscribe", "channels": [{"channel": "room:held", "max_hz": 0.6}]})
        assert self.paced.next_item("$subscribed")["channels"][0]["ok"]

    def prepare(self, stack: ExitStack) -> None:
        """Just before the signal: a pending item prolongs the drain, and the prober is accepted before it begins."""
        target = self.target
        target.publish("room:held")
        assert self.paced.next_item("room:held")["seq"] == 1
        target.publish("room:held")
        if not target.is_tcp:
            self.prober = stack.enter_context(target.connect())
            with target.open() as later:  # accepted after the prober
                assert is_served(later)
        heads = {"room:last": 500, "room:held": 2}
        target.wait_until(lambda now: heads.items() <= now.heads.items() and now.sessions == 3, "all clients are ready")

    def assert_drain(self) -> None:
        assert read_until(self.paced, "$drain") == []
        if not self.target.is_tcp:
            self.prober.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert self.prober.read_head().status == 503

    def assert_end(self) -> None:
        assert read_until(self.paced) == [2]
        assert read_until(self.reader) == [*range(1, 501)]
        is_hypercorn = self.target.name == "hypercorn"
        if is_hypercorn:
            self.stalled.close()  # it waits for its clients without end
        assert self.target.process.receive()["closed-1012"] == 3
        assert self.target.process.wait() == 0
        if not is_hypercorn:  # it logs its cancellation
            self.target.assert_log_clean()


def read_until(peer: Peer, type_: str | None = None) -> list[int]:
    """The numbers of the items before one of that type, or before the server closes with 1012."""
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


def test_r04_sigterm_drains_all_clients_in_time_although_one_is_stalled(certificate: Path) -> None:
    """The health check fails as soon as the drain begins; clients that read get every pending item."""
    with started(EACH, certificate, grace=10.0, **PATIENT) as ending, ExitStack() as stack:
        groups = [Clients(target, stack) for target in ending]
        for clients in groups:
            clients.prepare(stack)
        for target in ending:
            target.process.signal(signal.SIGTERM)
        for clients in groups:
            clients.assert_drain()
        for clients in groups:
            clients.assert_end()


def test_r05_after_a_kill_the_same_port_serves_again(certificate: Path) -> None:
    """Although the kernel keeps connections of the killed process."""
    with started(("asyncio", "hypercorn", "tcp"), certificate) as killed, ExitStack() as stack:
        for target in killed:
            clients = stack.enter_context(connections(target.open() for _ in range(20)))
            assert all(map(is_served, clients))
        for target in killed:
            assert target.stop(signal.SIGKILL) == -signal.SIGKILL
        for target in killed:
            with started([target.name], certificate, port=target.port) as again, again[0].open() as peer:
                assert is_served(peer)


# --- memory


def test_r08_with_little_memory_new_clients_are_refused_and_the_others_served(certificate: Path) -> None:
    """The process may allocate 64 MiB more; `max_buffered` of the hub is lower.

    While many clients do not read, new ones are refused and the reading ones are served; once they have left, new
    clients are admitted again.
    """
    names = [name for name in EACH if name != "hypercorn"]
    with (
        started(names, certificate, max_buffered=2 * MIB, **PATIENT) as limited,
        ThreadPoolExecutor(len(limited)) as pool,
    ):
        for code in pool.map(exhaust, limited):
            assert code == 0


def exhaust(target: Target) -> int:
    """Overload the server, let it recover, and return its exit code."""
    limit_memory(target, 64 * MIB)
    with target.open() as neighbour:
        with connections(target.open(receive_buffer=SMALL) for _ in range(20)) as unread:
            for peer in unread:
                subscribe(peer, "burst")
            target.publish("burst", 200, size=60_000)
            target.wait_until(lambda _: not admits_clients(target), "it refuses new clients")
            assert subscribe(neighbour, "feed") == {"feed": "ok"}
            assert neighbour.next_item("feed")
        target.wait_until(lambda _: admits_clients(target), "it admits clients again")
        assert is_served(neighbour)
    after = target.wait_until(lambda now: now.sessions == 0, "all clients have left")
    assert not after.unbalanced
    assert after.counters["overloaded"]
    target.assert_log_clean()
    return target.stop()


def admits_clients(target: Target) -> bool:
    """Whether a new client is admitted; a refusal must tell it to try again later."""
    with target.connect() as peer:
        if target.is_tcp:
            peer.send_commands(target.auth_command())
            first = peer.read_frame()
            if first.opcode == TEXT and b"rate-limited" in first.payload:
                first = peer.read_close()
            assert first.opcode == TEXT or first.code == 1013, first
            return first.opcode == TEXT
        peer.send(upgrade(f"Authorization: Bearer {target.token()}"))
        answer = peer.read_head()
        assert answer.status == 101 or (answer.status == 503 and answer.headers["retry-after"]), answer
        return answer.status == 101


def limit_memory(target: Target, more: int) -> None:
    pid = target.process.pid
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    most = int(status["VmSize"].split()[0]) * KIB + more
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
