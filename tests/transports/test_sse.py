"""The cursor, the frames and the query of event streams, without sockets."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analytics_hub import Identity, Tuning
from analytics_hub.contracts import Handshake, Peer
from analytics_hub.exceptions import HubDraining, OriginNotAllowed
from analytics_hub.http import Request, Response
from analytics_hub.protocol import MAX_SEQ, Position, Selection
from analytics_hub.transports._http.cursor import LOST, MAX_CURSOR, decode_cursor, encode_cursor
from analytics_hub.transports._http.events import (
    UNREADABLE,
    EventStream,
    InvalidQuery,
    open_stream,
    parse_query,
    refuse_stream,
    resume,
)
from analytics_hub.transports._http.sse import WIRE, greet, say_goodbye

from .fake_gateway import FakeGateway

NAMES = st.text("ABCxyz019._:/-", min_size=1, max_size=30)
EPOCHS = st.one_of(
    st.builds("{}.{}".format, st.sampled_from(["yS6wSVmr_4Bs", "k3f9"]), st.integers(1, 200)),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.text(".~!*%ab", max_size=6),
)
POSITIONS = st.dictionaries(NAMES, st.tuples(EPOCHS, st.integers(0, MAX_SEQ)), max_size=12)


# --- the cursor


@given(POSITIONS.filter(bool))
def test_a_cursor_has_the_position_of_each_channel(positions: dict[str, tuple[str, int]]) -> None:
    cursor = encode_cursor(positions)

    assert decode_cursor(cursor) == {name: Position(*where) for name, where in positions.items()}


@given(POSITIONS)
def test_a_cursor_needs_no_escapes_in_a_header_or_a_query(positions: dict[str, tuple[str, int]]) -> None:
    cursor = encode_cursor(positions)

    assert cursor.isascii()
    assert cursor.isprintable()
    assert not set(cursor) & set(' "#%&+<>?,;=\\')
    assert dict(parse_qsl(f"cursor={cursor}", keep_blank_values=True))["cursor"] == cursor


def test_a_cursor_of_a_hundred_channels_fits_a_header() -> None:
    positions = {
        f"desk-{number}:prices:exposure-by-counterparty": ("yS6wSVmr_4Bs.117", 10**9 + number) for number in range(100)
    }

    cursor = encode_cursor(positions)

    assert len(cursor) < MAX_CURSOR
    assert len(decode_cursor(cursor) or ()) == 100


def test_a_cursor_that_would_be_too_long_is_sent_as_an_invalid_one() -> None:
    cursor = encode_cursor({f"{number:03}{'x' * 200}": ("k3f9.1", 1) for number in range(40)})

    assert cursor == LOST
    assert decode_cursor(cursor) is None


@given(st.text())
@example("a~1~.1")
@example("a~" + "9" * 5000 + "~e")
@example("a~²~e")
@example("a~1~*ff")
@example("a~1~" + "e" * 129)
def test_any_text_decodes_to_valid_positions_or_none(text: str) -> None:
    positions = decode_cursor(text)

    assert positions is None or all(0 <= position.seq <= MAX_SEQ for position in positions.values())


@given(POSITIONS.filter(bool), st.data())
def test_a_truncated_cursor_never_skips_anything(positions: dict[str, tuple[str, int]], data: Any) -> None:
    """A number without its last digits is an earlier position in the same epoch: items are repeated, none is lost."""
    whole = encode_cursor(positions)
    cut = decode_cursor(whole[: data.draw(st.integers(0, len(whole) - 1))]) or {}

    for name, position in cut.items():
        if name in positions and position.epoch == positions[name][0]:
            assert position.seq <= positions[name][1]


# --- frames


def test_a_batch_is_an_event_with_the_cursor_as_its_id() -> None:
    frame = WIRE.frame_at([b'{"seq":2}', b'{"seq":3}'], {"alerts": ("k3f9.1", 3)})

    assert frame == b'id: alerts~3~k3f9.1\nevent: batch\ndata: [{"seq":2},{"seq":3}]\n\n'


def test_a_frame_without_subscriptions_has_no_id() -> None:
    assert WIRE.frame_at([b"{}"], {}) == b"event: batch\ndata: [{}]\n\n"


def test_a_heartbeat_is_a_comment() -> None:
    assert WIRE.frame(()) == b":\n\n"


def test_an_item_of_several_lines_is_one_line_of_data() -> None:
    assert WIRE.frame_at([b'{"a":\r\n1}'], {}) == b'event: batch\ndata: [{"a":  1}]\n\n'


def test_the_retry_of_a_stream_is_once_to_twice_reconnect_min() -> None:
    gateway = FakeGateway()
    gateway.tuning = Tuning(reconnect_min=2.0)

    waits = {int(greet(gateway).split()[1]) for _ in range(50)}

    assert min(waits) >= 2000
    assert max(waits) <= 4000
    assert len(waits) > 1


def test_the_last_event_is_close_without_an_id() -> None:
    gateway = FakeGateway()

    event, data = say_goodbye(gateway, 1012, "the server restarts").decode().rstrip("\n").split("\n")
    (item,) = json.loads(data.removeprefix("data: "))

    assert event == "event: batch"
    assert (item["type"], item["code"], item["reason"]) == ("$close", 1012, "the server restarts")
    assert say_goodbye(gateway, 4429, "too many commands").startswith(b"retry: ")


# --- the query


@pytest.mark.parametrize(
    ("query", "selections"),
    [
        ("", []),
        ("channels=alerts,user:7", [Selection("alerts"), Selection("user:7")]),
        ("channels=", []),
        ("channel=alerts;last=10", [Selection("alerts", last=10)]),
        ("channel=lps;snapshot", [Selection("lps", snapshot=True)]),
        ("channel=lps;snapshot=1;max_hz=2.5", [Selection("lps", snapshot=True, max_hz=2.5)]),
        ("channel=a;since=k3f9.1:12", [Selection("a", since=Position("k3f9.1", 12))]),
        ("channel=a;since=x:y:0", [Selection("a", since=Position("x:y", 0))]),
        ("channels=a&channel=b;max_hz=4&channels=c", [Selection("a"), Selection("b", max_hz=4.0), Selection("c")]),
        ("channel=routing%2Dmetrics%3Blast%3D3&token=secret", [Selection("routing-metrics", last=3)]),
    ],
)
def test_a_query_has_channels_and_their_options(query: str, selections: list[Selection]) -> None:
    assert parse_query(query) == (selections, "")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("chanel=a", "unknown parameter 'chanel'; it must be channels, channel, cursor or token"),
        ("channel=a;first=1", "`first`"),
        ("channel=a;last=ten", "$.last"),
        ("channel=a;last=-1", "$.last"),
        ("channel=a;max_hz=0", "$.max_hz"),
        ("channel=a;max_hz=nan", "$.max_hz"),
        ("channel=a;since=12", "since must be an epoch, a colon and a number"),
        ("channel=a;since=e:x", "$.since.seq"),
        ("channel=a;last=1;last=2", "the option 'last' twice"),
        ("channels=a,b&channel=a;last=1", "'a' is selected twice"),
    ],
)
def test_an_invalid_query_is_refused_with_the_reason(query: str, message: str) -> None:
    with pytest.raises(InvalidQuery) as error:
        parse_query(query)

    assert message in str(error.value)


@given(st.one_of(st.text(), st.text("channel=s;,&%lasti0123:.x")))
@example("channel=a;snapshot=maybe")
@example("channel=;;;=")
def test_any_query_is_parsed_or_refused(query: str) -> None:
    try:
        selections, _ = parse_query(query)
    except InvalidQuery:
        return

    assert max(Counter(selection.channel for selection in selections).values(), default=1) == 1


def test_a_cursor_replaces_the_start_options_and_keeps_max_hz() -> None:
    selections, cursor = parse_query("channel=a;last=5;max_hz=3&channels=b&cursor=a~7~e!added~2~f")

    assert resume(selections, cursor) == [
        Selection("a", since=Position("e", 7), max_hz=3.0),
        Selection("b"),
        Selection("added", since=Position("f", 2)),
    ]


def test_an_invalid_cursor_is_an_unknown_position_in_each_channel() -> None:
    assert resume([Selection("a", last=5), Selection("b", max_hz=1.0)], "gibberish") == [
        Selection("a", since=UNREADABLE),
        Selection("b", since=UNREADABLE, max_hz=1.0),
    ]


# --- the stream


def open_events(query: str, **headers: str) -> EventStream | Response:
    request = Request("GET", "/events", query, {name.replace("_", "-"): value for name, value in headers.items()})
    return open_stream(request, Peer(Handshake(), Identity(id="a")))


def test_a_stream_has_the_channels_of_its_query_and_cursor() -> None:
    """`Last-Event-ID` is newer than the cursor in the query."""
    stream = open_events("channels=a,b&cursor=a~1~e&token=secret", last_event_id="a~5~e!c~7~e")

    assert isinstance(stream, EventStream)
    assert stream.selections == [
        Selection("a", since=Position("e", 5)),
        Selection("b"),
        Selection("c", since=Position("e", 7)),
    ]
    assert "secret" not in repr(stream)


def test_an_invalid_query_is_a_bad_request() -> None:
    response = open_events("channel=a;last=x")

    assert isinstance(response, Response)
    assert response.status == 400
    assert json.loads(response.body)["error"]["code"] == "bad-request"


def test_an_event_source_is_refused_by_a_stream_that_ends_if_it_should_reconnect() -> None:
    """After a 503 an `EventSource` never reconnects; after a stream that ends it does."""
    gateway = FakeGateway()
    gateway.tuning = Tuning(reconnect_min=1.0, reconnect_max=5.0)
    event_source = Request("GET", "/events", headers={"accept": "text/event-stream"})

    response = refuse_stream(gateway, event_source, HubDraining())

    assert response is not None
    assert (response.status, response.content_type) == (200, "text/event-stream; charset=utf-8")
    assert b'"code":1012' in response.body
    assert response.body.startswith(b"retry: ")
    assert refuse_stream(gateway, event_source, OriginNotAllowed()) is None
    assert refuse_stream(gateway, Request("GET", "/events"), HubDraining()) is None


@given(st.text("ab~!.*"), st.text())
def test_a_stream_begins_whatever_its_cursor_is(cursor: str, query: str) -> None:
    stream = open_events(f"channels=a&cursor={quote(query)}", last_event_id=cursor)

    assert isinstance(stream, EventStream)
    assert "a" in [selection.channel for selection in stream.selections]
