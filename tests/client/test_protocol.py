"""What the client knows and decides, without a socket: against the real engine, and against what no engine says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.channels import Channel
from analytics_hub.client import (
    ClientClosed,
    Complaint,
    Connected,
    Draining,
    Epochs,
    Gap,
    Item,
    NotAHub,
    Position,
    Resumed,
    TokenRefused,
)
from analytics_hub.client.decoding import MSGPACK_CODEC
from analytics_hub.client.exceptions import Closed, Lost
from analytics_hub.client.feed import Options
from analytics_hub.client.link import CONFIRM_EVERY, CONFIRM_SIZE, PATIENCE, Link
from analytics_hub.client.protocol import AT_ONCE, ClientProtocol
from analytics_hub.core.events import CheckToken
from analytics_hub.exceptions import HubError, InvalidChannel, InvalidItem, PermissionDenied, UnknownChannel
from analytics_hub.identity import Identity
from analytics_hub.protocol import CloseCode
from analytics_hub.tuning import Tuning

from ..core.rig import ALICE, Rig
from .wire import Line, Server

CHANNELS = (
    Channel("events"),
    Channel("table", mode="table"),
    Channel("short", keep_items=3),
    Channel("secret", roles=frozenset({"admin"})),
)
QUICK = Tuning(interval=0.001, rate=None)
HELLO = {"type": "$hello", "node": "n", "heartbeat": 20, "reconnect": {"min": 0.5, "max": 30}}


class Picky(msgspec.Struct):
    id: str

    def __post_init__(self) -> None:
        if self.id == "bad":
            raise KeyError(self.id)


def new_line(tuning: Tuning = QUICK, **options: Any) -> Line:
    line = Line(Server(CHANNELS, tuning))
    line.connect(**options)
    return line


def scripted(*channels: str) -> Line:
    """A client whose server only says what the test says, and has accepted `channels` at number 10."""
    line = Line(Rig())
    line.protocol.connected(line.now)
    line.say(HELLO)
    for channel in channels:
        line.subscribe(channel)
        line.say(subscribed(channel, 10, id=line.sent[-1]["id"]))
    return line


def subscribed(channel: str, seq: int, *, id: object, epoch: str = "e1", **more: Any) -> dict[str, Any]:
    return {
        "type": "$subscribed",
        "id": id,
        "channels": [{"channel": channel, "ok": True, "epoch": epoch, "seq": seq, **more}],
    }


def item(channel: str, seq: int, data: object = None, **more: Any) -> dict[str, Any]:
    return {"channel": channel, "seq": seq, "type": "t", "data": data, **more}


class TestSubscribing:
    def test_items_are_handed_over_as_they_were_published(self) -> None:
        line = new_line()
        feed = line.subscribe("table")
        line.land()
        line.server.publish("table", {"x": 1}, key="k", type="made")
        line.advance(1)
        line.server.engine.delete("table", "k", line.now)
        line.advance(1)
        first, second = line.take(feed)

        assert feed.has_begun
        assert line.events == [Connected("here")]
        assert (first.channel, first.seq, first.type, first.key, first.data) == ("table", 1, "made", "k", {"x": 1})
        assert (second.seq, second.key, second.deleted, second.data) == (2, "k", True, None)
        assert first.timestamp.endswith("Z")

    def test_options_go_to_the_server(self) -> None:
        line = new_line()
        since = Position("e", 5)
        for channel, options in (("a", {"last": 5}), ("b", {"last": 0, "max_hz": 4}), ("c", {"snapshot": True})):
            line.subscribe(channel, **options)
        line.subscribe("d", since=since)

        assert [command["channels"] for command in line.asked("subscribe")] == [
            [{"channel": "a", "last": 5}],
            [{"channel": "b", "last": 0, "max_hz": 4}],
            [{"channel": "c", "snapshot": True}],
            [{"channel": "d", "since": {"epoch": "e", "seq": 5}}],
        ]

    def test_refusals_are_exceptions(self) -> None:
        line = new_line()
        feeds = [line.subscribe("nothing"), line.subscribe("secret"), line.subscribe("no name")]
        line.land()

        assert [type(feed.error) for feed in feeds] == [UnknownChannel, PermissionDenied, InvalidChannel]
        assert str(feeds[0].error) == "unknown-channel: channel 'nothing' is not declared"
        assert line.subscribe("nothing").error is None, "may be asked for again"

    def test_a_channel_has_one_subscription(self) -> None:
        line = new_line()
        line.subscribe("events")

        with pytest.raises(InvalidChannel, match="subscribed to 'events' already"):
            line.subscribe("events")

    def test_what_comes_late_is_not_for_the_next_reader(self) -> None:
        """Unsubscribed, subscribed again, and only then comes what was sent to the first."""
        line = new_line()
        first = line.subscribe("events")
        line.land()
        line.server.publish("events", "old")
        line.server.advance(1)
        line.transmit()
        line.protocol.unsubscribe(first, line.now)
        second = line.subscribe("events")
        line.server.publish("events", "new")
        line.advance(1)

        assert [value.data for value in line.take(second)] == ["new"]
        assert line.take(first) == []

    def test_who_has_gone_before_the_answer_is_not_answered(self) -> None:
        line = new_line()
        feed = line.subscribe("nothing")
        line.protocol.unsubscribe(feed, line.now)
        line.land()

        assert isinstance(feed.error, ClientClosed)

    def test_what_was_left_may_still_be_taken(self) -> None:
        line = new_line()
        feed = line.subscribe("events", room=2)
        line.land()
        line.server.publish("events", *range(5))
        line.advance(1)
        line.protocol.unsubscribe(feed, line.now)

        assert [value.data for value in line.take(feed)] == [0, 1]
        assert len(line.asked("subscribe")) == 1

    def test_many_channels_are_asked_for_in_portions(self) -> None:
        line = Line(Rig())
        for number in range(AT_ONCE + 1):
            line.subscribe(f"c{number}")
        line.connect()

        assert [len(command["channels"]) for command in line.asked("subscribe")] == [AT_ONCE, 1]

    def test_data_of_another_type_is_told_and_the_rest_goes_on(self) -> None:
        line = new_line()
        feed = line.subscribe("events", type=int)
        line.land()
        line.server.publish("events", 1, "x", 3)
        line.advance(1)

        assert line.take(feed, 1)[0].data == 1
        with pytest.raises(InvalidItem, match="item 2 of channel 'events' cannot be read: Expected `int`"):
            line.take(feed, 1)
        assert line.take(feed, 1)[0].data == 3

    def test_what_a_type_of_the_application_raises_is_told_and_the_rest_goes_on(self) -> None:
        line = new_line()
        feed = line.subscribe("events", type=Picky)
        line.land()
        line.server.publish("events", {"id": "bad"}, {"id": "good"})
        line.advance(1)

        with pytest.raises(InvalidItem, match=r"item 1 of channel 'events' cannot be read: KeyError: 'bad'"):
            line.take(feed, 1)
        assert line.take(feed, 1)[0].data.id == "good"

    def test_messagepack_is_the_same(self) -> None:
        protocol = ClientProtocol()
        feed = protocol.subscribe("events", Options(), 0.0, type=dict[str, int])
        protocol.connected(0.0, codec=MSGPACK_CODEC)
        (command,) = protocol.data_to_send()
        assert isinstance(command, bytes)
        asked = msgspec.msgpack.decode(command)
        protocol.receive(
            msgspec.msgpack.encode([subscribed("events", 1, id=asked["id"]), item("events", 2, {"x": 2**63})]), 0.0
        )

        assert asked["channels"] == [{"channel": "events"}]
        assert protocol.take(feed, 0.0).data == {"x": 2**63}
        with pytest.raises(NotAHub, match="sent text"):
            protocol.receive("[]", 0.0)


class TestResuming:
    def test_each_channel_goes_on_after_its_last_item(self) -> None:
        line = scripted("a", "b")
        line.say(item("a", 11), item("a", 12))
        line.cut()
        line.protocol.connected(line.now)
        line.transmit()

        assert line.selections == [
            {"channel": "a", "since": {"epoch": "e1", "seq": 12}},
            {"channel": "b", "since": {"epoch": "e1", "seq": 10}},
        ]

    def test_a_connection_that_ended_before_the_answer_starts_anew(self) -> None:
        line = Line(Rig())
        line.subscribe("a", last=5)
        for _ in range(2):
            line.protocol.connected(line.now)
            line.transmit()
            assert line.selections == [{"channel": "a", "last": 5}]
            line.cut()

    def test_the_outcome_is_told(self) -> None:
        line = new_line()
        feed = line.subscribe("short")
        line.land()
        for count in (1, 9):
            line.cut()
            line.server.publish("short", *range(count))
            line.connect()
            line.advance(1)

        whole, holed = [event for event in line.events if isinstance(event, Resumed)]
        assert (whole.position.seq, whole.complete) == (0, True)
        assert (holed.position.seq, holed.complete) == (1, False)
        gap = line.take(feed)[1]
        assert (gap.first, gap.last, gap.count, gap.reason) == (2, 7, 6, "retention")
        assert feed.taken == feed.position

    def test_a_hole_that_was_not_told_in_time_is_told_by_the_next_connection(self) -> None:
        line = scripted("a")
        for epoch in ("e2", "e3"):
            line.cut()
            line.protocol.connected(line.now)
            line.transmit()
            assert line.selections[0]["since"] == {"epoch": "e1", "seq": 10}
            line.say(subscribed("a", 2, id=line.sent[-1]["id"], epoch=epoch, recovered=False))

    def test_a_server_that_tells_of_no_hole_has_one_all_the_same(self) -> None:
        line = scripted("a")
        feed = line.protocol._feeds["a"]
        line.cut()
        line.protocol.connected(line.now)
        line.transmit()
        line.say(subscribed("a", 2, id=line.sent[-1]["id"], epoch="e2", recovered=False), item("a", 3))
        gap, after = line.take(feed)

        assert gap == Gap("a", None, None, None, "retention", epochs=Epochs("e1", "e2"))
        assert after.seq == 3

    def test_a_snapshot_after_a_hole_may_be_of_what_was_seen(self) -> None:
        """A table that has forgotten deletions starts over within its epoch: nothing of it is a duplicate."""
        line = scripted("a")
        feed = line.protocol._feeds["a"]
        line.cut()
        line.protocol.connected(line.now)
        line.transmit()
        hole = {"type": "$gap", "channel": "a", "reason": "retention", "epoch": {"old": "e1", "new": "e1"}}
        line.say(subscribed("a", 2, id=line.sent[-1]["id"], recovered=False), hole, item("a", 5), item("a", 9))

        assert [getattr(value, "seq", None) for value in line.take(feed)] == [None, 5, 9]
        assert feed.position == Position("e1", 9)

    def test_a_server_that_has_lost_what_was_newest(self) -> None:
        line = new_line()
        feed = line.subscribe("events")
        line.land()
        line.server.publish("events", *range(5))
        line.advance(1)
        line.restart(Server(CHANNELS, QUICK))  # with the same epochs
        line.server.publish("events", "after")
        line.connect()
        line.advance(1)
        *before, gap, after = line.take(feed)

        assert len(before) == 5
        assert (gap.count, gap.epochs.old) == (None, gap.epochs.new)
        assert (after.seq, after.data) == (1, "after")

    def test_an_epoch_that_changes_under_a_living_subscription(self) -> None:
        line = scripted("a")
        feed = line.protocol._feeds["a"]
        line.say(
            {"type": "$gap", "channel": "a", "reason": "broker", "epoch": {"old": "e1", "new": "e2"}}, item("a", 1)
        )

        assert [type(value) for value in line.take(feed)] == [Gap, Item]
        assert feed.position == Position("e2", 1)

    def test_what_came_before_is_passed_over(self) -> None:
        line = scripted("a")
        feed = line.protocol._feeds["a"]
        lost = {"type": "$gap", "channel": "a", "from": 11, "to": 12, "count": 2, "reason": "buffer"}
        line.say(item("a", 10), lost, lost, item("a", 12), item("a", 13), item("a", 13))

        assert [getattr(value, "seq", "gap") for value in line.take(feed)] == ["gap", 13]

    def test_a_subscription_that_the_server_ends(self) -> None:
        line = new_line()
        feed = line.subscribe("events")
        line.land()
        line.server.publish("events", 1)
        line.advance(1)
        assert line.peer is not None
        line.protocol.refresh("poor", line.now)
        line.transmit()
        (check,) = line.server.asked(CheckToken)
        less = Identity(id=ALICE.id, channels=("table",))
        line.server.engine.authenticated(check.session, less, line.now)
        line.land()

        assert [value.data for value in line.take(feed)] == [1]
        assert str(feed.error) == "the server ended the subscription: forbidden"
        assert isinstance(feed.error, PermissionDenied)


class TestSlowReaders:
    def test_a_full_buffer_stops_this_channel_only_and_nothing_is_lost(self) -> None:
        line = new_line()
        slow, fast = line.subscribe("events", room=4), line.subscribe("table")
        line.land()
        for number in range(20):
            line.server.publish("events", number)
            line.server.publish("table", number, key="k")
            line.advance(1)

        assert [value.data for value in line.take(fast)] == list(range(20))
        got = []
        while slow.has_values:
            got += [value.data for value in line.take(slow, 3)]
            line.advance(1)
        assert got == list(range(20))
        assert not any(isinstance(event, Resumed) for event in line.events)

    def test_it_goes_on_at_half(self) -> None:
        line = new_line()
        feed = line.subscribe("events", room=4)
        line.land()
        line.server.publish("events", *range(9))
        line.advance(1)
        assert len(line.asked("unsubscribe")) == 1

        line.take(feed, 1)
        assert len(line.asked("subscribe")) == 1
        line.take(feed, 1)

        assert line.selections == [{"channel": "events", "since": {"epoch": feed.position.epoch, "seq": 4}}]  # type: ignore[union-attr]

    def test_what_is_not_kept_meanwhile_is_a_gap(self) -> None:
        line = new_line()
        feed = line.subscribe("short", room=2)
        line.land()
        line.server.publish("short", *range(3))
        line.advance(1)
        line.server.publish("short", *range(3, 20))
        values = line.take(feed)
        line.advance(1)
        values += line.take(feed)
        line.advance(1)
        values += line.take(feed)

        gap = values[2]
        assert (gap.first, gap.last, gap.reason) == (3, 17, "retention")
        assert [value.data for value in values if isinstance(value, Item)] == [0, 1, 17, 18, 19]

    def test_one_that_is_full_is_not_asked_for_on_the_next_connection(self) -> None:
        line = new_line()
        feed = line.subscribe("events", room=2)
        line.land()
        line.server.publish("events", *range(5))
        line.advance(1)
        line.cut()
        before = len(line.asked("subscribe"))
        line.connect()
        assert len(line.asked("subscribe")) == before

        line.take(feed)

        assert line.selections[0]["since"]["seq"] == 2

    def test_a_server_that_did_not_stop_is_told_again(self) -> None:
        line = scripted("a")
        feed = line.protocol._feeds["a"]
        line.protocol.unsubscribe(feed, line.now)
        line.transmit()
        line.say({"type": "$error", "id": line.sent[-1]["id"], "code": "rate-limited", "after": 1})
        assert len(line.asked("unsubscribe")) == 1

        line.say(item("a", 11), item("a", 12))

        assert len(line.asked("unsubscribe")) == 2
        assert line.events == [Connected("n")]

    def test_and_not_once_it_is_wanted_again(self) -> None:
        line = scripted("a")
        line.protocol.unsubscribe(line.protocol._feeds["a"], line.now)
        line.transmit()
        line.say({"type": "$error", "id": line.sent[-1]["id"], "code": "rate-limited", "after": 1})
        again = line.subscribe("a")
        line.say(item("a", 11))

        assert len(line.asked("unsubscribe")) == 1
        assert not again.has_values


class TestTalking:
    def test_frames_are_confirmed_by_number_and_by_size(self) -> None:
        line = scripted("a")
        for _ in range(CONFIRM_EVERY):
            line.say()
        line.say(item("a", 11, "x" * CONFIRM_SIZE))

        assert [command["frames"] for command in line.asked("seen")] == [CONFIRM_EVERY, CONFIRM_EVERY + 3]

    def test_an_older_server_is_not_told(self) -> None:
        line = scripted("a")
        line.say({"type": "$error", "code": "unknown-action", "message": "seen"})
        for _ in range(2 * CONFIRM_EVERY):
            line.say()

        assert line.asked("seen") == []
        assert line.events == [Connected("n")]

    def test_the_engine_takes_confirmations_and_pings(self) -> None:
        line = new_line()
        feed = line.subscribe("events")
        for number in range(50):
            line.server.publish("events", number)
            line.advance(1)
        line.advance(25)

        assert len(line.take(feed)) == 50
        assert len(line.asked("seen")) >= 2
        assert line.asked("ping")
        assert line.events == [Connected("here")]

    def test_silence_is_death_but_any_traffic_is_life(self) -> None:
        protocol = ClientProtocol()
        protocol.connected(0.0)
        assert protocol.get_timer() == PATIENCE
        protocol.heard(5.0)
        protocol.receive(msgspec.json.encode([HELLO]).decode(), 6.0)
        protocol.handle_timer(65.0)
        protocol.heard(65.0)
        protocol.handle_timer(124.0)

        with pytest.raises(Lost, match="nothing was heard for 60 s"):
            protocol.handle_timer(125.0)

    def test_too_many_commands_are_sent_again_when_the_server_says(self) -> None:
        line = Line(Rig())
        line.protocol.connected(line.now)
        line.say(HELLO)
        line.subscribe("a")
        line.say({"type": "$error", "id": 1, "code": "rate-limited", "message": "slower", "after": 2})
        other = line.subscribe("b")
        assert len(line.asked("subscribe")) == 1
        assert line.protocol.get_timer() == line.now + 2

        line.server.now += 2
        line.protocol.handle_timer(line.now)
        line.transmit()

        assert [selection["channel"] for selection in line.selections] == ["a", "b"]
        assert other.error is None

    def test_a_command_that_is_refused_whole(self) -> None:
        line = Line(Rig())
        line.protocol.connected(line.now)
        line.say(HELLO)
        feed = line.subscribe("a")
        line.say({"type": "$error", "id": 1, "code": "bad-request", "message": "129 channels"})

        assert str(feed.error) == "bad-request: 129 channels"

    def test_one_that_spoils_a_command_does_not_end_the_others(self) -> None:
        line = Line(Rig())
        good, bad = line.subscribe("a"), line.subscribe("b")
        line.protocol.connected(line.now)
        line.say(HELLO)
        line.say({"type": "$error", "id": 1, "code": "bad-request", "message": "too many"})

        assert [command["channels"] for command in line.asked("subscribe")[1:]] == [
            [{"channel": "a"}],
            [{"channel": "b"}],
        ]
        line.say({"type": "$error", "id": 3, "code": "bad-request", "message": "too many"})
        assert (good.error, str(bad.error)) == (None, "bad-request: too many")

    def test_complaints_that_nobody_waits_for_are_events(self) -> None:
        line = scripted("a")
        line.say({"type": "$error", "code": "bad-request", "message": "what?"})

        assert line.events[-1] == Complaint("bad-request", "what?")

    @pytest.mark.parametrize(
        "text", ["", "{}", "[1]", "[{}]", '["x"]', "[" * 5000, '[{"type":"t","seq":"x"}]', "hello", b"[]"]
    )
    def test_what_is_no_hub_is_noticed(self, text: str | bytes) -> None:
        protocol = ClientProtocol()
        protocol.connected(0.0)

        with pytest.raises(NotAHub, match="analytics hub"):
            protocol.receive(text, 0.0)

    @given(st.text(max_size=50))
    def test_any_text_is_taken_or_refused(self, text: str) -> None:
        protocol = ClientProtocol()
        protocol.connected(0.0)

        with pytest.raises(NotAHub):
            protocol.receive(f"{text}!", 0.0)

    def test_what_a_later_server_adds_is_passed_over(self) -> None:
        line = scripted("a")
        line.say({"type": "$news", "channels": 5, "seq": "x"}, {"type": "$pong", "id": 1})
        line.say({**item("a", 11), "shade": "blue"}, item("elsewhere", 1))

        assert len(line.take(line.protocol._feeds["a"])) == 1


class TestTokens:
    def test_the_first_message_may_be_the_token(self) -> None:
        line = Line(Server(CHANNELS, QUICK))
        feed = line.subscribe("events")
        line.connect(None, token="secret")
        (check,) = line.server.asked(CheckToken)
        line.server.engine.authenticated(check.session, ALICE, line.now)
        line.land()

        assert check.token == "secret"
        assert feed.has_begun
        assert line.protocol.is_open

    def test_what_is_to_be_sent_is_not_shown(self) -> None:
        link = Link(MSGPACK_CODEC, has_token=True, started=0.0)
        link.send(0.0, action="auth", token="hidden")

        assert "hidden" not in repr(link)

    def test_a_first_message_that_is_refused_is_left_to_the_close_code(self) -> None:
        line = Line(Server(CHANNELS, QUICK))
        line.connect(None, token="old")
        line.server.engine.authenticated(line.server.asked(CheckToken)[0].session, "expired", line.now)
        line.land()

        assert not line.protocol.is_open
        assert line.peer is not None
        assert line.peer.close is not None
        assert line.protocol.closed(line.peer.close.code, line.peer.close.reason, line.now).needs_token

    def test_a_missing_one_is_noticed_at_once(self) -> None:
        line = Line(Server(CHANNELS, QUICK))
        line.connect(None, has_token=False)

        with pytest.raises(Closed) as caught:
            line.land()
        ending = line.protocol.closed(caught.value.code, caught.value.reason, line.now)
        assert isinstance(ending.error, TokenRefused)
        assert ending.error.fault == "missing"

    def test_a_refresh_is_answered(self) -> None:
        line = new_line()
        outcomes: list[HubError | None] = []
        for result in (ALICE, "expired", Identity(id="bob")):
            line.protocol.refresh("fresh", line.now, outcomes.append)
            line.transmit()
            check = line.server.asked(CheckToken)[-1]
            line.server.engine.authenticated(check.session, result, line.now)
            line.land()

        assert outcomes[0] is None
        assert isinstance(outcomes[1], TokenRefused)
        assert outcomes[1].fault == "expired"
        assert isinstance(outcomes[2], PermissionDenied)

    def test_a_connection_that_ends_has_no_answer_to_a_refresh(self) -> None:
        line = new_line()
        outcomes: list[HubError | None] = []
        line.protocol.refresh("fresh", line.now, outcomes.append)
        line.cut()

        assert outcomes == [None]

    def test_it_is_wanted_when_it_expires_and_once(self) -> None:
        line = scripted("a")
        line.say({"type": "$expiring", "in": 30})
        assert line.protocol.wants_token

        line.protocol.refresh(None, line.now)

        assert not line.protocol.wants_token
        assert line.asked("auth") == []


class TestEnding:
    def test_a_drain_gives_a_slot_that_counts_from_then(self) -> None:
        line = scripted("a")
        line.say({"type": "$drain", "in": 3.25})
        line.server.now += 1

        assert line.events[-1] == Draining(3.25)
        assert line.protocol.closed(1012, "restart", line.now).delay == 2.25
        assert line.protocol.closed(1012, "restart", line.now).delay == 0.5, "the slot is used up"

    def test_a_server_that_says_after_is_left_alone_for_so_long(self) -> None:
        line = scripted("a")
        line.say({"type": "$error", "code": "rate-limited", "message": "slower", "after": 7})

        assert line.protocol.closed(CloseCode.TOO_MANY_COMMANDS, "", line.now).delay == 7

    def test_a_connection_that_lasted_resets_the_back_off(self) -> None:
        line = scripted()
        delays = []
        for lived in (0, 1, 10, 0):
            line.protocol.connected(line.now)
            line.server.now += lived
            delays.append(line.protocol.lost("x", line.now).delay)

        assert delays == [0.5, 1, 0.5, 1]

    def test_giving_up_ends_every_feed_after_what_has_come(self) -> None:
        line = scripted("a")
        feed = line.protocol._feeds["a"]
        line.say(item("a", 11))
        error = HubError("over")
        line.protocol.give_up(error, line.now)

        assert len(line.take(feed)) == 1
        assert feed.error is error
        assert line.protocol.get_timer() is None
        line.protocol.handle_timer(line.now)
        line.protocol.unsubscribe(feed, line.now)
        assert line.protocol.data_to_send() == []
