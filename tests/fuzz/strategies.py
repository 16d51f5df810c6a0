"""The same targets, fed by hypothesis with inputs that are well-formed for the most part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from .reference import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from .targets.frames import INFLATES, REFRAMED, frame

Inputs = st.SearchStrategy[bytes]

_HOW: Final = st.integers(0, 0x3F)
_NAME: Final = st.sampled_from(
    ["alerts", "table", "latest", "durable", "secret", "user:1", "user:2", "nosuch"]
) | st.text(max_size=12)
_NUMBER: Final = st.sampled_from([0, 1, 64, 255, 2**53 - 1, 2**53, 2**63, 2**64 - 1]) | st.integers(-1, 2**64)
_LEAF: Final = st.none() | st.booleans() | _NUMBER | st.floats() | st.text(max_size=40)
_VALUE: Final = st.recursive(
    _LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def _record(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(required, optional=optional)


_POSITION: Final = _record({"epoch": st.text(max_size=130), "seq": _NUMBER})
_SELECTION: Final = _record(
    {"channel": _NAME},
    snapshot=st.booleans(),
    since=_POSITION,
    last=_NUMBER,
    max_hz=st.floats() | st.floats(0.1, 1000.0),
)
_ID: Final = st.integers(0, 9) | st.text(max_size=130) | _LEAF
_CHANNELS: Final = st.lists(_NAME | _SELECTION, max_size=6)
_COMMAND: Final = (
    _record({"action": st.just("subscribe"), "channels": _CHANNELS}, id=_ID)
    | _record({"action": st.just("unsubscribe"), "channels": st.lists(_NAME, max_size=6)}, id=_ID)
    | _record({"action": st.just("auth"), "token": st.sampled_from(["good", "bad"]) | st.text()}, id=_ID)
    | _record({"action": st.just("ping")}, id=_ID)
    | _record({"action": st.just("seen"), "frames": _NUMBER})
    | _record({"action": st.text(max_size=9)}, id=_ID, extra=_VALUE)
)
_MESSAGE: Final = _COMMAND | st.lists(_COMMAND, max_size=5) | _VALUE


def _packed(values: st.SearchStrategy[Any], pack: Callable[[Any], bytes]) -> Inputs:
    def try_to(value: Any) -> bytes:
        try:
            return pack(value)
        except (ValueError, OverflowError, TypeError):  # an integer of more than 64 bits, half a surrogate
            return b""

    return values.map(try_to)


def _json(values: st.SearchStrategy[Any]) -> Inputs:
    return _packed(values, msgspec.json.encode)


def _msgpack(values: st.SearchStrategy[Any]) -> Inputs:
    return _packed(values, msgspec.msgpack.encode)


def _led(first: st.SearchStrategy[int], rest: Inputs) -> Inputs:
    return st.builds(lambda byte, data: bytes([byte]) + data, first, rest)


# --- frames

_OPCODE: Final = st.sampled_from([TEXT, TEXT, BINARY, CONTINUATION, CONTINUATION, PING, PONG, CLOSE]) | st.integers(
    0, 15
)
_FIRST: Final = st.builds(
    lambda fin, rsv, opcode: fin << 7 | rsv << 4 | opcode, st.booleans(), st.sampled_from([0, 0, 0, 4, 2, 1]), _OPCODE
)
_PAYLOAD: Final = (
    st.binary(max_size=200)
    | st.text("aé€😀", max_size=70).map(str.encode)
    | st.sampled_from([b"x" * 300, b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0"])
)


def _mask(whole: bytes, key: int) -> bytes:
    """The frame with another mask than the one of zeros."""
    size = len(whole) - 2 - {126: 2, 127: 8}.get(whole[1] & 0x7F, 0) - 4
    mask = key.to_bytes(4, "big")
    head = whole[: len(whole) - size - 4]
    payload = whole[len(whole) - size :]
    return head + mask + bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))


_FRAME: Final = st.builds(_mask, st.builds(frame, _FIRST, _PAYLOAD), st.integers(0, 2**32 - 1))
_FRAMES: Final = st.lists(_FRAME, max_size=8).map(b"".join)
_DESCRIBED: Final = st.lists(
    st.builds(lambda first, payload: bytes([first, len(payload[:255])]) + payload[:255], _FIRST, _PAYLOAD), max_size=8
).map(b"".join)
_INFLATES: Final = st.sampled_from([0, INFLATES])

# --- text

_LINE: Final = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=40)
_FIELD: Final = st.sampled_from(
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


def _head(request_line: str, fields: list[str], more: list[str], body: bytes) -> bytes:
    return "\r\n".join([request_line, *fields, *more, "", ""]).encode("latin-1") + body


_HEAD: Final = st.builds(
    _head,
    st.sampled_from(["GET /ws HTTP/1.1", "GET /ws HTTP/1.0", "POST /publish HTTP/1.1", "HEAD / HTTP/1.1"]) | _LINE,
    _HANDSHAKE | st.lists(_FIELD, max_size=8),
    st.lists(_FIELD | _LINE, max_size=2),
    st.sampled_from([b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n"]) | st.binary(max_size=20),
)
_OPTION: Final = st.sampled_from(["last=10", "max_hz=4", "snapshot", "since=n.1:3", "last=x", "since=1", "q=1"]) | _LINE
_PART: Final = (
    st.builds(lambda names: "channels=" + ",".join(names), st.lists(_NAME, max_size=4))
    | st.builds(lambda name, options: ";".join([f"channel={name}", *options]), _NAME, st.lists(_OPTION, max_size=3))
    | st.sampled_from(["token=ey.J", "cursor=alerts~1~n.1!user:1~2~.2", "cursor=-", "x=y"])
)
_QUERY: Final = st.lists(_PART, max_size=5).map(lambda parts: "&".join(parts).encode("latin-1", "replace"))
_EPOCH: Final = st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=130)
_PLACE: Final = st.builds(lambda name, seq, epoch: f"{name} {seq} {epoch}".encode(), _NAME, _NUMBER, _EPOCH)
_LINES: Final = st.lists(st.binary(max_size=250) | st.just(b""), max_size=8).map(b"\n".join)

# --- tokens, items

_CLAIMS: Final = _record(
    {"sub": st.text(max_size=20) | _LEAF, "exp": st.sampled_from([1_700_000_600, 1_699_999_999]) | _LEAF},
    roles=st.lists(st.text(max_size=9), max_size=3) | _LEAF,
    iat=_LEAF,
    nbf=_LEAF,
    aud=_LEAF,
    jti=_LEAF,
    channels=st.lists(st.text(max_size=9), max_size=3),
)
_ITEM: Final = _record(
    {"channel": _NAME}, data=_VALUE, type=st.text(max_size=9), key=st.text(max_size=9) | _LEAF, deleted=st.booleans()
)
_SENT: Final = _record(
    {"type": st.sampled_from(["$subscribed", "$gap", "$error", "$hello", "$unsubscribed", "alerts"])},
    id=st.integers(0, 5) | _LEAF,
    channel=_NAME,
    channels=st.lists(
        _record({"channel": _NAME}, ok=st.booleans(), epoch=st.text(max_size=5), seq=_NUMBER), max_size=3
    ),
    seq=_NUMBER,
    data=_VALUE,
    to=_NUMBER,
    epoch=_record({"old": st.text(max_size=5), "new": st.text(max_size=5)}),
    after=st.floats(),
    code=st.sampled_from(["rate-limited", "bad-request", "unauthenticated", "forbidden"]),
)

STRATEGIES: Final[dict[str, Inputs]] = {
    "head": _led(_HOW, _HEAD),
    "frames": _led(st.builds(int.__or__, _HOW, _INFLATES), _FRAMES)
    | _led(st.builds(lambda how, flag: REFRAMED | how | flag, _HOW, _INFLATES), _DESCRIBED),
    "commands-json": _json(_MESSAGE),
    "commands-msgpack": _msgpack(_MESSAGE),
    "session": _led(st.just(0), st.lists(_json(_MESSAGE), max_size=8).map(b"\0".join))
    | _led(st.just(1), st.lists(_msgpack(_MESSAGE), max_size=8).map(b"\0\0".join)),
    "data": _json(_VALUE),
    "transcoding": _json(_VALUE),
    "jwt": _led(st.just(1), _json(_CLAIMS)),
    "query": _QUERY,
    "positions": st.lists(_PLACE, max_size=8).map(b"\n".join),
    "lines": _led(_HOW, _LINES),
    "publish": _json(_ITEM | st.lists(_ITEM, max_size=4)),
    "items-json": st.lists(_json(st.lists(_SENT, max_size=4)), max_size=5).map(b"\0".join),
    "items-msgpack": st.lists(_msgpack(st.lists(_SENT, max_size=4)), max_size=5).map(b"\0\0\0".join),
}
"""By target; for others plain bytes do."""
