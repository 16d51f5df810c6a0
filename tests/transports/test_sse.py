"""The cursor, the frames and the query of event streams, without sockets."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analytics_hub import Hub, Identity, Tuning, anonymous
from analytics_hub.contracts import Handshake
from analytics_hub.http import Request, Response
from analytics_hub.protocol import MAX_SEQ, Position, Selection, Subscribe, parse_json
from analytics_hub.transports._http.cursor import LOST, MAX_CURSOR, decode_cursor, encode_cursor
from analytics_hub.transports._http.events import (
    UNREADABLE,
    BadQuery,
    EventStream,
    open_stream,
    parse_query,
    resume,
    turn_away,
)
from analytics_hub.transports._http.sse import WIRE, greet, say_goodbye
from analytics_hub.transports._refusal import DRAINING, FOREIGN_ORIGIN

NAMES = st.text("ABCxyz019._:/-", min_size=1, max_size=30)
EPOCHS = st.one_of(
    st.builds("{}.{}".format, st.sampled_from(["yS6wSVmr_4Bs", "k3f9"]), st.integers(1, 200)),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.text(".~!*%ab", max_size=6),
)
POSITIONS = st.dictionaries(NAMES, st.tuples(EPOCHS, st.integers(0, MAX_SEQ)), max_size=12)


# --- the cursor -----------------------------------------------------------------------------------------------------


@given(POSITIONS.filter(bool))
def test_a_cursor_says_where_every_channel_stands(positions: dict[str, tuple[str, int]]) -> None:
    cursor = encode_cursor(positions)

    assert decode_cursor(cursor) == {name: Position(*where) for name, where in positions.items()}


@given(POSITIONS)
def test_a_cursor_fits_a_header_and_a_query_as_it_is(positions: dict[str, tuple[str, int]]) -> None:
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


def test_a_cursor_that_does_not_fit_is_one_that_nobody_can_read() -> None:
    cursor = encode_cursor({f"{number:03}{'x' * 200}": ("k3f9.1", 1) for number in range(40)})

    assert cursor == LOST
    assert decode_cursor(cursor) is None


@given(st.text())
@example("a~1~.1")
@example("a~" + "9" * 5000 + "~e")
@example("a~²~e")
@example("a~1~*ff")
@example("a~1~" + "e" * 129)
def test_whatever_a_client_sends_is_a_cursor_or_none(text: str) -> None:
    positions = decode_cursor(text)

    assert positions is None or all(0 <= position.seq <= MAX_SEQ for position in positions.values())


@given(POSITIONS.filter(bool), st.data())
def test_a_cursor_that_was_cut_never_skips_anything(positions: dict[str, tuple[str, int]], data: Any) -> None:
    """A number that lost digits is an earlier position in the same epoch: something comes twice, nothing is lost."""
    whole = encode_cursor(positions)
    cut = decode_cursor(whole[: data.draw(st.integers(0, len(whole) - 1))]) or {}

    for name, position in cut.items():
        if name in positions and position.epoch == positions[name][0]:
            assert position.seq <= positions[name][1]


# --- frames ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_an_event_with_the_cursor_as_its_id() -> None:
    frame = WIRE.frame_at([b'{"seq":2}', b'{"seq":3}'], {"alerts": ("k3f9.1", 3)})

    assert frame == b'id: alerts~3~k3f9.1\nevent: batch\ndata: [{"seq":2},{"seq":3}]\n\n'


def test_without_a_subscription_the_place_to_resume_from_stays_what_it_was() -> None:
    assert WIRE.frame_at([b"{}"], {}) == b"event: batch\ndata: [{}]\n\n"


def test_a_heartbeat_is_a_comment() -> None:
    assert WIRE.frame(()) == b":\n\n"


def test_an_item_of_several_lines_is_one_line_of_data() -> None:
    assert WIRE.frame_at([b'{"a":\r\n1}'], {}) == b'event: batch\ndata: [{"a":  1}]\n\n'


def test_browsers_come_back_after_the_time_of_the_tuning_and_not_all_at_once() -> None:
    hub = Hub([], authenticate=anonymous, tuning=Tuning(reconnect_min=2.0))

    waits = {int(greet(hub).split()[1]) for _ in range(50)}

    assert min(waits) >= 2000
    assert max(waits) <= 4000
    assert len(waits) > 1


def test_the_last_event_says_why_and_moves_no_position() -> None:
    hub = Hub([], authenticate=anonymous)

    event, data = say_goodbye(hub, 1012, "the server restarts").decode().rstrip("\n").split("\n")
    (item,) = json.loads(data.removeprefix("data: "))

    assert event == "event: batch"
    assert (item["type"], item["code"], item["reason"]) == ("$close", 1012, "the server restarts")
    assert say_goodbye(hub, 4429, "too many commands").startswith(b"retry: ")


# --- the query ------------------------------------------------------------------------------------------------------


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
def test_channels_and_options_stand_in_the_query(query: str, selections: list[Selection]) -> None:
    assert parse_query(query) == (selections, "")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("chanel=a", "unknown parameter 'chanel'; there are channels, channel, cursor and token"),
        ("channel=a;first=1", "`first`"),
        ("channel=a;last=ten", "$.last"),
        ("channel=a;last=-1", "$.last"),
        ("channel=a;max_hz=0", "$.max_hz"),
        ("channel=a;max_hz=nan", "$.max_hz"),
        ("channel=a;since=12", "since is an epoch, a colon and a number"),
        ("channel=a;since=e:x", "$.since.seq"),
        ("channel=a;last=1;last=2", "'last' twice"),
        ("channels=a,b&channel=a;last=1", "'a' is there twice"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_with_a_sentence(query: str, sentence: str) -> None:
    with pytest.raises(BadQuery) as refused:
        parse_query(query)

    assert sentence in str(refused.value)


@given(st.one_of(st.text(), st.text("channel=s;,&%lasti0123:.x")))
@example("channel=a;snapshot=maybe")
@example("channel=;;;=")
def test_whatever_stands_in_a_query_is_understood_or_refused(query: str) -> None:
    try:
        selections, _ = parse_query(query)
    except BadQuery:
        return

    assert max(Counter(selection.channel for selection in selections).values(), default=1) == 1


def test_a_cursor_goes_before_the_options_but_for_the_pace() -> None:
    selections, cursor = parse_query("channel=a;last=5;max_hz=3&channels=b&cursor=a~7~e!added~2~f")

    assert resume(selections, cursor) == [
        Selection("a", since=Position("e", 7), max_hz=3.0),
        Selection("b"),
        Selection("added", since=Position("f", 2)),
    ]


def test_a_cursor_that_nobody_can_read_says_so_for_each_channel() -> None:
    assert resume([Selection("a", last=5), Selection("b", max_hz=1.0)], "gibberish") == [
        Selection("a", since=UNREADABLE),
        Selection("b", since=UNREADABLE, max_hz=1.0),
    ]


# --- the stream -----------------------------------------------------------------------------------------------------


def ask(query: str, **headers: str) -> EventStream | Response:
    hub = Hub([], authenticate=anonymous, tuning=Tuning(max_subscriptions=3))
    request = Request("GET", "/events", query, {name.replace("_", "-"): value for name, value in headers.items()})
    return open_stream(hub, request, Identity(id="a"), Handshake())


def test_a_stream_subscribes_with_one_command() -> None:
    stream = ask("channels=a,b&token=secret")

    assert isinstance(stream, EventStream)
    (command,) = parse_json(stream.command)
    assert isinstance(command, Subscribe)
    assert command.channels == [Selection("a"), Selection("b")]
    assert "secret" not in repr(stream)


def test_more_channels_than_a_command_may_name_are_all_judged() -> None:
    stream = ask("channels=a,b", last_event_id="c~1~e!d~2~e!b~3~e")

    assert isinstance(stream, EventStream)
    commands = parse_json(stream.command)
    assert [[one.channel for one in command.channels] for command in commands] == [["a", "b", "c"], ["d"]]  # type: ignore[union-attr]


def test_the_header_is_newer_than_the_query() -> None:
    stream = ask("channels=a&cursor=a~1~e", last_event_id="a~5~e")

    assert isinstance(stream, EventStream)
    assert parse_json(stream.command) == [Subscribe(channels=[Selection("a", since=Position("e", 5))])]


def test_a_stream_without_channels_has_nothing_to_say() -> None:
    stream = ask("")

    assert isinstance(stream, EventStream)
    assert stream.command == ""


def test_a_bad_query_is_a_bad_request() -> None:
    response = ask("channel=a;last=x")

    assert isinstance(response, Response)
    assert response.status == 400
    assert json.loads(response.body)["error"]["code"] == "bad-request"


def test_who_reads_events_is_turned_away_for_now_and_not_for_ever() -> None:
    """After a 503 an `EventSource` never comes back; after a stream that ends it does."""
    hub = Hub([], authenticate=anonymous, tuning=Tuning(reconnect_min=1.0, reconnect_max=5.0))
    browser = Request("GET", "/events", headers={"accept": "text/event-stream"})

    response = turn_away(hub, browser, DRAINING)

    assert response is not None
    assert (response.status, response.content_type) == (200, "text/event-stream; charset=utf-8")
    assert b'"code":1012' in response.body
    assert response.body.startswith(b"retry: ")
    assert turn_away(hub, browser, FOREIGN_ORIGIN) is None
    assert turn_away(hub, Request("GET", "/events"), DRAINING) is None


@given(st.text("ab~!.*"), st.text())
def test_a_stream_begins_whatever_its_cursor_is(cursor: str, query: str) -> None:
    stream = ask(f"channels=a&cursor={quote(query)}", last_event_id=cursor)

    assert isinstance(stream, EventStream)
    assert all(isinstance(command, Subscribe) for command in parse_json(stream.command))
