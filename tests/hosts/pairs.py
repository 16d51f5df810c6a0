"""Which examples run under which servers, and how each pair is started and reached."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from typing import Final

from ..project.layout import ROOT

EXAMPLES: Final = ROOT / "examples"
SECRET: Final = "a secret of forty characters, for tests!"


@dataclass(frozen=True, slots=True)
class Host:
    """An example and its paths."""

    name: str
    target: str
    """`module:attribute` for a server, or the module of a program."""
    prefix: str = "/hub"
    """Where the hub is mounted."""
    socket: str = "/ws"
    """The path of the WebSocket below it."""
    books: bool = True
    """Whether `POST /trades` makes the application publish."""
    is_program: bool = False
    """Whether it publishes prices by itself, to anonymous clients; otherwise it has trades, which need a token."""
    ended_by: signal.Signals = signal.SIGTERM

    @property
    def channel(self) -> str:
        return "prices" if self.is_program else "trades"

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def is_native(self) -> bool:
        """Whether the server of the hub itself serves it, on a port of its own."""
        return ":" not in self.target


HOSTS: Final = (
    Host("the hub alone", "bare_asgi:app", prefix="", books=False, ended_by=signal.SIGINT),
    Host("Starlette", "starlette_app:app"),
    Host("Starlette, draining", "draining_app:app", books=False),
    Host("FastAPI", "fastapi_app:app"),
    Host("Litestar", "litestar_app:app"),
    Host("Quart", "quart_app:asgi_app"),
    Host("quart-trio", "quart_trio_app:asgi_app"),
    Host("Django", "django_app:application"),
    Host("Django Channels", "channels_app:application"),
    Host("Django Channels", "daphne_app:application"),
    Host("Trio", "trio_program", prefix="", socket="/ws/analytics", books=False, is_program=True),
    Host(
        "asyncio",
        "asyncio_program",
        prefix="",
        socket="/ws/analytics",
        books=False,
        is_program=True,
        ended_by=signal.SIGINT,
    ),
    Host("aiohttp", "aiohttp_app", prefix="", socket="/ws/analytics"),
    # Its development server handles no other signal.
    Host("Flask", "flask_app", prefix="", socket="/ws/analytics", ended_by=signal.SIGINT),
)

# With access logs, and nothing that ends them while a client is connected: the hub has to let them end.
SERVERS: Final = {
    "uvicorn": "uvicorn --port {port} {target}",
    "uvicorn, websockets": "uvicorn --ws websockets --port {port} {target}",
    "uvicorn, wsproto": "uvicorn --ws wsproto --port {port} {target}",
    "hypercorn, asyncio": "hypercorn -k asyncio --access-logfile - --graceful-timeout 600 -b 127.0.0.1:{port} {target}",
    "hypercorn, Trio": "hypercorn -k trio --access-logfile - --graceful-timeout 600 -b 127.0.0.1:{port} {target}",
    "granian": "granian --interface asgi --access-log --port {port} {target}",
    "daphne": "daphne --access-log - --port {port} {target}",
}
NATIVE: Final = "its own"
PROGRAMS: Final = {"Flask": "flask --app {target} run --port {port}"}
"""Not started by `python MODULE.py`."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One example under one server."""

    host: Host
    server: str

    def __str__(self) -> str:
        return f"{self.host.name} / {self.server}"

    def command(self, port: int) -> list[str]:
        """The command of the documentation, except for the port."""
        line = PROGRAMS.get(self.host.name) if self.host.is_native else SERVERS[self.server]
        if line is None:
            return [sys.executable, f"{self.host.module}.py"]
        return [sys.executable, "-m", *line.format(port=port, target=self.host.target).split()]


_RUNS: Final = {
    "bare_asgi": ("uvicorn", "hypercorn, Trio", "granian"),
    "starlette_app": tuple(server for server in SERVERS if server != "daphne"),  # it has no lifespan
    "draining_app": ("uvicorn",),
    "fastapi_app": ("uvicorn", "granian"),
    "litestar_app": ("uvicorn", "hypercorn, Trio"),
    "quart_app": ("hypercorn, asyncio",),
    "quart_trio_app": ("hypercorn, Trio",),
    "django_app": ("uvicorn", "hypercorn, asyncio"),
    "channels_app": ("uvicorn, wsproto",),
    "daphne_app": ("daphne",),
}

PAIRS: Final = tuple(Pair(host, server) for host in HOSTS for server in _RUNS.get(host.module, (NATIVE,)))
CONCURRENT: Final = 4
"""Pairs that are examined at the same time, because each waits for its process to start and to end."""
