"""Listening sockets: for the addresses of a host, at a path, or handed over by another program."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

LOOPBACK: Final = ("127.0.0.1", "::1")
"""What `localhost` means, whatever the machine's table of hosts has: clients try either first (RFC 6761 §6.3)."""
FIRST_DESCRIPTOR: Final = 3
"""Of those that systemd passes (sd_listen_fds(3))."""
ATTEMPTS: Final = 16
"""Free ports that are tried until one is free for every address of a host."""
_NO_SUCH_ADDRESS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})

SocketAddress = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server listens: `uds`, `fd` or `sock` if one of them is set, otherwise `host` and `port`."""

    host: str
    port: int
    uds: str | os.PathLike[str] | None = None
    fd: int | None = None
    sock: socket.socket | Sequence[socket.socket] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("uds", "fd", "sock") if getattr(self, name) is not None]
        if len(given) > 1:
            raise TypeError(f"{' and '.join(given)} are given; a server listens in one place")

    async def listen(self, backlog: int) -> list[socket.socket]:
        """Listening sockets, at least one. Raises `OSError` with a sentence that names the place."""
        if self.uds is not None:
            return [_listen_at(Path(self.uds), backlog)]
        if self.fd is not None:
            with _explaining(f"the descriptor {self.fd}"):
                return [_adopt(socket.socket(fileno=os.dup(self.fd)), backlog)]
        if self.sock is not None:
            return [_adopt(sock, backlog) for sock in _as_list(self.sock)]
        return await _listen_on(self.host, self.port, backlog)


def systemd_sockets(name: str | None = None) -> list[socket.socket]:
    """The sockets that systemd has passed to this process, for `serve(..., sock=...)`.

    With `name` only those of that `FileDescriptorName=`. Each call returns new sockets for the same descriptors.
    Raises `OSError` if there are none.
    """
    count = 0
    if os.environ.get("LISTEN_PID") == str(os.getpid()):  # a child inherits the variables, not the sockets
        with suppress(ValueError):
            count = int(os.environ.get("LISTEN_FDS", ""))
    if count <= 0:
        raise OSError(
            "systemd has passed no socket to this process; start it from a .service with a .socket unit beside it, "
            "and with `exec` if a shell script does"
        )
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    sockets: list[socket.socket] = []
    for index in range(count):
        descriptor = FIRST_DESCRIPTOR + index
        os.set_inheritable(descriptor, False)
        if name is None or names[index : index + 1] == [name]:
            sockets.append(socket.socket(fileno=os.dup(descriptor)))
    if not sockets:
        raise OSError(f"systemd has passed no socket with the name {name!r}; it has passed {', '.join(names)}")
    return sockets


# --- addresses


async def _listen_on(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`, all on one port; 0 chooses a free one.

    An address that this machine does not have is skipped if there is another one: names often have an IPv6 address on
    machines without IPv6.
    """
    addresses = await _resolve(host, port)
    for attempt in range(ATTEMPTS):
        try:
            return _listen_on_all(addresses, port, backlog)
        except OSError as error:
            # The port that was free for the first address is in use on another one.
            if port or error.errno != errno.EADDRINUSE or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError


async def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, SocketAddress]]:
    if host.lower() == "localhost":
        ipv4, ipv6 = LOOPBACK
        return [(socket.AF_INET, (ipv4, port)), (socket.AF_INET6, (ipv6, port, 0, 0))]
    with _explaining(_show((host, port))):
        infos = await anyio.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((info[0], info[4]) for info in infos))


def _listen_on_all(
    addresses: Sequence[tuple[socket.AddressFamily, SocketAddress]], port: int, backlog: int
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in addresses:
        try:
            sockets.append(_listen_on_one(family, (address[0], port, *address[2:]), backlog))
            port = sockets[0].getsockname()[1]
        except OSError as error:
            missing = error
            if error.errno not in _NO_SUCH_ADDRESS:
                break
    if missing is not None and (not sockets or missing.errno not in _NO_SUCH_ADDRESS):
        for sock in sockets:
            sock.close()
        raise missing
    return sockets


def _listen_on_one(family: socket.AddressFamily, address: SocketAddress, backlog: int) -> socket.socket:
    with _explaining(_show(address)):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # elsewhere it would let a second process take over the port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(backlog)
        except OSError:
            sock.close()
            raise
        return sock


# --- paths


class PathSocket(socket.socket):
    """A Unix socket that listens at a path, whose file goes with it."""

    def __init__(self, path: Path, backlog: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = path
        self._file: tuple[int, ...] | None = None
        try:
            self.setblocking(False)
            self.bind(str(path))
            self._file = (os.getpid(), *_identify(path))
            self.listen(backlog)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        with suppress(OSError):
            # Not the file of a successor that has replaced it, and not that of the parent of a fork.
            if self._file is not None and self._file == (os.getpid(), *_identify(self._path)):
                self._path.unlink()
        self._file = None
        super().close()


def _listen_at(path: Path, backlog: int) -> socket.socket:
    with _explaining(str(path)):
        if not hasattr(socket, "AF_UNIX"):
            raise OSError(errno.EAFNOSUPPORT, "Python has no Unix sockets on this system")
        with _locked(path.parent):
            try:
                return PathSocket(path, backlog)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _is_stale(path):
                    raise
            path.unlink()
            return PathSocket(path, backlog)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Without it, of two processes that find the file of a third that has crashed, one removes that of the other."""
    import fcntl  # only where there are Unix sockets

    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_stale(path: Path) -> bool:
    """Whether the file at `path` is a socket on which no process listens, as a crash leaves it."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError(errno.EEXIST, "there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


def _identify(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


# --- sockets of others


def _as_list(sock: socket.socket | Sequence[socket.socket]) -> Sequence[socket.socket]:
    sockets = [sock] if isinstance(sock, socket.socket) else [*sock]
    if not sockets:
        raise ValueError("sock is empty; it must be a socket, or several")
    return sockets


def _adopt(sock: socket.socket, backlog: int) -> socket.socket:
    with _explaining(f"the socket {_show(sock.getsockname())}"):
        if sock.type != socket.SOCK_STREAM:
            raise OSError(errno.EINVAL, f"its type is {sock.type.name}; it must be SOCK_STREAM")
        sock.setblocking(False)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # otherwise its owner has set the backlog
            sock.listen(backlog)
        return sock


# --- errors


def _show(address: object) -> str:
    if not isinstance(address, tuple):
        return address if isinstance(address, str) and address else "without a name"
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"


@contextmanager
def _explaining(place: str) -> Iterator[None]:
    """Turn an `OSError` into one that is a sentence, and has the same `errno`."""
    try:
        yield
    except OSError as error:
        explained = OSError(f"cannot listen on {place}: {_explain(error)}")
        explained.errno = error.errno
        raise explained from error


def _explain(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the host is unknown ({error.strerror})"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                "address in use; another program listens there, or another process of this one, such as a second "
                "worker: stop it, or choose another place (port 0 is any free port)"
            )
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case errno.EACCES:
            return "permission denied; ports below 1024 need privileges, a path needs a folder that may be written"
        case _:
            return error.strerror or str(error)


__all__ = ["Place", "systemd_sockets"]
