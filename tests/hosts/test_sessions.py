"""The examples with sessions: logged-in users get tickets and connect, and pages of other sites do not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
import pytest

from .clients import Socket, dial
from .pairs import EXAMPLES, SECRET, SERVERS
from .process import TIMEOUT, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

OTHER_SITE = "https://evil.example"
CASES = [
    ("starlette_sessions:app", "hypercorn, asyncio"),
    ("fastapi_sessions:app", "uvicorn"),
    ("channels_sessions:application", "uvicorn, wsproto"),
]


class Browser:
    """A browser with a page of the application, and its cookies."""

    def __init__(self, server: Server, http: httpx.Client) -> None:
        self.place = f"127.0.0.1:{server.port}/hub"
        self.origin = f"http://127.0.0.1:{server.port}"
        self.http = http

    def post(self, path: str, *, origin: str | None = None) -> httpx.Response:
        return self.http.post(f"{self.origin}{path}", headers={"Origin": origin or self.origin})

    def ticket(self) -> str:
        response = self.post("/hub/ticket")
        assert response.status_code == 201, response.text
        assert response.headers["Cache-Control"] == "no-store"
        ticket: str = response.json()["ticket"]
        return ticket

    def socket(self, *, ticket: str | None = None, origin: str | None = None) -> AbstractContextManager[Socket]:
        """Like `new WebSocket`: with its cookies, or like a page of another origin with a ticket."""
        cookie = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        return dial(
            f"ws://{self.place}/ws",
            cookie=cookie if ticket is None else None,
            origin=origin or self.origin,
            subprotocols=["analytics-hub.v1.json", *([] if ticket is None else [f"bearer.{ticket}"])],
        )


@contextmanager
def serving(target: str, name: str) -> Iterator[tuple[Browser, Server]]:
    def command(port: int) -> list[str]:
        return [sys.executable, "-m", *SERVERS[name].format(port=port, target=target).split()]

    with (
        Server(command, EXAMPLES, environment={"SESSION_SECRET": SECRET}) as server,
        httpx.Client(timeout=TIMEOUT, trust_env=False) as http,
    ):
        yield Browser(server, http), server


def closed(socket: Socket) -> tuple[int, str] | None:
    socket.rest()
    return socket.closed


@pytest.mark.parametrize(("target", "name"), CASES, ids=[target.partition(":")[0] for target, _ in CASES])
def test_logged_in_users_may_subscribe_until_they_log_out(target: str, name: str) -> None:
    with serving(target, name) as (browser, server):
        logged_out = browser.post("/hub/ticket")
        assert browser.post("/login?user=ann").status_code == 200
        foreign = browser.post("/hub/ticket", origin=OTHER_SITE)
        ticket = browser.ticket()
        with browser.socket(ticket=ticket) as by_ticket, browser.socket() as by_cookie:
            by_ticket.subscribe("trades")
            by_cookie.subscribe("trades")
            with browser.socket(ticket=ticket) as again, browser.socket(origin=OTHER_SITE) as elsewhere:
                ends = [closed(again), closed(elsewhere)]
            logout = browser.post("/logout")
            revoked = [closed(by_ticket), closed(by_cookie)]
        after = browser.post("/hub/ticket")

        assert (logged_out.status_code, foreign.status_code, after.status_code) == (401, 403, 401)
        assert "ticket." not in foreign.text
        assert ends == [(4401, "invalid token"), (4403, "this origin is not allowed")]
        assert logout.json() in (2, {"ended": 2})
        assert revoked == [(4401, "revoked token")] * 2
        assert ticket not in server.log()
        assert "Traceback" not in server.log(), server.log()
