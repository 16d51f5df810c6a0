"""Where a server listens: addresses, paths, and sockets of others; and the sentence if it cannot."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from analytics_hub.transports import tcp, websocket
from analytics_hub.transports._sockets import listening
from analytics_hub.transports._sockets.listening import Place
from analytics_hub.transports.websocket import systemd_sockets

from .fake_gateway import FakeGateway, FakeHub
from .peer import HANG_GUARD, Peer, is_served, upgrade

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
needs_paths = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")


async def bind(host: str, port: int) -> list[socket.socket]:
    return await Place(host=host, port=port).listen(16)


@asynccontextmanager
async def serving(
    gateway: FakeGateway, serve: Callable[..., Any] = websocket.serve, **options: Any
) -> AsyncIterator[int]:
    with anyio.fail_after(HANG_GUARD):
        async with anyio.create_task_group() as group:

            async def run(*, task_status: anyio.abc.TaskStatus[int]) -> None:
                await serve(FakeHub(gateway), task_status=task_status, **options)

            yield await group.start(run)
            group.cancel_scope.cancel()


async def connect(path: Path) -> Peer:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    sock.setblocking(False)
    return Peer(sock)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short: the path of a Unix socket may have about 100 bytes."""
    return tmp_path_factory.mktemp("s")


# --- addresses


async def test_port_0_chooses_a_free_port_and_a_used_port_is_a_sentence() -> None:
    (first,) = await bind("127.0.0.1", 0)
    with first:
        port = first.getsockname()[1]
        assert port > 0
        with pytest.raises(OSError, match="cannot listen") as caught:
            await bind("127.0.0.1", port)

    assert str(caught.value).startswith(f"cannot listen on 127.0.0.1:{port}: address in use; another program ")
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("192.0.2.1", "cannot listen on 192.0.2.1:0: this machine has no such address"),
        ("2001:db8::1", "cannot listen on [2001:db8::1]:0: this machine has no such address"),
        ("not a host", "cannot listen on not a host:0: the host is unknown ("),
    ],
)
async def test_an_address_that_cannot_be_used_is_a_sentence(host: str, sentence: str) -> None:
    with pytest.raises(OSError, match="cannot listen") as caught:
        await bind(host, 0)

    assert str(caught.value).startswith(sentence)


async def test_localhost_is_both_families_on_one_port_without_asking_a_resolver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(anyio, "getaddrinfo", None)

    sockets = await bind("localhost", 0)

    names = [sock.getsockname() for sock in sockets]
    for sock in sockets:
        sock.close()
    assert [name[0] for name in names] == ["127.0.0.1", "::1"][: len(names)]
    assert len(names) == (2 if _has_ipv6() else 1)
    assert len({name[1] for name in names}) == 1


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
async def test_localhost_is_refused_if_the_port_is_in_use_on_the_other_family() -> None:
    """Otherwise some clients would reach the other program."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on \[::1\]:{port}: address in use"):
            await bind("localhost", port)

        with socket.create_server(("127.0.0.1", port)):
            pass  # the first family was closed again


async def test_a_free_port_that_is_in_use_on_the_other_family_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []
    listen = listening._listen_on_one

    def fail_twice(family: socket.AddressFamily, address: tuple[object, ...], backlog: int) -> socket.socket:
        if family == socket.AF_INET6:
            attempts.append(len(attempts))
            if len(attempts) < 3:
                raise OSError(errno.EADDRINUSE, "x")
        return listen(socket.AF_INET, ("127.0.0.1", 0), backlog)

    monkeypatch.setattr(listening, "_listen_on_one", fail_twice)

    for sock in await bind("localhost", 0):
        sock.close()
    assert len(attempts) == 3


@pytest.mark.parametrize("serve", [websocket.serve, tcp.serve], ids=["websocket", "tcp"])
async def test_a_server_listens_on_localhost_by_default(serve: Any) -> None:
    gateway = FakeGateway()
    async with serving(gateway, serve, port=0) as port:
        for host in ["127.0.0.1", "::1"] if _has_ipv6() else ["127.0.0.1"]:
            socket.create_connection((host, port)).close()


async def test_an_address_of_another_machine_is_skipped_if_there_is_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def getaddrinfo(*args: object, **options: object) -> Sequence[tuple[object, ...]]:
        return [(socket.AF_INET, 1, 6, "", ("192.0.2.1", 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)

    (sock,) = await bind("hub.example", 0)

    sock.close()


async def test_an_empty_host_means_every_interface() -> None:
    sockets = await bind("", 0)

    with socket.create_connection(("127.0.0.1", sockets[0].getsockname()[1])):
        pass
    for sock in sockets:
        sock.close()


# --- paths


@needs_paths
@pytest.mark.parametrize("serve", [websocket.serve, tcp.serve], ids=["websocket", "tcp"])
async def test_a_unix_socket_serves_and_its_file_goes_with_it(serve: Any, folder: Path) -> None:
    gateway, path = FakeGateway(), folder / "hub.sock"
    async with serving(gateway, serve, uds=path) as port:
        assert port == 0
        assert stat.S_ISSOCK(path.lstat().st_mode)
        async with await connect(path) as peer:
            if serve is websocket.serve:
                await peer.send(upgrade())
                assert (await peer.read_head()).status == 101
            await gateway.until(lambda: gateway.sessions)
            assert gateway.session.handshake.client == "127.0.0.1"
            assert gateway.session.write(b"1")
            await peer.read(2)
        await gateway.until(lambda: not gateway.connected)

    assert not path.exists()


@needs_paths
async def test_a_unix_peer_that_reads_nothing_is_noticed_and_its_end_too(folder: Path) -> None:
    gateway, path = FakeGateway(), folder / "hub.sock"
    async with serving(gateway, tcp.serve, uds=path), await connect(path) as peer:
        await gateway.until(lambda: gateway.sessions)
        taken = 0
        while gateway.session.write(b'"' + b"x" * 16_382 + b'"'):
            taken += 1
        assert 4 <= taken < 40
        peer.sock.close()
        await gateway.until(lambda: not gateway.connected)


@needs_paths
async def test_the_file_of_a_crash_is_replaced_and_that_of_a_server_is_not(folder: Path) -> None:
    path = folder / "hub.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    (sock,) = await Place(host="", port=0, uds=path).listen(16)

    with sock, pytest.raises(OSError, match="address in use") as caught:
        await Place(host="", port=0, uds=str(path)).listen(16)
    assert str(caught.value).startswith(f"cannot listen on {path}: address in use; another program listens there")
    assert not path.exists()


@needs_paths
async def test_a_file_that_is_not_a_socket_is_kept(folder: Path) -> None:
    path = folder / "data"
    path.write_text("precious")

    with pytest.raises(OSError, match=r"cannot listen on .*data: there is a file that is not a socket"):
        await Place(host="", port=0, uds=path).listen(16)

    assert path.read_text() == "precious"
    with pytest.raises(OSError, match=r"cannot listen on .*hub\.sock: No such file or directory"):
        await Place(host="", port=0, uds=folder / "nowhere" / "hub.sock").listen(16)


@needs_paths
async def test_a_server_keeps_the_file_of_its_successor(folder: Path) -> None:
    path, other = folder / "hub.sock", folder / "next.sock"
    (old,) = await Place(host="", port=0, uds=path).listen(16)
    (new,) = await Place(host="", port=0, uds=other).listen(16)
    other.rename(path)

    old.close()

    async with await connect(path):
        pass
    new.close()
    path.unlink()


# --- sockets of others


async def test_sockets_that_are_handed_over_are_served_and_closed_at_the_end() -> None:
    gateway = FakeGateway()
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        ports = [sock.getsockname()[1] for sock in sockets]
        async with serving(gateway, sock=sockets) as port:
            assert port == ports[0]
            for each in ports:
                assert await is_served(each)

        assert [sock.fileno() for sock in sockets] == [-1, -1]


async def test_a_descriptor_is_served_and_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for _ in range(2):  # in the same process, as after a hub was entered again
            gateway = FakeGateway()
            async with serving(gateway, fd=taken.fileno()) as port:
                assert port == taken.getsockname()[1]
                assert await is_served(port)


async def test_what_is_no_listening_socket_is_refused() -> None:
    async def listen(**options: Any) -> None:
        await Place(host="", port=0, **options).listen(16)

    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(OSError, match="it must be SOCK_STREAM"):
        await listen(sock=datagrams)
    with pytest.raises(OSError, match="cannot listen on the descriptor 999999: Bad file descriptor"):
        await listen(fd=999_999)
    with pytest.raises(ValueError, match="sock is empty"):
        await listen(sock=[])
    with pytest.raises(TypeError, match="uds and fd are given; a server listens in one place"):
        await listen(uds="x", fd=3)


SCRIPT = """
import anyio
from analytics_hub.channels import Channel
from analytics_hub.contracts import anonymous
from analytics_hub.hub import Hub
from analytics_hub.transports import tcp, websocket
from analytics_hub.transports.websocket import systemd_sockets

async def main():
    async with Hub([Channel("a")], authenticate=anonymous, grace=0.1) as hub, anyio.create_task_group() as group:
        async def run(serve, sock, *, task_status):
            await serve(hub, sock=sock, task_status=task_status)
        await group.start(run, websocket.serve, systemd_sockets("http"))
        await group.start(run, tcp.serve, systemd_sockets("lines"))
        assert len(systemd_sockets()) == 2
        print("serving", flush=True)
        await anyio.to_thread.run_sync(input)
        group.cancel_scope.cancel()

anyio.run(main)
"""


@needs_paths
def test_systemd_passes_sockets_to_a_process(folder: Path) -> None:
    """As systemd does: from descriptor 3 on, with the id of the process in the environment."""
    path = folder / "lines.sock"
    with socket.create_server(("127.0.0.1", 0)) as web, socket.socket(socket.AF_UNIX) as lines:
        lines.bind(str(path))
        lines.listen()
        launcher = (
            "import os, sys\n"
            f"fds = [os.dup({web.fileno()}), os.dup({lines.fileno()})]\n"
            "for number, fd in enumerate(fds): os.set_inheritable(os.dup2(fd, 3 + number), True)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES='http:lines')\n"
            f"os.execv(sys.executable, [sys.executable, '-c', {SCRIPT!r}])\n"
        )
        server = subprocess.Popen(
            [sys.executable, "-c", launcher],
            stdin=-1, stdout=-1, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=(web.fileno(), lines.fileno()),
        )  # fmt: skip
        with server:
            assert server.stdout is not None
            assert server.stdout.readline() == "serving\n"
            with socket.create_connection(web.getsockname(), timeout=20) as client:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(path))
                assert b"$hello" in client.recv(4096)
            server.communicate("\n", timeout=20)
        assert server.returncode == 0


def test_without_systemd_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables in ({}, {"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1"}, {"LISTEN_FDS": "x"}):
        monkeypatch.delenv("LISTEN_PID", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(OSError, match=r"systemd has passed no socket to this process; start it from a \.service"):
            systemd_sockets()
