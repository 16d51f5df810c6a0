"""Answers of a hostile server, read by `HubPublisher`."""

from __future__ import annotations

import io
from http.client import HTTPConnection
from typing import Any, Final, cast

from analytics_hub.client.publisher import HubPublisher
from analytics_hub.client.requests import HubRequests
from analytics_hub.client.target import Address
from analytics_hub.contracts import Receipt
from analytics_hub.exceptions import HubError

from ..target import Target
from .items import LONGEST_WAIT


class _Wire:
    """The socket of `http.client`, from which the answer can be read at once."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def sendall(self, data: object) -> None:
        """Discard it."""

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._answer))

    def close(self) -> None:
        """Nothing is open."""


class _Publisher(HubPublisher):
    """A publisher that gets the same answer to every request."""

    def __init__(self, answer: bytes) -> None:
        # A path that may be that of the mount or of the WebSocket, so that another mount is tried.
        url = "http://hub:7999/live"
        super().__init__(url, "token", attempts=2, sleep=self._wait, jitter=lambda: 0.5)
        self._requests = _Requests(Address.parse(url), "token", timeout=1.0)
        self._requests.given = answer

    @staticmethod
    def _wait(seconds: float) -> None:
        assert 0 <= seconds <= LONGEST_WAIT, seconds


class _Requests(HubRequests):
    given: bytes

    def _connection(self, target: object) -> HTTPConnection:
        connection = HTTPConnection("hub")
        connection.connect = lambda: None  # type: ignore[method-assign]
        connection.sock = cast("Any", _Wire(self.given))
        return connection


def check_receipts(data: bytes) -> None:
    """The first byte selects whether one item or two are published. Only a `HubError` may be raised, of one line."""
    publisher = _Publisher(data[1:])
    try:
        if data[:1] < b"\x80":
            receipt = publisher.publish("alerts", 1)
            assert isinstance(receipt, Receipt)
        else:
            outcomes = publisher.publish_many([{"channel": "alerts", "data": 1}] * 2)
            assert len(outcomes) == 2
            assert all(isinstance(outcome, Receipt | HubError | None) for outcome in outcomes)
    except HubError as error:
        assert str(error).isprintable(), str(error)


_RECEIPT: Final = b'{"epoch":"n.1","seq":3}\n'
_HTTP: Final = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
RECEIPTS: Final = Target(
    "receipts",
    check_receipts,
    samples=tuple(
        how + _HTTP % (status, len(body), body)
        for how, status, body in (
            (b"\0", b"200 OK", _RECEIPT),
            (b"\x80", b"200 OK", b'[{"epoch":"n.1","seq":3},{"error":{"code":"forbidden","message":"no"}}]'),
            (b"\0", b"200 OK", b'{"epoch":null,"seq":null}'),
            (b"\0", b"401 Unauthorized", b'{"error":{"code":"unauthenticated","message":"expired token"}}'),
            (b"\x80", b"503 Busy", b"<html>"),
            (b"\0", b"429 Slow", b'{"error":{"code":"rate-limited","message":"slower"}}'),
        )
    ),
    words=(
        *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: -1\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 100 \r\n\r\n"),
        *(b"[" * 1100, b'{"x":' * 1100, b'"error":', b"null", b"\r\n\r\n", b"\xff", b"Content-Encoding: gzip\r\n"),
        *(b"Content-Type: text/html\r\n", b"A: b\r\n" * 101, b"X: " + b"y" * 3000),
    ),
    longest=8000,
)

TARGETS: Final = (RECEIPTS,)
