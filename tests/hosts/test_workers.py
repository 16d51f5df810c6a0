"""Publishing without an event loop: from other processes over HTTP, and from many threads at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..project.layout import ROOT
from .clients import dial
from .pairs import EXAMPLES, PAIRS, Pair
from .probe import Target, running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

# Starlette runs views in threads of its own, Flask beside the event loop of another thread.
(STARLETTE,) = [pair for pair in PAIRS if str(pair) == "Starlette / uvicorn"]
(FLASK,) = [pair for pair in PAIRS if pair.host.name == "Flask"]


@pytest.fixture(scope="module", params=[STARLETTE, FLASK], ids=str)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    pair: Pair = request.param
    with running(pair) as server:
        yield Target(pair, server)


@pytest.mark.parametrize("name", ["worker", "worker_stdlib"])
def test_a_worker_process_publishes_over_http(name: str, target: Target) -> None:
    hub = {"HUB_URL": f"http://{target.base}", "HUB_TOKEN": target.token("nightly", "worker")}
    with dial(target.socket_url(), token=target.token("reader")) as client:
        client.subscribe("trades")

        run = subprocess.run(
            [sys.executable, "-X", "dev", EXAMPLES / f"{name}.py"],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | hub,
            capture_output=True,
            text=True,
            check=False,
        )

        assert (run.returncode, run.stderr) == (0, "")
        assert [client.item("trades")["data"]["symbol"] for _ in range(2)] == ["EURUSD", "GBPUSD"]


def test_views_publish_from_many_threads_at_once(target: Target) -> None:
    with dial(target.socket_url(), token=target.token("reader")) as client:
        client.subscribe("trades")

        with ThreadPoolExecutor(8) as pool:
            booked = list(pool.map(lambda _: target.book(), range(40)))

        items = [client.item("trades") for _ in booked]
        assert sorted(item["data"]["symbol"] for item in items) == sorted(booked)
        assert [item["seq"] - items[0]["seq"] for item in items] == list(range(40))
