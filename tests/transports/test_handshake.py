"""The HTTP request and the upgrade, by example; `tests/fuzz` checks arbitrary bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.http import MAX_BODY, Request, Response
from analytics_hub.transports._sockets.limits import MAX_HEAD
from analytics_hub.transports._websocket.handshake import accept, check_upgrade
from analytics_hub.transports._websocket.http11 import MAX_HEADERS, MAX_PIECES, Exchange, RequestError

from .peer import ACCEPT, KEY, upgrade


def receive(*portions: bytes) -> Request:
    exchange = Exchange()
    for portion in portions:
        if (request := exchange.receive(portion)) is not None:
            return request
    raise AssertionError("the request is not complete")


def refusal(*portions: bytes) -> Response:
    with pytest.raises(RequestError) as caught:
        check_upgrade(receive(*portions), "1.1", compresses=True)
    return caught.value.response


# --- requests


def test_a_request_with_a_body() -> None:
    head = b"POST /login?x=1&y HTTP/1.1\r\nHost: hub\r\nContent-Length: 5\r\nX-A: 1\r\nX-a: 2\r\n\r\n"

    request = receive(head, b"he", b"llo")

    assert (request.method, request.path, request.query, request.body) == ("POST", "/login", "x=1&y", b"hello")
    assert request.headers == {"host": "hub", "content-length": "5", "x-a": "1, 2"}


@given(st.lists(st.integers(min_value=1, max_value=60)))
def test_a_request_may_be_split_anywhere(sizes: list[int]) -> None:
    whole = upgrade("X-Long: " + "y" * 200)
    portions = []
    rest = whole
    for size in sizes:
        portions.append(rest[:size])
        rest = rest[size:]

    assert receive(*portions, rest) == receive(whole)


def test_a_request_target_may_be_a_whole_url() -> None:
    request = receive(b"GET http://hub:7999/a/b?c=d HTTP/1.1\r\nHost: hub:7999\r\n\r\n")

    assert (request.path, request.query) == ("/a/b", "c=d")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, id="TLS on the plain port"),
        pytest.param(b"\r\n\r\n", 400, id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET /\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400, id="HTTP/2.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\n", 400, id="the preface of HTTP/2"),
        pytest.param(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="a star"),
        pytest.param(b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="another scheme"),
        pytest.param(b"GET http://[a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="a broken URL"),
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\r\n\r\n", 400, id="bare line feeds"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 400, id="a bare carriage return"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400, id="a folded header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, id="a blank before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", 400, id="NUL"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, id="an invalid length"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400, id="two lengths"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400, id="another coding"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            id="smuggling",
        ),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 147457\r\n\r\n", 413, id="a long body declared"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n24001\r\n" + b"x" * (MAX_BODY + 1),
            413,
            id="a long body in chunks",
        ),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, id="a bad chunk"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * (MAX_PIECES + 1),
            400,
            id="too many chunks",
        ),
        pytest.param(b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, id="a long line"),
        pytest.param(b"GET /" + b"a" * (MAX_HEAD + 1), 414, id="a line without end"),
        pytest.param(upgrade(*(f"X-{number}: y" for number in range(MAX_HEADERS))), 431, id="too many headers"),
        pytest.param(upgrade(*(f"X-{number}: y" for number in range(5000))), 431, id="5000 headers at once"),
        pytest.param(upgrade(f"X-Long: {'y' * MAX_HEAD}"), 431, id="a long header"),
        pytest.param(upgrade(*(f"X-{number}: {'y' * 6000}" for number in range(6))), 431, id="a long head"),
        pytest.param(upgrade("X-Name: \xe9\xff"), 400, id="not ASCII"),
    ],
)
def test_invalid_requests_are_refused(head: bytes, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        receive(head)

    assert caught.value.response.status == status


def test_a_head_may_be_as_long_as_the_limit_and_no_longer() -> None:
    """The cookies of a whole site are in one header."""
    rest = len(upgrade("Cookie: "))
    for limit in (2000, MAX_HEAD):
        whole = upgrade("Cookie: " + "c" * (limit - rest + 4))  # its end does not count
        request = Exchange(limit).receive(whole)
        assert request is not None
        assert len(request.headers["cookie"]) == limit - rest + 4
        with pytest.raises(RequestError, match=f"at most {limit} bytes") as caught:
            Exchange(limit).receive(upgrade("Cookie: " + "c" * (limit - rest + 5)))
        assert caught.value.response.status == 431


def test_bytes_after_a_handshake_are_kept() -> None:
    exchange = Exchange()

    request = exchange.receive(upgrade() + b"frames")

    assert request is not None
    chosen = check_upgrade(request, "1.1", compresses=False)
    assert b"Sec-WebSocket-Accept: " + ACCEPT.encode() in accept(exchange, chosen)
    assert exchange.trailing == b"frames"


def test_an_answer_has_its_length_and_closes_the_connection() -> None:
    exchange = Exchange()
    exchange.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    head, _, body = exchange.answer(Response(200, b"hello", headers=[("X-A", "b")])).partition(b"\r\n\r\n")

    assert body == b"hello"
    for line in (b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Connection: close", b"X-A: b"):
        assert line in head


def test_the_answer_to_head_has_no_body() -> None:
    exchange = Exchange()
    exchange.receive(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")

    answer = exchange.answer(Response(299, b"hello"))

    assert b"Content-Length: 5" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_100_continue_is_sent_once_to_clients_that_wait_for_it() -> None:
    exchange = Exchange()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"

    assert exchange.receive(head) is None
    assert exchange.encode_continue().startswith(b"HTTP/1.1 100 ")
    assert exchange.encode_continue() == b""
    assert exchange.receive(b"x") is not None


# --- upgrades


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(upgrade(drop=("Upgrade",)), 426, id="no upgrade"),
        pytest.param(upgrade(drop=("Connection",)), 426, id="no connection"),
        pytest.param(upgrade("Upgrade: h2c", drop=("Upgrade",)), 426, id="another upgrade"),
        pytest.param(upgrade("Connection: close", drop=("Connection",)), 426, id="another connection"),
        pytest.param(upgrade(drop=("Sec-WebSocket-Version",)), 400, id="no version"),
        pytest.param(upgrade("Sec-WebSocket-Version: 8", drop=("Sec-WebSocket-Version",)), 426, id="an old version"),
        pytest.param(upgrade("Sec-WebSocket-Version: 14", drop=("Sec-WebSocket-Version",)), 426, id="a new version"),
        pytest.param(upgrade("Sec-WebSocket-Version: 13"), 400, id="two versions"),
        pytest.param(upgrade(drop=("Sec-WebSocket-Key",)), 400, id="no key"),
        pytest.param(upgrade("Sec-WebSocket-Key:", drop=("Sec-WebSocket-Key",)), 400, id="an empty key"),
        pytest.param(upgrade("Sec-WebSocket-Key: abc", drop=("Sec-WebSocket-Key",)), 400, id="a short key"),
        pytest.param(upgrade(f"Sec-WebSocket-Key: {KEY[:-2]}!=", drop=("Sec-WebSocket-Key",)), 400, id="not base64"),
        pytest.param(upgrade(f"Sec-WebSocket-Key: {'A' * 24}", drop=("Sec-WebSocket-Key",)), 400, id="18 bytes"),
        pytest.param(upgrade(f"Sec-WebSocket-Key: {KEY}"), 400, id="two keys"),
        pytest.param(upgrade(drop=("Host",)), 400, id="no host"),
        pytest.param(upgrade("Content-Length: 3") + b"abc", 400, id="a body"),
        pytest.param(upgrade("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, id="chunks"),
        pytest.param(upgrade().replace(b"GET", b"POST", 1), 405, id="POST"),
        pytest.param(upgrade().replace(b"GET", b"get", 1), 405, id="a method in small letters"),
        pytest.param(upgrade("Sec-WebSocket-Protocol: graphql-ws, mqtt"), 400, id="unknown subprotocols"),
    ],
)
def test_invalid_upgrades_are_refused(head: bytes, status: int) -> None:
    response = refusal(head)

    assert response.status == status
    assert response.body.strip()


def test_an_upgrade_must_be_http_1_1() -> None:
    with pytest.raises(RequestError):
        check_upgrade(receive(upgrade(version="HTTP/1.0")), "1.0", compresses=False)


def test_the_answer_to_another_version_names_the_supported_one() -> None:
    response = refusal(upgrade("Sec-WebSocket-Version: 8", drop=("Sec-WebSocket-Version",)))

    assert ("Sec-WebSocket-Version", "13") in response.headers


def test_names_are_not_case_sensitive_and_lists_may_be_longer() -> None:
    head = upgrade("connection: keep-alive, UPGRADE", "UPGRADE: WebSocket", drop=("Upgrade", "Connection"))

    assert check_upgrade(receive(head), "1.1", compresses=False).subprotocol is None


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("analytics-hub.v1.json", "analytics-hub.v1.json"),
        ("analytics-hub.v2.json, analytics-hub.v1.json", "analytics-hub.v1.json"),
        ("bearer.secret, analytics-hub.v1.json", "analytics-hub.v1.json"),
        ("analytics-hub.v1.msgpack, analytics-hub.v1.json", "analytics-hub.v1.msgpack"),
        ("bearer.secret, analytics-hub.v1.json, analytics-hub.v1.msgpack", "analytics-hub.v1.json"),
        ("bearer.secret", None),
        (", ,", None),
    ],
)
def test_the_first_supported_subprotocol_is_chosen_and_never_a_token(offered: str, chosen: str | None) -> None:
    result = check_upgrade(receive(upgrade(f"Sec-WebSocket-Protocol: {offered}")), "1.1", compresses=False)

    assert result.subprotocol == chosen
    assert "secret" not in repr(result)


def test_the_answer_to_unknown_subprotocols_names_the_supported_ones() -> None:
    body = refusal(upgrade("Sec-WebSocket-Protocol: mqtt")).body

    assert b"analytics-hub.v1.json, analytics-hub.v1.msgpack" in body
