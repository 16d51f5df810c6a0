"""Open event streams do not hold a server that wants to stop; `test_hosts.py` has the signal, under every server."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import uvicorn

from analytics_hub import Channel, Hub, anonymous
from analytics_hub.transports.asgi import HubApp, Limits

from .clients import Stream, event_source
from .process import TIMEOUT, Server, free_port

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

APP: Final = """
import os

from analytics_hub import Channel, Hub, anonymous
from analytics_hub.http import Response
from analytics_hub.transports.asgi import HubApp, Limits

hub = Hub([Channel("a")], authenticate=anonymous)


def respond(request):
    if request.path == "/publish-much":
        for _ in range(500):
            hub.publish("a", "x" * 60_000)
    return Response(200, str(os.getpid()).encode())


app = HubApp(hub, respond=respond, limits=Limits(close_timeout=0.2))
"""


def is_told(stream: Stream) -> bool:
    """Whether the stream ends, with a reason."""
    items: list[dict[str, Any]] = []
    try:
        while True:
            items.append(stream.next())
    except EOFError:
        return (items[-1]["type"], items[-1]["code"]) == ("$close", 1012)


def get(url: str) -> str:
    return httpx.get(url, timeout=TIMEOUT, trust_env=False).text


def wait_for_other(url: str, known: str) -> str:
    """The answer of another process than `known`."""
    ends = time.monotonic() + TIMEOUT
    while time.monotonic() < ends:
        try:
            if (answer := get(url)) != known:
                return answer
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"{known} still answers")


def test_uvicorn_reloads_while_a_stream_is_open(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(APP)

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "uvicorn", "--reload", "--port", str(port), "app:app"]

    with Server(command, tmp_path, environment={}) as server:
        url = f"http://127.0.0.1:{server.port}"
        first = get(f"{url}/pid")
        with event_source(f"{url}/events?channels=a") as stream:
            stream.next()
            path.write_text(APP + "\n")
            assert is_told(stream)
        assert wait_for_other(f"{url}/pid", first).isdigit()
        assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM), server.log()


def test_a_client_that_reads_nothing_does_not_hold_uvicorn(tmp_path: Path) -> None:
    """The server would wait for the kernel to send the rest, for a quarter of an hour or for ever."""
    (tmp_path / "app.py").write_text(APP)

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "uvicorn", "--port", str(port), "app:app"]

    with Server(command, tmp_path, environment={}) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(b"GET /events?channels=a HTTP/1.1\r\nHost: hub\r\n\r\n")
        while b"$subscribed" not in sock.recv(4096):
            pass
        for _ in range(5):
            get(f"http://127.0.0.1:{server.port}/publish-much")

        assert server.end(signal.SIGTERM) == -signal.SIGTERM, server.log()
        assert "Traceback" not in server.log(), server.log()


@contextmanager
def serving(**options: Any) -> Iterator[tuple[uvicorn.Server, threading.Thread, str]]:
    """uvicorn in a thread, where it handles no signals."""
    hub = Hub([Channel("a")], authenticate=anonymous, grace=0.1)
    port = free_port()
    app = HubApp(hub, limits=Limits(close_timeout=0.2))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = server.force_exit = True

    guard = threading.Timer(TIMEOUT, stop)
    guard.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server, thread, f"http://127.0.0.1:{port}"
    finally:
        guard.cancel()
        stop()
        thread.join(TIMEOUT)


def test_a_program_stops_its_uvicorn_while_a_stream_is_open() -> None:
    with serving() as (server, thread, url), event_source(f"{url}/events?channels=a") as stream:
        stream.next()
        server.should_exit = True

        assert is_told(stream)
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_uvicorn_ends_after_its_last_request_while_a_stream_is_open() -> None:
    with ExitStack() as stack:
        _, thread, url = stack.enter_context(serving(limit_max_requests=2))
        stream = stack.enter_context(event_source(f"{url}/events?channels=a"))
        stream.next()
        answers = [json.loads(get(f"{url}/healthz")) for _ in range(2)]

        assert answers == [{"status": "ok"}] * 2
        assert is_told(stream)
        thread.join(TIMEOUT)
        assert not thread.is_alive()
