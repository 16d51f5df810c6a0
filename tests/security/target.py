"""The attacked servers: `server.py` in a process of its own, on every transport, loop and ASGI server."""

from __future__ import annotations

import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from analytics_hub.auth import mint

from ..support.forked import ForkedProcess
from ..transports.peer import PATH, upgrade
from .client import TIMEOUT, LinePeer, Peer
from .observer import Observer
from .server import Options, Report, main

SECRET: Final = "a secret of forty characters, for tests!"
MIB: Final = 1024 * 1024
POLL_INTERVAL: Final = 0.005

PLANS: Final[dict[str, dict[str, Any]]] = {
    "asyncio": {},
    "trio": {"backend": "trio"},
    "asyncio-tls": {"tls": True},
    "trio-tls": {"backend": "trio", "tls": True},
    "uvloop": {"backend": "uvloop"},
    "uvicorn": {"transport": "asgi", "server": "uvicorn"},
    "hypercorn": {"transport": "asgi", "server": "hypercorn"},
    "tcp": {"transport": "tcp"},
    "tcp-trio-tls": {"transport": "tcp", "backend": "trio", "tls": True},
}
PLAIN: Final = ("asyncio", "trio")
TLS: Final = ("asyncio-tls", "trio-tls")
NATIVE: Final = (*PLAIN, *TLS)
ASGI: Final = ("uvicorn", "hypercorn")
SOME: Final = ("asyncio", "trio-tls", *ASGI)
"""For what happens in the hub, where TLS and the event loop make no further difference."""
USUAL: Final = (*SOME, "tcp")
"""Attacked unless SECURITY_TARGETS is `all`: every transport, loop and server once, and TLS on one of them."""


def choose(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `names` that this run attacks."""
    if os.environ.get("SECURITY_TARGETS") == "all":
        return names
    return tuple(name for name in names if name in USUAL)


# Low, so that a test that waits for one is short; and not lower than a machine under load may stand still.
LOW: Final[dict[str, Any]] = {
    "handshake_timeout": 1.0,
    "close_timeout": 0.5,
    "message_timeout": 0.5,
    "request_timeout": 1.0,
    "ping_interval": 0.25,
    "max_control_frames": 100_000,
    "silence_timeout": 4.0,
    "auth_timeout": 1.0,
    "write_timeout": 30.0,
    "durable_write_timeout": 0.6,
    "heartbeat": 0.2,
    "compression": True,
    "origins": ("https://friend.example",),
    "max_per_identity": None,
    "token_failures": None,
}

FAULTS: Final = ("connection-fault", "handshake-fault", "check-fault", "respond-fault", "transport-failed")
"""Counters of unforeseen exceptions."""


@dataclass(slots=True)
class Allowance:
    """What an attack may cost; bytes are those of resident memory."""

    growth: int = 16 * MIB
    """Kept afterwards: an allocator returns little to the system."""
    peak: int = 32 * MIB
    """While it lasts."""
    lines: int = 10
    """Of log, per second: one for each kind of event, and one attack causes few kinds."""


class Target:
    """A running server. `port` is attacked; `before` is its report from before this attack."""

    port: int
    baseline: Report
    """Once the first client was served."""
    before: Report

    def __init__(self, name: str, certificate: Path, **options: Any) -> None:
        plan = dict(PLANS[name])
        self.name = name
        self.is_tls = plan.pop("tls", False)
        self.is_asgi = name in ASGI
        self.is_tcp = name.startswith("tcp")
        self.certificate = certificate
        self._signing: dict[str, Any] = {"key": SECRET}
        if options.pop("asymmetric", False):
            options["verifies_with"] = str(certificate)
            self._signing = {"key": certificate.read_text(), "algorithm": "ES256"}
        if self.is_tls:
            options["certificate"] = str(certificate)
        self.allowance = Allowance()
        self._tokens: list[str] = []
        self._checked = 0
        self.process = ForkedProcess(main, Options.of({"secret": SECRET} | LOW | plan | options), timeout=TIMEOUT)

    def __enter__(self) -> Self:
        try:
            self.port = self.process.receive()
        except BaseException:
            self.process.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.__exit__(*exc)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process and wait for its end; its exit code."""
        self.process.signal(number)
        return self.process.wait()

    # --- as a client sees it

    @cached_property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def token(self, subject: str = "mallory", *roles: str, **options: Any) -> str:
        """A valid token; options are those of `mint`."""
        token = mint(subject=subject, roles=roles, **self._signing, **options)
        self._tokens.append(token)
        return token

    def auth_command(self, *roles: str) -> dict[str, str]:
        """The first message of a client that sent no token in its handshake."""
        return {"action": "auth", "token": self.token("mallory", *roles)}

    def connect(self, *, receive_buffer: int | None = None) -> Peer:
        """A connection, after TLS if the server has it, on which nothing was sent."""
        kind = LinePeer if self.is_tcp else Peer
        return kind(self.port, tls=self.trust if self.is_tls else None, receive_buffer=receive_buffer)

    def connect_plain(self) -> Peer:
        """A TCP connection without TLS, whether or not the server has it."""
        return Peer(self.port)

    def open(
        self,
        *headers: str,
        token: str | None = None,
        then: bytes = b"",
        path: str = PATH,
        receive_buffer: int | None = None,
    ) -> Peer:
        """A WebSocket, after a handshake that must succeed; `then` goes in the same packet. On TCP, `auth` is sent.

        Without `token` it is a new one of mallory; with an empty one the handshake has none.
        """
        token = self.token() if token is None else token
        credentials = (f"Authorization: Bearer {token}",) if token else ()
        peer = self.connect(receive_buffer=receive_buffer)
        if self.is_tcp:
            if token:
                peer.send_commands({"action": "auth", "token": token})
            peer.send(then)
            return peer
        try:
            peer.send(upgrade(*credentials, *headers, path=path) + then)
            answer = peer.read_head()
            assert answer.status == 101, answer
        except BaseException:
            peer.close()
            raise
        return peer

    # --- as an operator sees it

    def _call(self, name: str, **arguments: Any) -> Any:
        self.process.send((name, arguments))
        return self.process.receive()

    def report(self) -> Report:
        report: Report = self._call("report")
        return report

    def publish(self, channel: str, count: int = 1, *, size: int = 0, seconds: float = 0.0) -> None:
        """Have it publish `{"n": 1}` and so on, all at once or spread over `seconds`; does not wait for that."""
        self._call("publish", channel=channel, count=count, size=size, seconds=seconds)

    def revoke(self, identity: str | None = None, *, token_id: str | None = None) -> int:
        """`Hub.revoke`; the number of ended sessions."""
        ended: int = self._call("revoke", identity=identity, token_id=token_id)
        return ended

    def set_roles(self, identity: str, *roles: str) -> None:
        self._call("set_roles", identity=identity, roles=roles)

    def begin_attack(self) -> None:
        self._call("reset_peak")
        self.allowance = Allowance()
        self._began = time.monotonic()
        self.before = self.report()

    def wait_until(self, condition: Callable[[Report], object], what: str) -> Report:
        """The first report for which `condition` holds."""
        ends = time.monotonic() + TIMEOUT
        while not condition(report := self.report()):
            assert time.monotonic() < ends, f"never happened: {what}\nbefore: {self.before}\nnow:    {report}"
            time.sleep(POLL_INTERVAL)
        return report

    def wait_disconnected(self) -> None:
        """Until the server has closed all connections of the attack, although the peers keep theirs."""
        before = self.before
        self.wait_until(
            lambda now: now.sessions <= before.sessions and now.descriptors <= before.descriptors,
            "the server closes the connections",
        )

    def assert_counted(self, name: str, number: int = 1) -> None:
        """A counter grows by `number` since the attack began, perhaps a little later, and not by more."""
        start = self.before.counters.get(name, 0)
        now = self.wait_until(lambda report: report.counters.get(name, 0) >= start + number, f"{number} times {name}")
        assert now.counters[name] == start + number, f"{name} was counted {now.counters[name] - start} times"

    def log(self) -> str:
        return self.process.log()

    def assert_log_clean(self) -> None:
        """What was logged since the last call has no token in it and no traceback, and is not a flood."""
        log = self.log()
        new, self._checked = log[self._checked :], len(log)
        seconds = time.monotonic() - self._began
        assert new.count("\n") <= self.allowance.lines * (1 + seconds), f"too much in {seconds} s: {new}"
        assert "Traceback" not in new, new
        assert "eyJ" not in new, f"a token is in the log: {new}"  # every JWT begins like this
        for token in self._tokens:
            assert token.rpartition(".")[2] not in new, f"a part of a token is in the log: {new}"
        self._tokens.clear()


@dataclass(frozen=True, slots=True)
class Environment:
    """A server, and its observer."""

    target: Target
    observer: Observer


@contextmanager
def open_environment(name: str, certificate: Path, **options: Any) -> Iterator[Environment]:
    with Target(name, certificate, **options) as target:
        scheme = "tcp" if target.is_tcp else "wss" if target.is_tls else "ws"
        url = f"{scheme}://127.0.0.1:{target.port}" + ("" if target.is_tcp else PATH)
        with Observer(url, target.token("observer"), ca=str(certificate) if target.is_tls else None) as observer:
            observer.assert_undisturbed(1)
            yield Environment(target, observer)
