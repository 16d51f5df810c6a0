"""Accepting, and a process that runs out of descriptors."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from analytics_hub.transports._sockets.listener import LONGEST_PAUSE, Listener
from analytics_hub.transports._sockets.loop import SelectorLoop
from analytics_hub.transports._sockets.poller import READ

from .fake_gateway import FakeGateway
from .peer import Clock, serving

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


class FakeSocket(socket.socket):
    """A listening socket with an `accept` that raises the errors of a list."""

    def __init__(self, outcomes: list[OSError]) -> None:
        super().__init__()
        self.outcomes = outcomes

    def accept(self) -> tuple[socket.socket, object]:
        raise self.outcomes.pop(0) if self.outcomes else BlockingIOError


class FakePoller:
    def __init__(self) -> None:
        self.is_watching = False

    def watch(self, sock: socket.socket, events: int, handler: object) -> None:
        self.is_watching = events == READ

    def forget(self, sock: socket.socket) -> None:
        self.is_watching = False


def make(outcomes: list[OSError]) -> tuple[Listener, FakePoller, SelectorLoop, Clock, list[str]]:
    clock, poller, counted = Clock(), FakePoller(), list[str]()
    loop = SelectorLoop(poller, clock)  # type: ignore[arg-type]
    listener = Listener(loop, FakeSocket(outcomes), lambda sock, address: None, counted.append)
    return listener, poller, loop, clock, counted


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_pauses_grow_and_are_logged_once(number: int, caplog: pytest.LogCaptureFixture) -> None:
    listener, poller, loop, clock, counted = make([OSError(number, "x")] * 10)
    pauses = []
    while listener._sock.outcomes:  # type: ignore[attr-defined]
        listener.socket_ready(READ)
        assert not poller.is_watching
        pauses.append(round(loop.timers.next_time() - clock.now, 6))
        clock.now = loop.timers.next_time()
        assert [*loop.timers.pop_due(clock.now)] == [listener]
        listener.timer_expired()
        assert poller.is_watching

    assert pauses == sorted(pauses)
    assert 0 < pauses[0] < 0.1
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE, abs=0.06)
    assert counted == [f"accept-{errno.errorcode[number].lower()}"] * 10
    assert caplog.text.count("cannot accept connections for now") == 1

    listener.socket_ready(READ)
    listener.socket_ready(READ)

    assert caplog.text.count("accepting connections again") == 1
    listener.close()
    listener.close()


def test_a_client_that_left_before_it_was_accepted_is_skipped() -> None:
    listener, poller, _, _, counted = make([ConnectionAbortedError(), OSError(errno.EPROTO, "x")])

    listener.socket_ready(READ)

    assert poller.is_watching
    assert counted == []
    listener.close()


def test_a_closed_listener_does_not_resume() -> None:
    listener, poller, loop, clock, _ = make([OSError(errno.EMFILE, "x")])
    listener.socket_ready(READ)
    listener.close()

    listener.timer_expired()

    assert not poller.is_watching
    assert [*loop.timers.pop_due(clock.now + 10)] == []


SCRIPT = """
import logging, resource, sys
sys.path.insert(0, {root!r})
import anyio
from analytics_hub.channels import Channel
from analytics_hub.contracts import anonymous
from analytics_hub.hub import Hub
from analytics_hub.transports.websocket import serve

logging.basicConfig(level=logging.INFO, format="%(message)s")

async def main():
    async with Hub([Channel("a")], authenticate=anonymous, grace=0.1) as hub, anyio.create_task_group() as group:
        async def run(*, task_status):
            await serve(hub, port=0, task_status=task_status)
        port = await group.start(run)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        print(port, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        print(hub.statistics().counters["accept-emfile"], flush=True)
        group.cancel_scope.cancel()

anyio.run(main, backend={backend!r}, backend_options={options!r})
"""


def test_a_server_without_descriptors_waits_and_recovers(anyio_backend: tuple[str, dict[str, object]]) -> None:
    """anyio's own listener would end for good, on both backends."""
    script = SCRIPT.format(root=str(ROOT), backend=anyio_backend[0], options=anyio_backend[1])
    server = subprocess.Popen(
        [sys.executable, "-c", script], stdin=-1, stdout=-1, stderr=-1, text=True, env=os.environ, cwd=ROOT
    )
    with server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(120)]
        head = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
        clients[0].sendall(head)
        assert clients[0].recv(12) == b"HTTP/1.1 200"
        for client in clients[:-1]:
            client.close()

        clients[-1].sendall(head)  # it was not accepted before the others left

        assert clients[-1].recv(12) == b"HTTP/1.1 200"
        clients[-1].close()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as late:
            late.sendall(head)
            assert late.recv(12) == b"HTTP/1.1 200"
        output, errors = server.communicate("", timeout=20)

    assert int(output) >= 1
    assert errors.count("cannot accept connections for now: Too many open files") == 1
    assert errors.count("accepting connections again") == 1
    assert "Traceback" not in errors
    assert server.returncode == 0


async def test_an_error_in_configure_concerns_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = FakeGateway()

    def refuse(sock: socket.socket) -> None:
        raise OSError(errno.EINVAL, "gone already")

    async with serving(gateway) as port:
        monkeypatch.setattr("analytics_hub.transports._sockets.listener.configure", refuse)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setblocking(False)
            await anyio.wait_readable(client)
            assert client.recv(1) == b""
        assert gateway.counters["accept-failed"] == 1
