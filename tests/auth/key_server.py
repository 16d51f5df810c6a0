"""A server of key sets on loopback, in threads, with answers that tests choose."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import jwt

GUARD = 30.0
"""Seconds after which a test that hangs fails."""

Answer = Callable[[socket.socket], None]


class KeyServer:
    """Each connection is one request; `answer` may be changed at any time. Leaving it waits for all its threads."""

    def __init__(self, answer: Answer, *, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[str] = []
        self._tls = tls
        self._is_closing = False
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://{'localhost' if self._tls else '127.0.0.1'}:{self.port}/keys"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_closing = True
        socket.create_connection(("127.0.0.1", self.port)).close()  # wakes `accept`
        for thread in self._threads:
            thread.join(GUARD)
            assert not thread.is_alive(), "the client has kept its connection"
        self._listener.close()

    def _start(self, job: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=job, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._is_closing:
                connection.close()
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(GUARD)
            try:
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                with connection:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += connection.recv(4096) or b"\r\n\r\n"
                    self.requests.append(head.partition(b"\r\n")[0].decode())
                    self.answer(connection)
            except OSError:
                pass  # the client has closed the connection


def raw(data: bytes) -> Answer:
    """Send `data` and close."""
    return lambda connection: connection.sendall(data)


def body(content: bytes, status: str = "200 OK", *headers: str) -> Answer:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers, "", ""]
    return raw("\r\n".join(lines).encode() + content)


def keys(*jwks: object) -> Answer:
    """A valid answer with a key set."""
    return body(key_set(*jwks))


def key_set(*jwks: object) -> bytes:
    return json.dumps({"keys": jwks}).encode()


def silent(connection: socket.socket) -> None:
    """Send nothing until the client closes the connection."""
    assert connection.recv(1) == b""


def trickle(beginning: bytes, portions: Iterable[bytes]) -> Answer:
    """Send `beginning`, then a portion now and then for as long as the client stays."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(beginning)
        connection.settimeout(0.002)
        for portion in portions:
            connection.sendall(portion)
            try:
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                pass

    return answer


def flood(beginning: bytes, portion: bytes) -> Answer:
    """Send without end, as fast as it goes."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(portion)

    return answer


def reset(connection: socket.socket) -> None:
    """Reset the connection in the middle of the answer."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def jwk(key: Any, algorithm: str, **members: object) -> dict[str, Any]:
    """The public half of a private key, as a JSON Web Key; None removes a member."""
    found = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    found.pop("key_ops", None)
    return {name: value for name, value in {**found, **members}.items() if value is not None}
