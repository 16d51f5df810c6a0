"""Servers that have no lifespan, and uvicorn with a costly implementation of WebSockets: what the hub logs, and why."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
import pytest

from .clients import dial
from .process import TIMEOUT, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

APP: Final = """
from analytics_hub import Channel, Hub, anonymous
from analytics_hub.transports.asgi import HubApp, WithLifespan


class LoudHub(Hub):
    async def __aexit__(self, *exc):
        await super().__aexit__(*exc)
        print("the hub has ended in order")


app = HubApp(LoudHub([Channel("a")], authenticate=anonymous, grace=0.1))
wrapped = WithLifespan(app)
"""
DAPHNE: Final = ("daphne", "--port", "{port}")
UVICORN: Final = ("uvicorn", "--lifespan", "off", "--port", "{port}")
GRANIAN: Final = ("granian", "--interface", "asginl", "--port", "{port}")
HYPERCORN: Final = ("hypercorn", "-b", "127.0.0.1:{port}")


def started(folder: Path, command: Sequence[str], target: str, path: str | None = None) -> Server:
    """The application under a server; `path` precedes that of the package."""
    (folder / "app.py").write_text(APP)
    environment = {} if path is None else {"PYTHONPATH": path}
    return Server(
        lambda port: [sys.executable, "-m", *(each.format(port=port) for each in command), f"app:{target}"],
        folder,
        environment=environment,
    )


def health(server: Server) -> int:
    return httpx.get(f"http://127.0.0.1:{server.port}/healthz", timeout=TIMEOUT, trust_env=False).status_code


@pytest.mark.parametrize("command", [DAPHNE, UVICORN, GRANIAN], ids=lambda command: command[0])
def test_the_advice_names_a_server_that_has_no_lifespan(command: Sequence[str], tmp_path: Path) -> None:
    with started(tmp_path, command, "app") as server:
        assert [health(server), health(server)] == [503, 503]
        server.end(signal.SIGTERM)
        log = server.log()

    assert log.count(f"the hub is not running: {command[0]} starts no lifespan here") == 1, log
    assert "write `application = WithLifespan(application)` (from analytics_hub.transports.asgi)" in log


@pytest.mark.parametrize("command", [DAPHNE, UVICORN, GRANIAN, HYPERCORN], ids=lambda command: command[0])
def test_an_application_with_a_lifespan_of_its_own_runs_under_every_server(
    command: Sequence[str], tmp_path: Path
) -> None:
    with started(tmp_path, command, "wrapped") as server:
        assert health(server) == 200
        server.end(signal.SIGTERM)
        log = server.log()

    assert "Traceback" not in log, log
    if command in (DAPHNE, HYPERCORN):  # the others do not tell the application when they end
        assert "the hub has ended in order" in log


def test_uvicorn_with_wsproto_by_accident_is_warned_of_once(tmp_path: Path) -> None:
    """wsproto comes with this package, and uvicorn takes it where there is no websockets."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "websockets.py").write_text("raise ImportError")
    path = f"{hidden}:{Path(__file__).parents[2]}"

    with started(tmp_path, ("uvicorn", "--port", "{port}"), "app", path) as server:
        for _ in range(2):
            with dial(f"ws://127.0.0.1:{server.port}/ws") as client:
                assert client.next()["type"] == "$hello"
        server.end(signal.SIGTERM)
        log = server.log()

    assert log.count("uvicorn serves WebSockets with wsproto here") == 1, log
    assert "pip install 'analytics-hub[uvicorn]'" in log


def test_uvicorn_with_websockets_is_not_warned_of(tmp_path: Path) -> None:
    with started(tmp_path, ("uvicorn", "--port", "{port}"), "app") as server:
        with dial(f"ws://127.0.0.1:{server.port}/ws") as client:
            assert client.next()["type"] == "$hello"
        server.end(signal.SIGTERM)

        assert "analytics_hub" not in server.log(), server.log()
