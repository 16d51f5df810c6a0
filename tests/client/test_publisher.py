"""`HubPublisher` against a real hub, and against a server that sends scripted answers."""

from __future__ import annotations

import functools
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import anyio
import anyio.from_thread
import msgspec
import pytest
from django.utils.safestring import SafeString

from analytics_hub import (
    AuthenticationError,
    Channel,
    Handshake,
    Hub,
    Identity,
    InvalidItem,
    PermissionDenied,
    TableFull,
    UnknownChannel,
)
from analytics_hub.client import HubPublisher, PublishFailed, TokenRefused
from analytics_hub.contracts import Receipt
from analytics_hub.exceptions import HubError, ItemTooLarge
from analytics_hub.transports.websocket import serve

WRITERS = frozenset({"writer"})
CHANNELS = (
    Channel("events", publishers=WRITERS),
    Channel("table", mode="table", max_keys=1, publishers=WRITERS),
    Channel("durable", mode="durable", publishers=WRITERS),
    Channel("own"),
)


def authenticate(handshake: Handshake) -> Identity:
    if handshake.token is None:
        raise AuthenticationError("missing")
    if handshake.token == "old":
        raise AuthenticationError("expired")
    return Identity(id="worker", roles=frozenset({handshake.token}))


@contextmanager
def serving(**options: Any) -> Iterator[str]:
    """A hub in another thread; its URL."""

    async def run(*, task_status: anyio.abc.TaskStatus[int]) -> None:
        async with Hub(CHANNELS, authenticate=authenticate, grace=0.1) as hub:
            await serve(hub, port=0, task_status=task_status, **options)

    with anyio.from_thread.start_blocking_portal() as portal:
        future, port = portal.start_task(run)
        try:
            yield f"{'https' if options else 'http'}://localhost:{port}"
        finally:
            future.cancel()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as found:
        yield found


class Order(msgspec.Struct):
    symbol: str


def test_payloads_and_keys_may_be_of_the_types_that_a_hub_accepts(url: str) -> None:
    publisher = HubPublisher(url, "writer", encode=str)

    first = publisher.publish("events", {"a": deque([SafeString("x")]), "b": 1j}, type=SafeString("t"))
    (second,) = publisher.publish_many([{"channel": "events", "data": deque([1j])}])
    assert second == Receipt(first.epoch, first.seq + 1)
    for key, text in ((UUID(int=1), str(UUID(int=1))), (7, "7")):
        publisher.publish("table", 1, key=key)
        assert publisher.delete("table", text) is not None
        publisher.publish("table", 1, key=text)
        assert publisher.delete("table", key) is not None
    with pytest.raises(InvalidItem, match=r"\$\.data\.a\[0\] is of type complex; publish"):
        HubPublisher(url, "writer").publish("events", {"a": [1j]})


def test_receipts(url: str) -> None:
    with HubPublisher(url, "writer") as publisher:
        first = publisher.publish("events", Order("EURUSD"), type="order")
        second = publisher.publish("events", None)
        kept = publisher.publish("durable", {"x": 1})
        publisher.publish("table", 1, key="k")

        assert (second.epoch, second.seq) == (first.epoch, first.seq + 1)
        assert kept.seq == 1
        assert publisher.delete("table", "k") is not None
        assert publisher.delete("table", "k") is None


def test_a_refused_item_does_not_affect_the_others(url: str) -> None:
    publisher = HubPublisher(url, lambda: "writer")
    outcomes = publisher.publish_many(
        [
            {"channel": "table", "data": 1, "key": "a"},
            {"channel": "table", "data": 1, "key": "b"},
            {"channel": "nothing", "data": 1},
            {"channel": "own", "data": 1},
            {"channel": "events", "data": 1, "shade": "blue"},
            {"channel": "table", "key": "a", "deleted": True},
            {"channel": "events", "data": msgspec.Raw(b'"last"')},
        ]
    )

    assert [type(outcome) for outcome in outcomes] == [
        Receipt, TableFull, UnknownChannel, PermissionDenied, InvalidItem, Receipt, Receipt
    ]  # fmt: skip
    assert publisher.publish_many([]) == []


def test_refusals_raise_the_exceptions_of_the_package(url: str) -> None:
    publisher = HubPublisher(url, "writer")

    with pytest.raises(UnknownChannel, match="'nothing'"):
        publisher.publish("nothing", 1)
    with pytest.raises(PermissionDenied, match="'own'"):
        publisher.publish("own", 1)
    with pytest.raises(InvalidItem, match="key"):
        publisher.publish("events", 1, key="k")
    with pytest.raises(InvalidItem, match="cannot be encoded"):
        publisher.publish("events", object())
    with pytest.raises(InvalidItem, match="bytes"):
        publisher.publish("events", "x" * 100_000)
    with pytest.raises(ItemTooLarge, match="body"):
        publisher.publish_many([{"channel": "events", "data": "x" * 50_000}] * 4)


@pytest.mark.parametrize(("token", "fault"), [(None, "missing"), ("old", "expired")])
def test_a_rejected_token(url: str, token: str | None, fault: str) -> None:
    with pytest.raises(TokenRefused) as caught:
        HubPublisher(url, token).publish("events", 1)
    assert caught.value.fault == fault
    with pytest.raises(HubError, match="the token is invalid"):
        HubPublisher(url, "two\nlines").publish("events", 1)


def test_tls(server_side: ssl.SSLContext, client_side: ssl.SSLContext) -> None:
    with serving(ssl_context=server_side) as url:
        assert HubPublisher(url, "writer", ssl_context=client_side).publish("events", 1).seq == 1
        with pytest.raises(PublishFailed, match="cannot connect") as caught:
            HubPublisher(url, "writer").publish("events", 1)
        assert not caught.value.is_uncertain


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that sends one of `answers` to each request and disconnects; its URL, and the requests received."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    request = b""
                    while not request.endswith(b"}"):
                        request += connection.recv(65_536)
                    requests.append(request)
                    connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        thread.join()


OK = b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"epoch":"e","seq":7}'
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 6\r\n\r\nslower"
BROKEN = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p/>"
DRAINING = b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 32\r\n\r\n{"error":{"code":"unavailable"}}'
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
UNUSABLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
CRASHED = b'HTTP/1.1 500 Error\r\nContent-Length: 35\r\n\r\n{"error":{"code":"internal-error"}}'


def publisher_for(url: str, **options: Any) -> tuple[Callable[[], Receipt], list[float]]:
    delays: list[float] = []
    publisher = HubPublisher(url, "t", sleep=delays.append, jitter=lambda: 1.0, **options)
    return functools.partial(publisher.publish, "events", 1), delays


def test_the_path_and_the_headers() -> None:
    with answering(OK) as (url, requests):
        receipt = publisher_for(url + "/hub/?tenant=a&token=hidden")[0]()

    head = requests[0].decode()
    assert receipt == Receipt("e", 7)
    assert head.startswith("POST /hub/publish?tenant=a HTTP/1.1\r\n")
    assert "Authorization: Bearer t\r\n" in head
    assert "hidden" not in head


@pytest.mark.parametrize(
    ("answer", "is_uncertain", "message"),
    [(b"", True, "no answer from"), (BROKEN, True, "HTTP 502"), (BUSY, False, "HTTP 429, slower"),
     (DRAINING, False, "HTTP 503"), (MISSING, False, "HTTP 404"), (CRASHED, True, "HTTP 500"),
     (UNUSABLE, True, "not that of an analytics hub")],
    ids=["nothing", "broken", "busy", "draining", "missing", "crashed", "unusable"],
)  # fmt: skip
def test_a_failure_shows_whether_the_item_may_have_been_published(
    answer: bytes, is_uncertain: bool, message: str
) -> None:
    with answering(answer) as (url, _), pytest.raises(PublishFailed, match=message) as caught:
        publisher_for(url)[0]()

    assert caught.value.is_uncertain is is_uncertain


def test_a_request_that_was_certainly_not_processed_is_repeated() -> None:
    with answering(BUSY, BUSY, OK) as (url, _):
        publish, delays = publisher_for(url, attempts=3)
        assert publish().seq == 7
    assert delays == [0.5, 1]

    publish, delays = publisher_for("http://127.0.0.1:1", attempts=2)
    with pytest.raises(PublishFailed, match=r"cannot connect to http://127\.0\.0\.1:1/: Connection refused"):
        publish()
    assert delays == [0.5]


def test_a_request_that_may_have_been_processed_is_repeated_only_with_may_repeat() -> None:
    with answering(b"") as (url, requests), pytest.raises(PublishFailed):
        publisher_for(url, attempts=5)[0]()
    assert len(requests) == 1

    with answering(b"", OK) as (url, requests):
        assert publisher_for(url, attempts=5, may_repeat=True)[0]().seq == 7
    assert len(requests) == 2


def test_a_permanent_failure_is_not_repeated() -> None:
    with answering(MISSING) as (url, _):
        publish, delays = publisher_for(url, attempts=5, may_repeat=True)
        with pytest.raises(PublishFailed, match="HTTP 404"):
            publish()
    assert delays == []


def test_an_exception_of_the_token_function_is_raised_unchanged() -> None:
    def token() -> str:
        raise FileNotFoundError("token.txt")

    with pytest.raises(FileNotFoundError):
        HubPublisher("http://127.0.0.1:1", token).publish("events", 1)


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="must begin with http://"):
        HubPublisher("localhost")
    with pytest.raises(ValueError, match="attempts is 0; it must be at least 1"):
        HubPublisher("http://localhost", attempts=0)
