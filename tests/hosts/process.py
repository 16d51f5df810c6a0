"""A server in a process of its own."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from ..project.layout import ROOT

TIMEOUT: Final = 30.0
"""Seconds after which a call counts as hanging; nothing is measured with it."""
ATTEMPTS: Final = 3
"""Starts: another process may take a port before the server binds it."""

# Below the ports of outgoing connections, and each once, because some servers share a port without an error.
# Test processes that run side by side have ranges of their own.
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS: Final = itertools.count(15_000 + _WORKER % 3 * 5_000 + random.randrange(4_500))


def free_port() -> int:
    for port in _PORTS:
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable")


class Server:
    """A process that listens on `port` and `hub_port`; a context manager that leaves nothing running.

    What it prints goes to a file, because a full pipe would stop it.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        cwd: Path,
        *,
        environment: Mapping[str, str],
        has_hub_port: bool = False,
    ) -> None:
        self._command = command
        self._cwd = cwd
        self._environment = environment
        self._has_hub_port = has_hub_port
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        for _ in range(ATTEMPTS):
            self._start()
            if self._is_listening():
                return self
            self._kill()
        log = self.log()
        self._file.close()
        raise AssertionError(f"{self.process.args!r} did not start ({self.process.returncode}):\n{log}")

    def __exit__(self, *exc: object) -> None:
        self._kill()
        self._file.close()

    def _start(self) -> None:
        self.port = free_port()
        self.hub_port = free_port() if self._has_hub_port else self.port
        ports = {"PORT": str(self.port), "HUB_PORT": str(self.hub_port)}
        self.process = subprocess.Popen(
            self._command(self.port),
            cwd=self._cwd,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | ports | dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # some servers start workers, which must not outlive the test
        )
        self._guard = threading.Timer(3 * TIMEOUT, self._kill)
        self._guard.daemon = True
        self._guard.start()

    def _is_listening(self) -> bool:
        """Wait until it accepts connections; False if it has ended instead."""
        for port in {self.port, self.hub_port}:
            while True:
                with socket.socket() as sock:
                    if sock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                try:
                    self.process.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
                return False
        return True

    def end(self, number: signal.Signals) -> int:
        """Signal it and wait; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)

    def log(self) -> str:
        """Everything it has printed."""
        # By position, because the process shares that of the file.
        return os.pread(self._file.fileno(), 1 << 24, 0).decode(errors="replace")

    def _kill(self) -> None:
        self._guard.cancel()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
