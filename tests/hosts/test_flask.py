"""The Flask example with several processes: one of them runs the hub, and every process publishes to it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from analytics_hub.auth import mint

from .clients import Socket, dial
from .pairs import EXAMPLES, SECRET
from .process import TIMEOUT, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs forks")

HTTP = httpx.Client(timeout=TIMEOUT, trust_env=False, headers={"Connection": "close"})  # so that any worker is asked
GUNICORN = "gunicorn --graceful-timeout 3 -b 127.0.0.1:{port} flask_app:app -w 2"


@contextmanager
def serving(command: str) -> Iterator[Server]:
    def line(port: int) -> list[str]:
        return [sys.executable, "-m", *command.format(port=port).split()]

    with Server(line, EXAMPLES, environment={"ANALYTICS_HUB_SECRET": SECRET}, has_hub_port=True) as server:
        yield server


@contextmanager
def following(server: Server) -> Iterator[Socket]:
    url = f"ws://127.0.0.1:{server.hub_port}/ws/analytics"
    with dial(url, token=mint(SECRET, subject="reader")) as client:
        client.subscribe("trades")
        yield client


def book(server: Server, symbol: str) -> int:
    url = f"http://127.0.0.1:{server.port}/trades?symbol={symbol}"
    return HTTP.post(url).status_code


@pytest.mark.parametrize(
    "command",
    ["flask --app flask_app run --debug --port {port}", GUNICORN, f"{GUNICORN} --preload"],
    ids=["flask run --debug", "gunicorn", "gunicorn --preload"],
)
def test_what_any_process_publishes_reaches_every_client(command: str) -> None:
    symbols = [f"S{number}" for number in range(12)]
    with serving(command) as server, following(server) as first, following(server) as second:
        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(lambda symbol: book(server, symbol), symbols))
        received = [sorted(client.item("trades")["data"]["symbol"] for _ in symbols) for client in (first, second)]

        assert statuses == [201] * len(symbols), server.log()
        assert received == [sorted(symbols)] * 2
        assert "Traceback" not in server.log()


def test_another_process_takes_the_place_of_the_one_that_ran_the_hub() -> None:
    with serving(GUNICORN) as server:
        with following(server):
            pass
        server.process.send_signal(signal.SIGHUP)  # new workers begin while the old ones still serve
        deadline = time.monotonic() + TIMEOUT
        while "Hang up" not in server.log() or server.log().count("Worker exiting") < 2:
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)
        while book(server, "BEFORE") != 201:
            assert time.monotonic() < deadline, server.log()
        with following(server) as client:
            assert book(server, "AFTER") == 201
            assert client.item("trades")["data"]["symbol"] == "AFTER"
