"""Queries and cursors of event streams, and lines of the TCP transport."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import msgspec
from hypothesis import strategies as st

from analytics_hub.channels import check_name
from analytics_hub.contracts import Handshake, Peer
from analytics_hub.exceptions import InvalidChannel
from analytics_hub.http import Request, Response
from analytics_hub.identity import Identity
from analytics_hub.protocol import MAX_SEQ, CloseCode, Position
from analytics_hub.transports._http.cursor import LOST, MAX_CURSOR, decode_cursor, encode_cursor
from analytics_hub.transports._http.events import EventStream, open_stream
from analytics_hub.transports._sockets.decoder import ProtocolFault
from analytics_hub.transports._tcp.lines import LINES, LineDecoder

from ..strategies import NUMBER, joined, prefixed
from ..target import Target, cut
from .commands import check_selection

MAX_ERROR_TEXT: Final = 1024
_MAX_EPOCH: Final = 128


def check_cursor(data: bytes) -> None:
    """A decoded cursor survives another round trip, and is not too long."""
    text = data.decode("latin-1")
    positions = decode_cursor(text)
    if positions is None:
        return
    assert positions
    assert len(positions) <= text.count("!") + 1
    for name, position in positions.items():
        _check_position(position)
        assert check_name(name) == name
    _check_round_trip({name: (position.epoch, position.seq) for name, position in positions.items()})


def _check_position(position: Position) -> None:
    assert len(position.epoch) <= _MAX_EPOCH
    assert 0 <= position.seq <= MAX_SEQ
    position.epoch.encode()


def _check_round_trip(positions: dict[str, tuple[str, int]]) -> None:
    cursor = encode_cursor(positions)
    assert cursor.isascii()
    assert cursor.isprintable()
    assert " " not in cursor
    assert quote(cursor, safe="!*~./-_:") == cursor, "a cursor needs no quoting in a URL"
    assert len(cursor) <= MAX_CURSOR
    if cursor != LOST:
        assert decode_cursor(cursor) == {name: Position(epoch, seq) for name, (epoch, seq) in positions.items()}


def check_positions(data: bytes) -> None:
    """Lines: channel, number, epoch. A cursor keeps the epoch of any journal, or marks the position as lost."""
    positions: dict[str, tuple[str, int]] = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        name, _, rest = line.partition(" ")
        seq, _, epoch = rest.partition(" ")
        try:
            check_name(name)
            number = int(seq[:17])
        except (InvalidChannel, ValueError):
            continue
        if 0 <= number <= MAX_SEQ:
            positions[name] = (epoch[:_MAX_EPOCH].encode("utf-8", "replace").decode(), number)
    if positions:
        _check_round_trip(positions)


# --- queries ----------------------------------------------------------------------------------------------------------

_PEER: Final = Peer(Handshake(), Identity(id="ann"))


def check_query(data: bytes) -> None:
    """The query, and after a line break the `Last-Event-ID`: they become valid selections, or an error."""
    query, _, last_id = data.decode("latin-1").partition("\n")
    headers = {"last-event-id": last_id} if last_id else {}
    stream = open_stream(Request("GET", "/events", query, headers), _PEER)
    if isinstance(stream, Response):
        assert stream.status == 400
        assert len(msgspec.json.decode(stream.body)["error"]["message"]) <= MAX_ERROR_TEXT
        return
    assert isinstance(stream, EventStream)
    names = [selection.channel for selection in stream.selections]
    assert "ey.J" not in repr(stream) or "ey.J" in repr(stream.selections), "the token is shown"
    for selection in stream.selections:
        check_selection(selection)
    assert len(names) == len(set(names))
    assert len(names) <= len(data)


# --- lines ------------------------------------------------------------------------------------------------------------

MAX_LINE: Final = 200


def check_lines(data: bytes) -> None:
    """The first byte selects how the rest is cut. The lines are compared with those of `split`."""
    stream = data[1:]
    decoder = LineDecoder(MAX_LINE)
    lines: list[str | bytes] = []
    code = 0
    try:
        for portion in cut(data[0] if data else 0, stream):
            decoder.feed(portion)
            while not decoder.needs_data:
                before = len(lines)
                for event in decoder.events():
                    lines.append(event.data)  # noqa: PERF401 - lines before a fault count
                assert len(lines) - before <= LINES
            assert len(decoder._rest) <= MAX_LINE + 1
        for message in decoder.finish():
            lines.append(message.data)  # noqa: PERF401 - as above
    except ProtocolFault as fault:
        code = fault.code
    expected, codes = _split(stream)
    assert lines == expected
    assert (code == 0) == (not codes), f"{code}, expected {codes}"
    assert not code or code in codes


def _split(stream: bytes) -> tuple[list[str], tuple[int, ...]]:
    lines: list[str] = []
    *whole, rest = stream.split(b"\n")
    for line in [*whole, *([rest] if rest else ())]:
        if len(line) - line.endswith(b"\r") > MAX_LINE:
            return lines, (CloseCode.TOO_BIG,)
        try:
            lines.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError:
            return lines, (CloseCode.INVALID_DATA,)
    return lines, ()


_NAME: Final = st.sampled_from(["alerts", "table", "latest", "user:1", "nosuch"]) | st.text(max_size=12)
_LINE: Final = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=40)
_OPTION: Final = st.sampled_from(["last=10", "max_hz=4", "snapshot", "since=n.1:3", "last=x", "since=1", "q=1"]) | _LINE
_PART: Final = (
    st.builds(lambda names: "channels=" + ",".join(names), st.lists(_NAME, max_size=4))
    | st.builds(lambda name, options: ";".join([f"channel={name}", *options]), _NAME, st.lists(_OPTION, max_size=3))
    | st.sampled_from(["token=ey.J", "cursor=alerts~1~n.1!user:1~2~.2", "cursor=-", "x=y"])
)
_QUERY: Final = st.lists(_PART, max_size=5).map(lambda parts: "&".join(parts).encode("latin-1", "replace"))
_EPOCH: Final = st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=130)
_ENTRY: Final = st.builds(
    lambda name, seq, epoch: f"{name}~{seq}~{epoch}".encode(),
    _NAME,
    NUMBER,
    st.sampled_from(["n.1", ".2", "x*2Ey", ""]),
)
_POSITION: Final = st.builds(lambda name, seq, epoch: f"{name} {seq} {epoch}".encode(), _NAME, NUMBER, _EPOCH)

CURSOR: Final = Target(
    "cursor",
    check_cursor,
    samples=(
        b"alerts~12~k3f9.1!routing-metrics~1042~.2!user:1~0~.3",
        b"a~9007199254740991~*c3*a9!b~1~x*2Ey!c~2~!d~3~*2Ea.b",
        b"-",
        b"a~1~" + b"e" * 128,
    ),
    words=tuple(b"! ~ . * *2E *7E *25 *00 9007199254740991 9007199254740992 a~1~.2! %41".split()),
    documents=joined(_ENTRY, b"!"),
    longest=9000,
)
POSITIONS: Final = Target(
    "positions",
    check_positions,
    samples=(
        b"alerts 12 k3f9.1\nrouting-metrics 1042 k3f9.2\nuser:1 0 k3f9.3",
        "a 9007199254740991 é.1\nb 1 .x\nc 2 ..\nd 3 \ne 4 a~b!c*d%e f".encode(),
    ),
    words=(*b". ~ ! * % *2E k3f9. 9007199254740991".split(), b" ", b"\n", b"a 1 ", b"\n.b 2 ."),
    documents=joined(_POSITION, b"\n"),
    longest=9000,
)
QUERY: Final = Target(
    "query",
    check_query,
    samples=(
        b"channels=alerts,exposure-updates&channel=routing-metrics;last=10&channel=lp-performance;max_hz=4",
        b"channel=alerts;since=k3f9.1:12&channel=b;snapshot;max_hz=0.5&token=ey.J",
        b"channels=a,b,c,d,e,f,g&cursor=alerts~12~k3f9.1!b~1~.2\nalerts~13~k3f9.1",
        b"channel=user%3A1;snapshot=true\n-",
        b"channels=alerts\n!!!",
    ),
    words=(
        *b"channel= channels= cursor= token= & ; = , last= max_hz= snapshot : since= since=a:1 %3B %2C %00 %ff".split(),
        *(b"+", b"\n", b"nan", b"inf", b"1e-400", b"true", b"x" * 300),
    ),
    documents=_QUERY,
    longest=3000,
)
LINES_TARGET: Final = Target(
    "lines",
    check_lines,
    samples=(
        b'\0{"action":"ping"}\n{"action":"subscribe","channels":["a"]}\r\n\n\r\n',
        b'\x01{"action":"ping"}\r\n' + "añ€".encode() + b"\n",
        b"\x0b" + b"x" * MAX_LINE + b"\r\n" + b"y" * MAX_LINE + b"\n" + b"z" * (MAX_LINE + 1),
        b"\x0a" + b"\n" * 70 + b"rest",
    ),
    words=(b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\n\n\n", b"x" * MAX_LINE, b"y" * (MAX_LINE - 1)),
    documents=prefixed(st.integers(0, 0x3F), joined(st.binary(max_size=250) | st.just(b""), b"\n")),
    longest=1500,
)

TARGETS: Final = (CURSOR, POSITIONS, QUERY, LINES_TARGET)
