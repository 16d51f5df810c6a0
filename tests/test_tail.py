"""What `tail` knows and decides, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.cli.rows import Item, gap_row, printable, row
from analytics_hub.cli.tail import STEADY, Ending, NotAHub, Tail

STAMP = "2026-01-19T10:30:45.160Z"


def new_tail(*channels: str, **options: Any) -> Tail:
    return Tail(channels or ("a", "b"), jitter=lambda: 1.0, **options)


def connect(tail: Tail) -> list[dict[str, Any]]:
    """Connect, and return what it selects."""
    tail.connected()
    (command,) = [json.loads(text) for text in tail.data_to_send()]
    assert command["action"] == "subscribe"
    selections: list[dict[str, Any]] = command["channels"]
    return selections


def receive(tail: Tail, *items: dict[str, Any]) -> list[str]:
    return [line.text for line in tail.receive(json.dumps([{"timestamp": STAMP, **item} for item in items]))]


def subscribed(channel: str, seq: int, epoch: str = "e1", **more: Any) -> dict[str, Any]:
    answer = {"channel": channel, "ok": True, "mode": "events", "epoch": epoch, "seq": seq, **more}
    return {"type": "$subscribed", "id": 1, "channels": [answer]}


def item(channel: str, seq: int, **data: Any) -> dict[str, Any]:
    return {"channel": channel, "seq": seq, "type": "t", "data": data}


class TestResuming:
    def test_it_starts_where_the_user_says(self) -> None:
        assert connect(new_tail()) == [{"channel": "a"}, {"channel": "b"}]
        assert connect(new_tail("a", last=5)) == [{"channel": "a", "last": 5}]
        assert connect(new_tail("a", last=0)) == [{"channel": "a", "last": 0}]
        assert connect(new_tail("a", snapshot=True)) == [{"channel": "a", "snapshot": True}]

    def test_it_resumes_each_channel_after_the_last_item(self) -> None:
        tail = new_tail(last=5)
        connect(tail)
        receive(tail, subscribed("a", 10), subscribed("b", 3))
        receive(tail, item("a", 11), item("a", 12))

        assert connect(tail) == [
            {"channel": "a", "since": {"epoch": "e1", "seq": 12}},
            {"channel": "b", "since": {"epoch": "e1", "seq": 3}},
        ]

    def test_a_connection_that_ended_before_the_answer_starts_anew(self) -> None:
        tail = new_tail("a", last=5)
        connect(tail)

        assert connect(tail) == [{"channel": "a", "last": 5}]

    def test_a_gap_is_passed(self) -> None:
        tail = new_tail("a")
        connect(tail)
        receive(tail, subscribed("a", 10))
        receive(tail, {"type": "$gap", "channel": "a", "from": 11, "to": 19, "count": 9, "reason": "buffer"})

        assert connect(tail) == [{"channel": "a", "since": {"epoch": "e1", "seq": 19}}]

    def test_another_epoch_replaces_the_position(self) -> None:
        tail = new_tail("a")
        connect(tail)
        receive(tail, subscribed("a", 10))
        connect(tail)
        uncounted = {
            "type": "$gap",
            "channel": "a",
            "from": None,
            "to": None,
            "count": None,
            "reason": "retention",
            "epoch": {"old": "e1", "new": "e2"},
        }
        lines = receive(tail, subscribed("a", 2, epoch="e2", recovered=False), uncounted, item("a", 3))

        assert lines[0] == "a resumed, but not everything was kept after 10"
        assert "nobody knows how many" in lines[1]
        assert connect(tail) == [{"channel": "a", "since": {"epoch": "e2", "seq": 3}}]

    def test_an_epoch_that_changes_under_a_living_subscription(self) -> None:
        tail = new_tail("a")
        connect(tail)
        receive(tail, subscribed("a", 10))
        gap = {"type": "$gap", "channel": "a", "reason": "broker", "epoch": {"old": "e1", "new": "e2"}}
        receive(tail, gap, item("a", 1))

        assert connect(tail) == [{"channel": "a", "since": {"epoch": "e2", "seq": 1}}]

    def test_a_refused_channel_is_not_asked_for_again(self) -> None:
        tail = new_tail()
        connect(tail)
        refused = {"channel": "a", "ok": False, "code": "forbidden", "message": "not for you"}
        lines = receive(tail, {"type": "$subscribed", "channels": [refused]}, subscribed("b", 1))

        assert lines == ["a refused, forbidden: not for you"]
        assert not tail.is_idle
        assert [selection["channel"] for selection in connect(tail)] == ["b"]

    def test_a_channel_that_the_server_ends(self) -> None:
        tail = new_tail("a")
        connect(tail)
        receive(tail, subscribed("a", 1))
        ended = {"type": "$unsubscribed", "channels": [{"channel": "a", "seq": 1, "abandoned": 0}], "reason": "revoked"}

        assert receive(tail, ended) == ["the server ended the subscription of a: revoked"]
        assert tail.is_idle

    def test_items_of_channels_that_it_does_not_follow_are_shown_and_nothing_else(self) -> None:
        tail = new_tail("a")
        connect(tail)

        assert len(receive(tail, item("x", 5))) == 1
        assert [selection["channel"] for selection in connect(tail)] == ["a"]


class TestShowing:
    def test_a_row(self) -> None:
        data = {"symbol": "EURUSD", "spread": 0.00012, "note": "two words", "lp": None, "list": [1, 2], "n": 1234567.8}

        assert row(Item("lp-metrics", STAMP, "lp-performance", 5120, data=data)) == (
            "10:30:45.160 lp-performance      5120 lp-metrics       "
            'symbol=EURUSD spread=0.00012 note="two words" lp=null list=[1,2] n=1234567.80'
        )

    def test_rows_of_other_data(self) -> None:
        assert row(Item("t", STAMP, "a", 1, data="text")).endswith(" text")
        assert row(Item("t", STAMP, "a", 1, data=[1, None])).endswith(" [1,null]")
        assert row(Item("t", STAMP, "a", 1, data={})).endswith(" t")
        assert row(Item("t", STAMP, "a", 1, key="LMAX", deleted=True)).endswith(" LMAX deleted")

    def test_rows_of_gaps(self) -> None:
        assert gap_row(STAMP, "a", 11, 19, 9, "buffer").endswith("gap: 9 items, 11 to 19 (buffer)")
        assert gap_row(STAMP, "a", 11, 11, 1, "rate").endswith("gap: 1 item, 11 to 11 (rate)")

    @given(st.text())
    def test_nothing_reaches_the_terminal_that_it_could_take_for_a_command(self, text: str) -> None:
        tail = new_tail("a")
        lines = receive(
            tail,
            item("a", 1, **{text: text}),
            {"channel": text, "seq": 1, "type": f"x{text}", "timestamp": text, "data": text},
            {"type": "$gap", "channel": text, "reason": text},
            {"type": "$error", "code": text, "message": text},
            {"type": "$unsubscribed", "channels": [{"channel": text}], "reason": text},
            {"type": "$subscribed", "channels": [{"channel": text, "ok": False, "code": text, "message": text}]},
        )

        assert len(lines) == 6
        assert all(line.isprintable() for line in lines)
        assert tail.closed(1012, text, 0).sentence.isprintable()
        assert tail.refused(503, text, None).sentence.isprintable()

    def test_printable_keeps_what_is_and_shows_what_is_not(self) -> None:
        assert printable("Grüße 李") == "Grüße 李"
        assert printable("a\x1b[2J\n\x9b") == "a\\x1b[2J\\n\\x9b"

    def test_json_is_passed_on_as_it_came_with_its_gaps(self) -> None:
        tail = new_tail("a", as_json=True)
        one, gap = '{"channel":"a","seq":1,"type":"t","data":{"x":1.50}}', '{"type":"$gap","channel":"a","count":2}'
        lines = tail.receive(f'[ {one} , {gap}, {{"type":"$drain","in":1}}]')

        assert [line.text for line in lines if line.is_item] == [one, gap]
        assert [line.text for line in lines if not line.is_item] == ["the server drains and asks to come back in 1.0 s"]

    def test_a_heartbeat_and_what_a_later_server_adds_are_silent(self) -> None:
        tail = new_tail("a")

        assert receive(tail) == []
        assert receive(tail, {"type": "$news", "channels": 5, "seq": "x"}, {"type": "$pong", "id": 1}) == []

    @pytest.mark.parametrize(
        "text", ["", "{}", "[1]", "[{}]", '["x"]', "[" * 5000, '[{"type":"t","seq":"x"}]', "hello"]
    )
    def test_what_is_no_hub_is_noticed(self, text: str) -> None:
        with pytest.raises(NotAHub, match="analytics hub"):
            new_tail().receive(text)

    @given(st.text(max_size=50))
    def test_any_text_is_taken_or_refused(self, text: str) -> None:
        with pytest.raises(NotAHub):
            new_tail().receive(f"{text}!")


class TestTokens:
    def test_a_token_that_expires_is_renewed_once(self) -> None:
        tail = new_tail("a")
        connect(tail)
        receive(tail, {"type": "$expiring", "in": 30})
        assert tail.is_expiring

        tail.renew("fresh")

        assert not tail.is_expiring
        assert [json.loads(text) for text in tail.data_to_send()] == [{"action": "auth", "id": 2, "token": "fresh"}]

    def test_without_a_fresh_one_nothing_is_sent(self) -> None:
        tail = new_tail("a")
        connect(tail)
        receive(tail, {"type": "$expiring", "in": 30})

        tail.renew(None)

        assert not tail.is_expiring
        assert tail.data_to_send() == []

    def test_what_was_not_sent_in_time_is_not_sent_to_the_next_server(self) -> None:
        tail = new_tail("a")
        tail.connected()
        tail.renew("fresh")

        assert len(connect(tail)) == 1


class TestReconnecting:
    def test_back_off_doubles_up_to_its_bound(self) -> None:
        tail = new_tail()

        assert [tail.failed("x").delay for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
        assert new_tail().failed("x").sentence == "x"

    def test_jitter_is_full(self) -> None:
        assert Tail(["a"], jitter=lambda: 0.0).failed("x").delay == 0
        assert Tail(["a"], jitter=lambda: 0.5).failed("x").delay == 0.25

    def test_the_server_announces_the_bounds(self) -> None:
        tail = new_tail()
        receive(tail, {"type": "$hello", "heartbeat": 5, "reconnect": {"min": 2, "max": 3}})

        assert tail.heartbeat == 5
        assert [tail.failed("x").delay for _ in range(3)] == [2, 3, 3]

    def test_only_a_connection_that_lasted_resets_it(self) -> None:
        tail = new_tail()

        assert [tail.closed(1006, "", lived).delay for lived in (0, 1, STEADY, 0)] == [0.5, 1, 0.5, 1]

    def test_a_drain_gives_a_slot_of_its_own(self) -> None:
        tail = new_tail()
        connect(tail)
        receive(tail, {"type": "$drain", "in": 3.25})

        assert tail.closed(1012, "restart", 1) == Ending("disconnected (1012, restart)", 3.25)
        connect(tail)
        assert tail.closed(1012, "restart", 1).delay == 0.5

    def test_a_busy_server_says_when(self) -> None:
        tail = new_tail()
        connect(tail)
        receive(tail, {"type": "$error", "code": "rate-limited", "message": "slower", "retry": "later", "after": 7})

        assert tail.closed(4429, "", 0).delay == 7
        assert tail.refused(503, "full", 12.0) == Ending("refused for now (HTTP 503, full)", 12)
        assert tail.refused(429, "", None).delay == 2

    @pytest.mark.parametrize("code", [1002, 1007, 1009, 4400, 4403])
    def test_after_these_codes_it_does_not_come_back(self, code: int) -> None:
        ending = new_tail().closed(code, "why", 100)

        assert ending.delay is None
        assert not ending.is_regular
        assert f"({code}, why)" in ending.sentence

    def test_a_normal_end_is_one(self) -> None:
        assert new_tail().closed(1000, "", 0) == Ending("the server has ended the connection (1000)", is_regular=True)

    @pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 4408, 4429, 4503, 4999])
    def test_after_all_others_it_does(self, code: int) -> None:
        assert new_tail().closed(code, "", 0).delay is not None

    def test_some_refusals_want_another_token(self) -> None:
        closed, refused = new_tail().closed(4401, "expired", 0), new_tail().refused(401, "expired", None)

        assert closed.needs_token
        assert refused.needs_token
        assert closed.delay == refused.delay == 0.5

    @pytest.mark.parametrize("status", [200, 301, 400, 403, 404, 426])
    def test_other_statuses_are_final(self, status: int) -> None:
        assert new_tail().refused(status, "", None).delay is None
