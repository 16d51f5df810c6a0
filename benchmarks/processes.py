"""Servers and loads as child processes, each on its core, that execute commands in lines."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from . import machine

TIMEOUT_S: Final = 120.0
ROOT: Final = machine.HERE.parent


class Child:
    """A process that answers lines on its standard input with lines of JSON on its standard output."""

    def __init__(self, command: Sequence[str], core: int) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        os.sched_setaffinity(self._process.pid, {core})
        self._unread = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close its input, at which it ends; kill it if it does not."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def send(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def request(self, line: str) -> dict[str, Any]:
        self.send(line)
        return self.answer()

    def answer(self, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """The next line of JSON. Raises `RuntimeError` when the process ends or stays silent instead."""
        assert self._process.stdout
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            if not select.select([descriptor], [], [], timeout)[0]:
                raise RuntimeError(f"{self._process.args!r} was silent for {timeout:g} s")
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise RuntimeError(f"{self._process.args!r} ended with code {self._process.wait()}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Server(Child):
    """A server under test, which reports its `port` when it is ready."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command, machine.cores()[0])
        self.port = int(self.answer()["port"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Counts of a load between two marks; `least` and `most` are the items of a client. Latencies in milliseconds."""

    at: int
    seconds: float
    server_cpu: float
    own_cpu: float
    items: int
    frames: int
    bytes: int
    reads: int
    least: int
    most: int
    p50: float
    p99: float
    max: float
    samples: int
    closed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """How a load connects: each client sends its line of `commands`, from the first again if there are fewer lines."""

    count: int
    commands: Sequence[str] = ()
    deaf: int = 0
    sample: int = 16
    path: str = "/ws/analytics"
    deflate: bool = False
    """Whether they offer permessage-deflate, as a browser does."""


class Load(Child):
    """The load generator with all its clients connected and subscribed."""

    def __init__(self, server: Server, clients: Clients) -> None:
        load = machine.build("load", *(["z"] if clients.deflate else []))
        command = [str(load), "--port", str(server.port), "--server-pid", str(server.pid)]
        command += ["--clients", str(clients.count), "--deaf", str(clients.deaf), "--sample", str(clients.sample)]
        command += ["--path", clients.path, "--deflate", str(int(clients.deflate))]
        with tempfile.TemporaryDirectory() as folder:
            if clients.commands:
                file = Path(folder) / "commands"
                file.write_text("\n".join(clients.commands) + "\n", encoding="utf-8")
                command += ["--commands", str(file)]
            super().__init__(command, machine.cores()[1])
            self.answer()

    def mark(self) -> Mark:
        return Mark(**self.request("mark"))


def handshakes(server: Server, seconds: float, path: str) -> dict[str, float]:
    """Handshakes in a loop for `seconds`: their number, the seconds and the CPU seconds of the server."""
    command = [str(machine.build("load")), "--port", str(server.port), "--server-pid", str(server.pid)]
    command += ["--handshakes", str(seconds), "--path", path]
    with Child(command, machine.cores()[1]) as load:
        return load.answer()
