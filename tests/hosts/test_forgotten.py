"""An application without `async with hub`: the errors name the missing line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from analytics_hub.auth import mint

from ..project.layout import ROOT
from .clients import dial
from .pairs import EXAMPLES, HOSTS, SECRET, Host, Pair
from .process import TIMEOUT, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

ON_CONNECT: Final = "add `async with hub:` to the lifespan"
ON_PUBLISH: Final = "add `async with hub:` around the application's lifespan"


class Omission(NamedTuple):
    """A change of an example that leaves its hub unentered."""

    host: str
    server: str
    changes: Mapping[str, str]


# Litestar and Django hide errors in production, so these two run in their debug modes.
OMISSIONS: Final = (
    Omission("Starlette", "uvicorn", {", lifespan=lifespan": ""}),
    Omission("FastAPI", "granian", {"lifespan=lifespan": ""}),
    Omission("Litestar", "hypercorn, asyncio", {"lifespan=[hub]": "debug=True"}),
    Omission("Django", "uvicorn, wsproto", {'["type"] == "lifespan" or scope': "", "ROOT_URL": "DEBUG=True, ROOT_URL"}),
)


def host_named(name: str) -> Host:
    (host,) = [host for host in HOSTS if host.name == name]
    return host


def write_changed(host: Host, changes: Mapping[str, str], folder: Path) -> None:
    """Write the example with these changes."""
    source = (EXAMPLES / f"{host.module}.py").read_text("utf-8")
    for old, new in changes.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    (folder / f"{host.module}.py").write_text(source, "utf-8")


@pytest.mark.parametrize("omission", OMISSIONS, ids=lambda omission: f"{omission.host} / {omission.server}")
def test_errors_of_an_unentered_hub_name_the_line_to_add(omission: Omission, tmp_path: Path) -> None:
    host = host_named(omission.host)
    write_changed(host, omission.changes, tmp_path)
    token = mint(SECRET, subject="ann")
    environment = {"ANALYTICS_HUB_SECRET": SECRET}

    with Server(Pair(host, omission.server).command, tmp_path, environment=environment) as server:
        with pytest.raises(InvalidStatus) as refused, ExitStack() as stack:
            stack.enter_context(dial(f"ws://127.0.0.1:{server.port}/hub/ws", token=token))
        url = f"http://127.0.0.1:{server.port}/trades?symbol=A"
        answer = httpx.post(url, json={"symbol": "A"}, timeout=TIMEOUT, trust_env=False)
        server.end(signal.SIGTERM)
        log = server.log()

    assert (refused.value.response.status_code, answer.status_code) == (503, 500)
    assert ON_CONNECT in log
    assert ON_PUBLISH in log
    assert token not in log


def test_the_hubs_own_server_does_not_start_with_an_unentered_hub(tmp_path: Path) -> None:
    host = host_named("Flask")
    write_changed(host, {"        stack.enter_context(portal.wrap_async_context_manager(running))\n": ""}, tmp_path)

    run = subprocess.run(
        [sys.executable, f"{host.module}.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ANALYTICS_HUB_SECRET": SECRET, "HUB_PORT": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )

    assert run.returncode == 1
    assert run.stderr.endswith("add `async with hub:` around `serve`\n")
