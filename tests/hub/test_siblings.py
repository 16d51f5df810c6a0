"""Several workers of one server: each has a hub of its own, which one of them warns of."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import msgspec
import pytest
from websockets.sync.client import ClientConnection, connect

from analytics_hub import Channel
from analytics_hub.hub import siblings

from ..hosts.process import TIMEOUT, Server
from ..project.layout import ROOT
from ..support.forked import ForkedProcess
from .rig import HANG, new_hub

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks of a process are those of POSIX")

APPLICATION = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from analytics_hub import Channel, Hub, anonymous
from analytics_hub.transports.asgi import HubApp
from fastapi import FastAPI

hub = Hub([Channel("prices")], authenticate=anonymous)

@asynccontextmanager
async def lifespan(app):
    async with hub:
        yield

app = FastAPI(lifespan=lifespan)
app.mount("/hub", HubApp(hub))

def job():
    try:
        hub.publish("prices", 2)
    except Exception as error:
        return str(error)

@app.post("/publish")
def publish():
    hub.publish("prices", 1)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(job).result()
"""

SERVERS = {
    "uvicorn": ["uvicorn", "app:app", "--workers", "2", "--port"],
    "gunicorn": ["gunicorn", "app:app", "-w", "2", "-k", "uvicorn.workers.UvicornWorker", "-b"],
    "gunicorn, preloaded": ["gunicorn", "app:app", "--preload", "-w", "2", "-k", "uvicorn.workers.UvicornWorker", "-b"],
}


def command(words: list[str], port: int) -> list[str]:
    at = f"127.0.0.1:{port}" if words[-1] == "-b" else str(port)
    return [sys.executable, "-W", "ignore", "-m", *words, at]


def subscribe(socket: ClientConnection, **options: Any) -> tuple[str, dict[str, Any]]:
    """The node of the process, and its answer."""
    (hello,) = msgspec.json.decode(socket.recv(TIMEOUT))
    socket.send(msgspec.json.encode({"action": "subscribe", "channels": [{"channel": "prices", **options}]}).decode())
    while True:
        for item in msgspec.json.decode(socket.recv(TIMEOUT)):
            if item["type"] == "$subscribed":
                return hello["node"], item["channels"][0]


@pytest.mark.parametrize("name", SERVERS)
def test_the_workers_of_a_server_share_nothing_and_one_of_them_says_so(name: str, tmp_path: Path) -> None:
    words = SERVERS[name]
    if importlib.util.find_spec(words[0]) is None:
        pytest.skip(f"needs {words[0]}")
    (tmp_path / "app.py").write_text(APPLICATION)

    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with Server(lambda port: command(words, port), tmp_path, environment={"PYTHONPATH": path}) as server:
        epochs: dict[str, str] = {}
        while len(epochs) < 2:
            with connect(f"ws://127.0.0.1:{server.port}/hub/ws") as socket:
                node, answer = subscribe(socket)
                epochs[node] = answer["epoch"]
        recovered: set[bool] = set()
        while len(recovered) < 2:  # both processes, or rather both answers
            with connect(f"ws://127.0.0.1:{server.port}/hub/ws") as socket:
                node, answer = subscribe(socket, since={"epoch": next(iter(epochs.values())), "seq": 0})
                assert answer["recovered"] is (node == next(iter(epochs)))
                recovered.add(answer["recovered"])
        said = httpx.post(f"http://127.0.0.1:{server.port}/publish", timeout=TIMEOUT, trust_env=False).json()
        log = server.log()

    assert len(set(epochs.values())) == 2
    assert said.startswith("the hub runs in the parent process")
    assert log.count("another worker of this server, runs a hub of its own") == 1
    assert "WARNING: analytics_hub: process" in log


# --- one process at a time


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setattr(siblings, "gettempdir", lambda: name)
        yield Path(name)


def serve(connection: Connection, folder: str, channel: str) -> None:
    """Enter a hub, report how often it warns, and leave when told to."""
    setattr(siblings, "gettempdir", lambda: folder)  # noqa: B010 - it is no name that the module exports
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("analytics_hub").addHandler(handler)

    async def main() -> None:
        for _ in range(2):
            async with new_hub([Channel(channel)]):
                connection.send(warnings)
                await anyio.to_thread.run_sync(connection.recv)

    anyio.run(main)


class Worker(ForkedProcess):
    def __init__(self, folder: Path, channel: str = "events") -> None:
        super().__init__(serve, str(folder), channel, timeout=HANG)

    def warnings(self) -> list[str]:
        """What it has logged when it has entered its hub."""
        warnings: list[str] = self.receive()
        return warnings


def test_one_warning_is_enough(folder: Path) -> None:
    with Worker(folder) as first, Worker(folder, "another") as stranger:
        assert first.warnings() == stranger.warnings() == []
        with Worker(folder) as second:
            (warning,) = second.warnings()
            assert str(first.pid) in warning
            with Worker(folder) as third:
                assert third.warnings() == []


def test_a_worker_that_takes_the_place_of_another_is_alone(folder: Path) -> None:
    with Worker(folder) as first:
        assert first.warnings() == []
        first.send("leave")
        assert first.warnings() == []  # it has entered its hub again
        first.send("leave")
        assert first.wait() == 0
    with Worker(folder) as killed:
        assert killed.warnings() == []
    with Worker(folder) as second:
        assert second.warnings() == []

        (file,) = folder.glob("*/*")  # that of the killed one is gone
        assert file.name.endswith(f"-{second.pid}")


@pytest.mark.anyio
async def test_a_process_that_no_server_has_started_writes_nothing(folder: Path) -> None:
    async with new_hub():
        assert os.listdir(folder) == []  # noqa: PTH208 - a test may wait for a disk


@pytest.mark.anyio
async def test_a_folder_of_another_user_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("analytics_hub.hub.hub.is_worker", lambda: True)
    (folder / "elsewhere").mkdir()
    siblings._folder()
    for trap in ("link", "writable"):
        with caplog.at_level(logging.DEBUG, "analytics_hub"):
            place = siblings._folder()
            place.rmdir()
            if trap == "link":
                place.symlink_to(folder / "elsewhere")
            else:
                place.mkdir()
                place.chmod(0o777)
            async with new_hub() as hub:
                hub.publish("events", 1)

        assert "other workers cannot be noticed" in caplog.text
        assert list((folder / "elsewhere").iterdir()) == list(place.iterdir()) == []
        caplog.clear()
        place.unlink() if trap == "link" else place.rmdir()
