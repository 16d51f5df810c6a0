"""The example that hands out rows of a database together with a position, and the client of `docs/client.md`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from ..client.test_client_page import ROWS
from .pairs import EXAMPLES
from .process import TIMEOUT, Server, free_port

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

CLIENTS = 8


class Client:
    """The client of the page, and the rows that it shows."""

    def __init__(self, port: int) -> None:
        mains: list[Any] = []
        code = ROWS.replace("localhost:8000", f"127.0.0.1:{port}").replace("anyio.run(main)", "mains.append(main)")
        code = code.replace('/hub")', '/hub", jitter=lambda: 0.01)')  # reconnects without a long delay
        exec(compile(code, "docs/client.md", "exec"), {"print": self._print, "mains": mains})
        self.main = mains[0]
        self.rows: list[list[Any]] = []
        self.readings = 0
        self.live = 0
        self._has_changed = anyio.Event()

    async def wait_for(self, count: int) -> None:
        while len(self.rows) < count:
            self._has_changed = anyio.Event()
            await self._has_changed.wait()

    def _print(self, kind: str, *rows: list[Any]) -> None:
        if kind == "rows":
            self.rows, self.readings, self.live = [], self.readings + 1, 0
        else:
            self.live += 1
        self.rows += rows
        self._has_changed.set()


class _Here(Server):
    """The example on a port that was chosen before, so that it can be started there again."""

    def __init__(self, port: int, folder: Path) -> None:
        command = [sys.executable, "-m", "uvicorn", "rows_then_live:app", "--port", str(port)]
        super().__init__(lambda _: command, EXAMPLES, environment={"DATABASE": str(folder / "trades.db")})
        self._chosen = port

    def _start(self) -> None:
        super()._start()
        self.port = self.hub_port = self._chosen


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_rows_and_what_follows_them_have_no_seam(
    tmp_path: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    port = free_port()
    url = f"http://127.0.0.1:{port}/trades"
    clients = [Client(port) for _ in range(CLIENTS)]
    booked: list[list[Any]] = []

    async def book_until_live(http: httpx.AsyncClient, readings: int) -> None:
        """Several at once, until every client has received rows live; then all clients have all rows."""

        async def book() -> None:
            while not all(client.readings == readings and client.live for client in clients):
                answer = await http.post(url, params={"symbol": "EURUSD"})
                assert answer.status_code == 201

        async with anyio.create_task_group() as writers:
            for _ in range(3):
                writers.start_soon(book)
        booked[:] = (await http.get(url)).json()["rows"]
        with anyio.fail_after(TIMEOUT):
            for client in clients:
                await client.wait_for(len(booked))
        assert all(client.rows == booked for client in clients)
        assert [id for id, _ in booked] == list(range(1, len(booked) + 1))

    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT) as http, anyio.create_task_group() as tasks:
        with _Here(port, tmp_path) as server:
            for client in clients:
                tasks.start_soon(client.main)
            await book_until_live(http, readings=1)
            await anyio.to_thread.run_sync(server.end, signal.SIGINT)
        with _Here(port, tmp_path):  # its numbers start again, so the clients read the rows again
            await book_until_live(http, readings=2)
            tasks.cancel_scope.cancel()
