"""The HTTP request that begins every connection, and its upgrade to a WebSocket."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

import h11
from hypothesis import strategies as st

from analytics_hub.http import MAX_BODY, Request
from analytics_hub.transports._websocket.deflate import negotiate
from analytics_hub.transports._websocket.handshake import Upgrade, accept, check_upgrade
from analytics_hub.transports._websocket.http11 import MAX_HEADERS, Exchange, RequestError

from ..strategies import prefixed
from ..target import Target, cut

MAX_HEAD: Final = 4096
"""A lower limit than the default, so that inputs reach it."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FIELD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_head(data: bytes) -> None:
    """The first byte selects how the rest is cut."""
    exchange = Exchange(MAX_HEAD)
    taken = 0
    try:
        for portion in cut(data[0] if data else 0, data[1:]):
            taken += len(portion)
            request = exchange.receive(portion)
            if request is not None:
                break
            body = exchange._incomplete.body if exchange._incomplete is not None else b""
            assert len(exchange._head) <= MAX_HEAD
            assert len(exchange._http._receive_buffer) <= MAX_HEAD
            assert len(body) <= MAX_BODY
            exchange.encode_continue()
        else:
            return
    except RequestError as refused:
        check_answer(exchange.answer(refused.response), refused.response.status)
        return
    _check_request(request, exchange)
    head = data[1:].partition(b"\r\n\r\n")[0]
    assert len(head) <= MAX_HEAD
    assert len(exchange.trailing) <= taken
    try:
        upgrade = check_upgrade(request, exchange.http_version, compresses=True)
    except RequestError as refused:
        check_answer(exchange.answer(refused.response), refused.response.status)
    else:
        _check_upgrade(head.decode("ascii"), request, upgrade)
        _check_switch(accept(exchange, upgrade), upgrade)


def _check_request(request: Request, exchange: Exchange) -> None:
    assert _METHOD.fullmatch(request.method)
    assert request.path.startswith("/"), request.path
    assert (request.path + request.query).isascii()
    assert not re.search(r"[\x00-\x20\x7f]", request.path + request.query)
    assert len(request.headers) <= MAX_HEADERS
    assert len(request.body) <= MAX_BODY
    assert exchange.http_version in ("1.0", "1.1")
    for name, value in request.headers.items():
        assert _FIELD.fullmatch(name), name
        assert value.isascii()
        assert not re.search(r"[\x00\r\n]", value)
        is_joined = ", " in value or "; " in value  # and some of them may be empty
        assert is_joined or value == value.strip(" \t")
    assert request.headers.get("content-length", "0").isdigit()


def check_answer(answer: bytes, status: int) -> None:
    """A refusal is a complete HTTP response with a status of 4xx."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "hub")]))
    client.receive_data(answer)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == status
    assert 400 <= status < 500, status


def _check_upgrade(head: str, request: Request, upgrade: Upgrade) -> None:
    """The requirements of RFC 6455 §4.2.1, checked on the head itself."""
    request_line, *lines = head.split("\r\n")
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.lower(), []).append(value.strip(" \t"))

    def tokens(name: str) -> list[str]:
        return [token.strip().lower() for value in fields.get(name, ()) for token in value.split(",")]

    assert request_line.startswith("GET ")
    assert request_line.endswith(" HTTP/1.1")
    assert len(fields["host"]) == 1
    assert "websocket" in tokens("upgrade")
    assert "upgrade" in tokens("connection")
    assert fields["sec-websocket-version"] == ["13"]
    (key,) = fields["sec-websocket-key"]
    assert len(base64.b64decode(key, validate=True)) == 16
    assert not request.body
    assert "transfer-encoding" not in fields
    assert upgrade.key == key
    assert all(upgrade.offered)
    assert repr(upgrade).count("bearer") == 0


def _check_switch(answer: bytes, upgrade: Upgrade) -> None:
    head = answer.decode("ascii")
    assert head.startswith("HTTP/1.1 101 ")
    assert head.endswith("\r\n\r\n")
    lines = [line.partition(": ") for line in head[:-4].split("\r\n")[1:]]
    fields = {name.lower(): value for name, _, value in lines}
    assert len(fields) == len(lines)
    proof = base64.b64encode(hashlib.sha1(upgrade.key.encode() + _GUID, usedforsecurity=False).digest()).decode()
    assert fields["sec-websocket-accept"] == proof
    chosen = fields.get("sec-websocket-protocol")
    assert chosen is None or (chosen in upgrade.offered and not chosen.startswith("bearer."))


# --- extension offers -------------------------------------------------------------------------------------------------

_FLAG: Final = r"(?:server|client)_no_context_takeover"
_WINDOW: Final = r"(?:server|client)_max_window_bits\s*=\s*(?:[89]|1[0-5]|\"(?:[89]|1[0-5])\")|client_max_window_bits"
_OFFER: Final = re.compile(rf"\s*permessage-deflate\s*(?:;\s*(?:{_FLAG}|{_WINDOW})\s*)*")
_NO_TAKEOVER: Final = "server_no_context_takeover; client_no_context_takeover"
_ANSWER: Final = re.compile(rf"permessage-deflate; {_NO_TAKEOVER}(?:; server_max_window_bits=(9|1[0-5]))?")


def check_offers(data: bytes) -> None:
    """Compression is agreed exactly if an offer is valid by RFC 7692 §7.1, and the answer matches that offer."""
    offers = data.decode("ascii", "replace")
    agreement = negotiate(offers)
    valid = [offer for offer in offers.split(",") if _OFFER.fullmatch(offer) and _has_each_once(offer)]
    windows = [_window(offer) for offer in valid]
    possible = [bits for bits in windows if bits is None or bits >= 9]
    assert (agreement is None) == (not possible), (agreement, valid)
    if agreement is not None:
        answer = _ANSWER.fullmatch(agreement.answer)
        assert answer is not None
        assert (int(answer[1]) if answer[1] else None) == possible[0]
        assert agreement.window == (possible[0] or 15)


def _has_each_once(offer: str) -> bool:
    names = [parameter.partition("=")[0].strip() for parameter in offer.split(";")[1:]]
    return len(names) == len(set(names))


def _window(offer: str) -> int | None:
    found = re.search(r"server_max_window_bits\s*=\s*\"?(\d+)", offer)
    return int(found[1]) if found else None


_UPGRADE: Final = (
    b"GET /ws/analytics HTTP/1.1\r\nHost: hub:7999\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n%b"
)
_FRAME: Final = b"\x81\x84\0\0\0\0ping"
_OFFERS: Final = (
    b"permessage-deflate",
    b"permessage-deflate; client_max_window_bits",
    b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    b"permessage-deflate; server_max_window_bits=10, permessage-deflate",
    b'permessage-deflate; server_max_window_bits="15"; client_max_window_bits="9"',
    b"permessage-deflate; server_max_window_bits=8, x-webkit-deflate-frame",
    b"permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=12",
    b"permessage-deflate; mux=1, foo; bar",
)

_CHUNKS: Final = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n"
_LINE: Final = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=40)
_HEADER: Final = st.sampled_from(
    [
        *("Host: hub", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: analytics-hub.v1.json, bearer.x"),
        *("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10", "Origin: null"),
        *("Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked", "Expect: 100-continue"),
    ]
)
_HANDSHAKE: Final = st.permutations(
    [
        *("Host: hub", "Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
)


def _write_head(request_line: str, fields: list[str], more: list[str], body: bytes) -> bytes:
    return "\r\n".join([request_line, *fields, *more, "", ""]).encode("latin-1") + body


_HEAD: Final = st.builds(
    _write_head,
    st.sampled_from(["GET /ws HTTP/1.1", "GET /ws HTTP/1.0", "POST /publish HTTP/1.1", "HEAD / HTTP/1.1"]) | _LINE,
    _HANDSHAKE | st.lists(_HEADER, max_size=8),
    st.lists(_HEADER | _LINE, max_size=2),
    st.sampled_from([b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n"]) | st.binary(max_size=20),
)
HEAD: Final = Target(
    "head",
    check_head,
    samples=tuple(
        how + sample
        for how in (b"\0", b"\x02", b"\x09")
        for sample in (
            _UPGRADE % (b"", b""),
            _UPGRADE % (b"", _FRAME),
            _UPGRADE % (b"Origin: https://hub\r\nSec-WebSocket-Protocol: analytics-hub.v1.json, bearer.ey.J\r\n", b""),
            _UPGRADE % (b"Sec-WebSocket-Extensions: %b\r\nCookie: a=b\r\nCookie: c=d\r\n" % _OFFERS[3], b""),
            _UPGRADE % (b"X-Long: " + b"y" * 300 + b"\r\n" + b"A: b\r\n" * 30, b""),
            (_UPGRADE % (b"X-Long: " + b"y" * 2000 + b"\r\nX-Longer: " + b"z" * 2000, b"\r\n"))[:MAX_HEAD],
            b"GET /events?channels=alerts&token=ey.J HTTP/1.0\r\n\r\n",
            b"GET http://hub:7999/events?x HTTP/1.1\r\nHost: hub:7999\r\nAccept: text/event-stream\r\n\r\n",
            b"POST /publish HTTP/1.1\r\nHost: hub\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
            b"POST /publish HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n%b" % _CHUNKS,
            b"HEAD /healthz HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        )
    ),
    words=(
        *(b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"PRI * HTTP/2.0", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/0.9"),
        *(b"Host: a\r\n", b"Host:\r\n", b"Upgrade: h2c, WebSocket\r\n", b"Connection: keep-alive, Upgrade\r\n"),
        *(b"Content-Length: 0\r\n", b"Content-Length: 147456\r\n", b"Content-Length: 147457\r\n", b"chunked"),
        *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Expect: 100-continue\r\n"),
        *(b"Sec-WebSocket-Version: 8\r\n", b"Sec-WebSocket-Version: 13, 8\r\n", b"Sec-WebSocket-Key: AAAA\r\n"),
        *(b"Sec-WebSocket-Protocol: ", b"analytics-hub.v1.msgpack", b"bearer.", b"Origin: null\r\n", b" folded\r\n"),
        *(b"http://", b"https://[::1]:80/", b"//", b"*", b"?token=", b"#", b"\r", b": ", b",", b"X: " + b"y" * 4090),
        *(b"A: b\r\n" * 100, b"/" + b"a" * 4100, b"\0", b"\r\n "),
    ),
    documents=prefixed(st.integers(0, 0x3F), _HEAD),
    longest=8000,
)

OFFERS: Final = Target(
    "offers",
    check_offers,
    samples=_OFFERS,
    words=(
        *(b";", b",", b"=", b'"', b" ", b"permessage-deflate", b"server_max_window_bits", b"client_max_window_bits"),
        *(b"server_no_context_takeover", b"client_no_context_takeover", b"=8", b"=9", b"=15", b"=16", b"=010", b"=abc"),
    ),
    longest=1024,
)
TARGETS: Final = (HEAD, OFFERS)
