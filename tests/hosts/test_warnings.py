"""What an operator must see is on stderr, under a server whose logging leaves this package out, and without logging."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from analytics_hub.auth import mint

from .clients import dial
from .process import Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

SECRET: Final = "an hmac key of thirty-two bytes.."
PAGE: Final = "http://localhost:5173"

HUB: Final = """
import os, anyio
from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp
from analytics_hub.transports.websocket import serve

jwt = JWTAuthenticator("an hmac key of thirty-two bytes..", algorithms=["HS256"])

def authenticate(handshake):
    return {}[jwt(handshake).id]

hub = Hub([Channel("prices")], authenticate=authenticate)
app = HubApp(hub)

async def main():
    async with hub:
        await serve(hub, port=int(os.environ["PORT"]), path="/ws")

if __name__ == "__main__":
    anyio.run(main)
"""

COMMANDS: Final = {
    "uvicorn": ["-m", "uvicorn", "--port", "{port}", "program:app"],
    "native": ["program.py"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_refused_page_and_a_failing_hook_are_on_stderr(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(HUB, "utf-8")
    token = mint(SECRET, subject="ann")

    def start(port: int) -> list[str]:
        return [sys.executable, *(word.format(port=port) for word in command)]

    with Server(start, tmp_path, environment={}) as server:
        url = f"ws://127.0.0.1:{server.port}/ws"
        with dial(url, origin=PAGE) as page:
            page.rest()
            assert page.closed == (4403, "this origin is not allowed")
        with dial(url, origin=f"http://127.0.0.1:{server.port}", subprotocols=[f"bearer.{token}"]) as client:
            client.rest()
            assert client.closed is not None
            assert client.closed[0] == 1011
        log = server.log()

    lines = log.splitlines()
    (refused,) = [line for line in lines if "a page was refused" in line]
    assert refused.startswith("WARNING: analytics_hub: ")
    assert f"its Origin is {PAGE}, the Host as seen here is 127.0.0.1:{server.port}; allowed: " in refused
    assert f'pass origins=["{PAGE}"]' in refused
    (failed,) = [line for line in lines if "authenticate failed" in line]
    where = f"{tmp_path}/program.py:11 in authenticate"
    assert failed == f"ERROR: analytics_hub: authenticate failed: KeyError: 'ann' at {where}"
    assert token not in log
