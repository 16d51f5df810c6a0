"""Processes that start in milliseconds: they are forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Self

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.security.server", "tests.security.observer"])


class ForkedProcess:
    """A process that runs `main(connection, *args)`; a context manager that leaves nothing running.

    What it prints goes to a file, because a full pipe would stop it.
    """

    def __init__(self, main: Callable[..., None], *args: object, timeout: float) -> None:
        self._timeout = timeout
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._connection, theirs = multiprocessing.Pipe()
        self._process = _CONTEXT.Process(target=_run, args=(main, theirs, self._log.name, args), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal; None while it runs."""
        return self._process.exitcode

    def send(self, message: object) -> None:
        self._connection.send(message)

    def receive(self) -> Any:
        """The next message of the process."""
        assert self._connection.poll(self._timeout), f"no message within {self._timeout} s:\n{self.log()}"
        try:
            return self._connection.recv()
        except EOFError:
            raise AssertionError(f"the process ended with {self.wait()}:\n{self.log()}") from None

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        self._process.join(self._timeout)
        code = self._process.exitcode
        assert code is not None, f"it still runs after {self._timeout} s:\n{self.log()}"
        return code

    @property
    def log_file(self) -> Path:
        return Path(self._log.name)

    def log(self) -> str:
        """Everything it has printed."""
        return self.log_file.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()
        self._log.close()


def _run(main: Callable[..., None], connection: Connection, log: str, args: tuple[object, ...]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    main(connection, *args)
