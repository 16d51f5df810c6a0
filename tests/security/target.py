"""The servers that are attacked: `tests/security/server.py` in a process of its own, in every form it is served."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode

from analytics_hub.auth import mint

from ..project.layout import ROOT
from ..transports.peer import PATH, upgrade
from .attack import GUARD, LinePeer, Peer
from .witness import Witness

SECRET: Final = "a secret of forty characters, for tests!"
MIB: Final = 1024 * 1024
PAUSE: Final = 0.01
"""Seconds between two looks at a server that is not done yet."""

PLANS: Final[dict[str, tuple[str, ...]]] = {
    "asyncio": (),
    "trio": ("--backend", "trio"),
    "asyncio-tls": ("--tls",),
    "trio-tls": ("--backend", "trio", "--tls"),
    "uvloop": ("--backend", "uvloop"),
    "uvicorn": ("--transport", "asgi", "--server", "uvicorn"),
    "hypercorn": ("--transport", "asgi", "--server", "hypercorn"),
    "tcp": ("--transport", "tcp"),
    "tcp-trio-tls": ("--transport", "tcp", "--backend", "trio", "--tls"),
}
PLAIN: Final = ("asyncio", "trio")
TLS: Final = ("asyncio-tls", "trio-tls")
NATIVE: Final = (*PLAIN, *TLS)
ASGI: Final = ("uvicorn", "hypercorn")
SOME: Final = ("asyncio", "trio-tls", *ASGI)
"""For what happens in the hub: TLS and the event loop make no difference that would not show here."""
USUAL: Final = (*SOME, "tcp")
"""What is attacked unless SECURITY_TARGETS is `all`: every transport, loop and server once, TLS on one of them."""


def choose(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `names` that are attacked this time."""
    if os.environ.get("SECURITY_TARGETS") == "all":
        return names
    return tuple(name for name in names if name in USUAL)


# Low, so that a test that waits for one does not wait long; and not lower than a machine under load stands still.
LOW: Final[dict[str, object]] = {
    "handshake_timeout": 1.0,
    "close_timeout": 0.5,
    "message_timeout": 0.5,
    "request_timeout": 1.0,
    "ping_interval": 0.25,
    "max_control_frames": 100_000,
    "silence_timeout": 4.0,
    "auth_timeout": 1.0,
    "write_timeout": 30.0,
    "durable_write_timeout": 1.0,
    "heartbeat": 0.5,
    "compression": True,
    "origins": ("https://friend.example",),
    "max_per_identity": None,
    "token_failures": None,
}

FAULTS: Final = (*("connection-fault", "handshake-fault", "check-fault", "respond-fault"), "transport-failed")
"""Counters of exceptions that nobody foresaw."""


@dataclass(slots=True)
class Allowance:
    """What an attack may cost; bytes are those of resident memory."""

    growth: int = 16 * MIB
    """That may stay: an allocator gives little back."""
    peak: int = 32 * MIB
    """While it lasts."""
    lines: int = 10
    """Of log, a second: one for each kind of thing that happens, and few kinds happen in one attack."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the control port says of the process at one moment. Bytes and seconds."""

    sessions: int
    subscriptions: int
    counters: Mapping[str, int]
    heads: Mapping[str, int]
    descriptors: int
    tasks: int
    rss: int
    peak: int
    objects: int
    cpu: float
    """What its processor time comes to."""
    waited: float
    """How long it was ready to run and the machine busy with others."""
    ledger: Mapping[str, Any]


class Target:
    """A running server. `port` is the one to attack; `before` is how it stood before this attack."""

    port: int
    born: Report
    before: Report

    def __init__(self, name: str, certificate: Path, **options: object) -> None:
        self.name = name
        self.is_tls = "--tls" in PLANS[name]
        self.is_asgi = name in ASGI
        self.is_tcp = name.startswith("tcp")
        self.certificate = certificate
        self._signs: dict[str, Any] = {"key": SECRET}
        if "certifies" in options:
            options["certifies"] = certificate
            self._signs = {"key": certificate.read_text(), "algorithm": "ES256"}
        self.allowance = Allowance()
        self._tokens: list[str] = []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__; a pipe that nobody reads would stop it
        self._read = 0
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "security" / "server.py"), *_arguments(name, certificate, options)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "ANALYTICS_HUB_SECRET": SECRET},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        guard = threading.Timer(GUARD, self.process.kill)
        guard.start()
        line = self.process.stdout.readline()
        guard.cancel()
        if not line:
            self.process.wait()
            raise AssertionError(f"{self.process.args!r} did not start:\n{self.log()}")
        ports = json.loads(line)
        self.port = ports["port"]
        self._control: int = ports["control"]
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._log.close()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process and wait for its end; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(GUARD)

    # --- as a client sees it

    @cached_property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def token(self, subject: str = "mallory", *roles: str, **options: Any) -> str:
        """A good token; options are those of `mint`."""
        token = mint(subject=subject, roles=roles, **self._signs, **options)
        self._tokens.append(token)
        return token

    def credentials(self, *roles: str) -> dict[str, str]:
        """The command with which a client lets itself in that sent no token before."""
        return {"action": "auth", "token": self.token("mallory", *roles)}

    def dial(self, *, room: int | None = None) -> Peer:
        """A connection, TLS done if the server has it, and nothing said yet."""
        kind = LinePeer if self.is_tcp else Peer
        return kind(self.port, tls=self.trust if self.is_tls else None, room=room)

    def dial_plain(self) -> Peer:
        """A TCP connection and nothing more, also to a server with TLS."""
        return Peer(self.port)

    def open(
        self, *headers: str, token: str | None = None, then: bytes = b"", path: str = PATH, room: int | None = None
    ) -> Peer:
        """A WebSocket, after a handshake that must succeed; `then` goes in the same packet. On TCP, `auth` is said.

        The token is a new one of mallory's, if none is given; with an empty one the handshake is without.
        """
        token = self.token() if token is None else token
        credentials = (f"Authorization: Bearer {token}",) if token else ()
        peer = self.dial(room=room)
        if self.is_tcp:
            if token:
                peer.say({"action": "auth", "token": token})
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

    def _ask(self, method: str, path: str, **query: object) -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self._control, timeout=GUARD)
        try:
            connection.request(method, f"{path}?{urlencode(query)}")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        except OSError as error:
            raise AssertionError(f"the server does not answer ({self.process.poll()}):\n{self.log()}") from error
        finally:
            connection.close()
        return answer

    def report(self) -> Report:
        return Report(**self._ask("GET", "/"))

    def begin(self) -> None:
        """From now on the attack is a new one."""
        self.allowance = Allowance()
        self._began = time.monotonic()
        self.before = self.report()

    def wait_until(self, condition: Callable[[Report], object], what: str) -> Report:
        """Look until `condition` holds of a report, and return that."""
        ends = time.monotonic() + GUARD
        while not condition(report := self.report()):
            assert time.monotonic() < ends, f"never happened: {what}\nbefore: {self.before}\nnow:    {report}"
            time.sleep(PAUSE)
        return report

    def wait_hung_up(self) -> None:
        """Until the server holds nothing any more of those who attack it, though they stay."""
        before = self.before
        self.wait_until(
            lambda now: now.sessions <= before.sessions and now.descriptors <= before.descriptors, "it hangs up"
        )

    def wait_counted(self, name: str, number: int = 1) -> None:
        """Until a counter shows that it has happened so often since the attack began, and not more often."""
        start = self.before.counters.get(name, 0)
        now = self.wait_until(lambda report: report.counters.get(name, 0) >= start + number, f"{number} times {name}")
        assert now.counters[name] == start + number, f"{name} was counted {now.counters[name] - start} times"

    def post(self, path: str, **query: object) -> dict[str, Any]:
        """Make the server do something: see `tests/security/server.py`."""
        return self._ask("POST", path, **query)

    def publish(self, channel: str, count: int = 1, *, size: int = 0, seconds: float = 0.0) -> None:
        """Have it publish `{"n": 1}` and so on, all at once or spread over `seconds`; does not wait for that."""
        self.post("/publish", channel=channel, count=count, size=size, seconds=seconds)

    @property
    def log_file(self) -> int:
        """The descriptor that it logs to."""
        return self._log.fileno()

    def log(self) -> str:
        """All that it has logged so far."""
        # Read by position: the file's own belongs to the process as well.
        return os.pread(self.log_file, 1 << 24, 0).decode(errors="replace")

    def check_log(self) -> None:
        """That what was logged since the last look has no token in it and no traceback, and is no flood."""
        log = self.log()
        new, self._read = log[self._read :], len(log)
        seconds = time.monotonic() - self._began
        assert new.count("\n") <= self.allowance.lines * (1 + seconds), f"too much in {seconds} s: {new}"
        assert "Traceback" not in new, new
        assert "eyJ" not in new, f"a token is in the log: {new}"  # how each JWT begins
        for token in self._tokens:
            assert token.rpartition(".")[2] not in new, f"a part of a token is in the log: {new}"
        self._tokens.clear()


def _arguments(name: str, certificate: Path, options: Mapping[str, object]) -> Iterator[str]:
    for argument in PLANS[name]:
        yield argument
        if argument == "--tls":
            yield from (str(certificate), str(certificate))
    for option, value in (LOW | dict(options)).items():
        flag = "--" + option.replace("_", "-")
        if value is True:
            yield flag
        elif isinstance(value, tuple):
            yield from (flag, *map(str, value))
        else:
            yield from (flag, "none" if value is None else str(value))


@dataclass(frozen=True, slots=True)
class House:
    """A server, and the witness that lives there."""

    target: Target
    witness: Witness


@contextmanager
def open_house(name: str, certificate: Path, **options: object) -> Iterator[House]:
    with Target(name, certificate, **options) as target:
        scheme = "tcp" if target.is_tcp else "wss" if target.is_tls else "ws"
        url = f"{scheme}://127.0.0.1:{target.port}" + ("" if target.is_tcp else PATH)
        with Witness(url, target.token("witness"), ca=str(certificate) if target.is_tls else None) as witness:
            witness.check(1)
            yield House(target, witness)
