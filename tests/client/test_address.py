"""One address form: every URL of a hub leads every client to its WebSocket and to its HTTP, wherever these are."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from analytics_hub import AuthenticationError, Channel, Handshake, Hub, Identity
from analytics_hub.cli import main
from analytics_hub.cli.tail import declared_channels
from analytics_hub.client import HandshakeRefused, HubClient, HubPublisher, Item, PublishFailed
from analytics_hub.client.requests import HubRequests
from analytics_hub.client.target import Address
from analytics_hub.exceptions import PermissionDenied
from analytics_hub.transports.asgi import HubApp
from analytics_hub.transports.websocket import serve

CHANNELS = (
    Channel("prices", mode="latest", publishers=frozenset({"any"})),
    Channel("secret", roles=frozenset({"none"})),
    Channel("desk:*"),
)
URLS = {
    "the hub's own server": ("", "/", "/ws", "/ws/analytics", "/events?channels=prices", "/publish"),
    "its own server, another path": ("/live",),  # which cannot be found from elsewhere
    "mounted": ("/hub", "/hub/", "/hub/ws", "/hub/ws/analytics", "/hub/anything", "/hub/publish", "/hub/asyncapi.json"),
    "mounted, another path": ("/own/live",),
    "mounted as /ws": ("/ws", "/ws/ws", "/ws/healthz"),
    "mounted below": ("/api/v1", "/api/v1/ws"),
}
FORMS = [(server, path) for server, paths in URLS.items() for path in paths]


def authenticate(handshake: Handshake) -> Identity:
    """Open to clients without a token."""
    if handshake.token not in (None, "t"):
        raise AuthenticationError("invalid")
    return Identity(id="client", roles=frozenset({"any"}))


class Servers:
    """One hub behind several servers. `posted` are the requests that reached the application around it instead."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal) -> None:
        self.posted: list[str] = []
        self.ports: dict[str, int] = {}
        self._future, _ = portal.start_task(self._run)
        self._uvicorn: uvicorn.Server
        self._portal = portal

    async def _run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with Hub(CHANNELS, authenticate=authenticate, grace=0.1) as hub, anyio.create_task_group() as tasks:
            own, live = list(URLS)[:2]
            self.ports[own] = await tasks.start(lambda task_status: serve(hub, port=0, task_status=task_status))
            self.ports[live] = await tasks.start(
                lambda task_status: serve(hub, port=0, path="/live", task_status=task_status)
            )
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                listener.listen()  # so that connections wait for the server
                self.ports |= dict.fromkeys(list(URLS)[2:], listener.getsockname()[1])
                self._uvicorn = uvicorn.Server(
                    uvicorn.Config(self._application(hub), log_level="error", lifespan="off")
                )
                tasks.start_soon(self._uvicorn.serve, [listener])
                task_status.started()
                await anyio.sleep_forever()

    def _application(self, hub: Hub) -> Starlette:
        async def post(request: Any) -> JSONResponse:
            self.posted.append(request.url.path)
            return JSONResponse({"posted": True})

        app = HubApp(hub)
        places = [Mount("/hub", app), Mount("/own", HubApp(hub, path="live")), Mount("/ws", app), Mount("/api/v1", app)]
        return Starlette(routes=[*places, Route("/publish", post, methods=["POST"])])

    def url(self, server: str, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.ports[server]}{path}"

    def stop(self) -> None:
        self._uvicorn.force_exit = self._uvicorn.should_exit = True
        self._future.cancel()


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    # uvicorn sets signal handlers in the main thread only.
    with anyio.from_thread.start_blocking_portal() as portal:
        found = Servers(portal)
        try:
            yield found
        finally:
            portal.call(found.stop)


async def receive(url: str) -> Any:
    with anyio.fail_after(30):
        async with HubClient(url) as client, client.subscribe("prices") as items:
            item = await anext(items)
            assert isinstance(item, Item)
            return item.data


@pytest.mark.parametrize(("server", "path"), FORMS)
def test_every_url_of_a_hub_finds_its_http_and_its_websocket(server: str, path: str, servers: Servers) -> None:
    for scheme in ("http", "ws"):
        url = servers.url(server, path, scheme)
        HubPublisher(url).publish("prices", [url])

        assert anyio.run(receive, url) == [url]
    assert servers.posted == [], "nothing else of the application was asked to do anything"


def test_no_item_is_posted_to_what_is_not_a_hub(servers: Servers) -> None:
    publisher = HubPublisher(servers.url("mounted", "/nothing"))

    with pytest.raises(PublishFailed, match="HTTP 404"):
        publisher.publish("prices", 1)
    assert servers.posted == []


def test_a_url_without_a_hub_is_refused_as_its_most_likely_place_is(servers: Servers) -> None:
    with pytest.raises(HandshakeRefused, match="nothing is served at this path"):
        anyio.run(receive, servers.url("its own server, another path", "/nothing"))
    with pytest.raises(PermissionDenied):  # so Starlette answers
        anyio.run(receive, servers.url("mounted", "/nothing"))


def test_the_place_that_was_found_is_kept(servers: Servers) -> None:
    publisher = HubPublisher(servers.url("its own server, another path", "/live"))
    publisher.publish("prices", 1)

    assert [mount.resource for mount in publisher._requests._mounts] == ["/"]


# --- the command line


def test_tail_follows_what_an_open_hub_declares_without_a_token(servers: Servers, tmp_path: Path) -> None:
    url = servers.url("mounted", "/hub/ws")
    HubPublisher(url).publish("prices", {"EURUSD": 1.5})
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANALYTICS_HUB")}
    tail = subprocess.Popen(
        [sys.executable, "-m", "analytics_hub", "tail", url],
        env=environment | {"XDG_STATE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)},  # no secret of a demo
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(60, tail.kill)
    guard.start()
    assert tail.stdout is not None
    line = tail.stdout.readline()
    tail.send_signal(signal.SIGINT)
    _, messages = tail.communicate()
    guard.cancel()

    assert "EURUSD=1.5" in line, messages
    assert "name the members of desk:* that you want to follow" in messages
    assert "channel secret refused: forbidden" in messages
    assert tail.returncode == 0


def test_the_channels_are_those_that_the_hub_declares(servers: Servers) -> None:
    address = Address.parse(servers.url("mounted", "/hub", "ws"))
    reported: list[str] = []

    assert declared_channels(HubRequests(address, "t", timeout=10), reported.append) == ["prices", "secret"]
    assert reported == ["name the members of desk:* that you want to follow: a pattern has no list of them"]


def test_tail_waits_for_a_hub_that_cannot_be_reached_yet() -> None:
    class Tired(Exception):
        pass

    delays: list[float] = []

    def sleep(seconds: float) -> None:
        delays.append(seconds)
        if len(delays) == 3:
            raise Tired

    reported: list[str] = []
    requests = HubRequests(Address.parse("http://127.0.0.1:1"), None, timeout=10)
    with pytest.raises(Tired):
        declared_channels(requests, reported.append, sleep)
    assert all("cannot connect to http://127.0.0.1:1/" in text for text in reported)


def test_the_commands_say_that_a_token_is_missing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANALYTICS_HUB_TOKEN", raising=False)
    monkeypatch.setattr("analytics_hub.cli.bearer.demo_secret", lambda: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"channel":"prices","data":1}\n')))
    with anyio.from_thread.start_blocking_portal() as portal:
        locked, port = portal.start_task(serve_locked)
        url = f"http://127.0.0.1:{port}"
        codes = [main(["publish", url]), main(["tail", url]), main(["tail", url, "prices"])]
        locked.cancel()

    assert codes == [1, 1, 1]
    expected = "analytics-hub: the hub requires a token: set ANALYTICS_HUB_TOKEN or --token-file\n"
    assert capfd.readouterr().err == 3 * expected


def refuse(handshake: Handshake) -> Identity:
    raise AuthenticationError("missing")


async def serve_locked(*, task_status: anyio.abc.TaskStatus[int]) -> None:
    async with Hub(CHANNELS, authenticate=refuse, grace=0.1) as hub:
        await serve(hub, port=0, task_status=task_status)
