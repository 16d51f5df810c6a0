"""The client protocol without a socket: against the real engine, and against messages that no engine sends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from analytics_hub.channels import Channel
from analytics_hub.client import (
    ClientClosed,
    CommandFailed,
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
from analytics_hub.client.connection_state import CONFIRM_CHARACTERS, CONFIRM_FRAMES, MIN_TIMEOUT, ConnectionState
from analytics_hub.client.decoding import MSGPACK_CODEC
from analytics_hub.client.exceptions import ConnectionClosed, ConnectionLost
from analytics_hub.client.protocol import MAX_CHANNELS, ClientProtocol
from analytics_hub.client.subscription_state import Options, SubscriptionState
from analytics_hub.core.events import CheckToken
from analytics_hub.exceptions import (
    AuthenticationError,
    HubError,
    InvalidChannel,
    InvalidItem,
    PermissionDenied,
    UnknownChannel,
)
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


def new_line(tuning: Tuning = QUICK) -> Line:
    """A client of the real engine."""
    line = Line(Server(CHANNELS, tuning))
    line.connect()
    return line


def scripted_line() -> Line:
    """A client of a server that sends only what the test sends."""
    line = Line(Rig())
    line.protocol.connection_made(line.now)
    line.receive(HELLO)
    return line


def subscribed_line() -> tuple[Line, SubscriptionState]:
    """A client of such a server, subscribed to channel `a` at number 10."""
    line = scripted_line()
    subscription = line.subscribe("a")
    line.receive(subscribed("a", 10, id=line.sent[-1]["id"]))
    return line, subscription


def reconnect(line: Line) -> None:
    """Replace the connection to a scripted server by a new one, and send the commands."""
    line.disconnect()
    line.protocol.connection_made(line.now)
    line.transmit()


def subscribed(channel: str, seq: int, *, id: object, epoch: str = "e1", **more: Any) -> dict[str, Any]:
    answer = {"channel": channel, "ok": True, "epoch": epoch, "seq": seq, **more}
    return {"type": "$subscribed", "id": id, "channels": [answer]}


def item(channel: str, seq: int, data: object = None, **more: Any) -> dict[str, Any]:
    return {"channel": channel, "seq": seq, "type": "t", "data": data, **more}


def error(code: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"type": "$error", "code": code, "message": message, **more}


class TestSubscribing:
    def test_items_have_the_fields_that_were_published(self) -> None:
        line = new_line()
        subscription = line.subscribe("table")
        line.deliver()
        line.server.publish("table", {"x": 1}, key="k", type="made")
        line.advance(1)
        line.server.engine.delete("table", "k", line.now)
        line.advance(1)
        first, second = line.read(subscription)

        assert subscription.was_accepted
        assert line.events == [Connected("here")]
        assert (first.channel, first.seq, first.type, first.key, first.data) == ("table", 1, "made", "k", {"x": 1})
        assert (second.seq, second.key, second.deleted, second.data) == (2, "k", True, None)
        assert first.timestamp.endswith("Z")

    def test_options_are_sent_to_the_server(self) -> None:
        line = new_line()
        for channel, options in (("a", {"last": 5}), ("b", {"last": 0, "max_hz": 4}), ("c", {"snapshot": True})):
            line.subscribe(channel, **options)
        line.subscribe("d", since=Position("e", 5))

        assert [command["channels"] for command in line.commands("subscribe")] == [
            [{"channel": "a", "last": 5}],
            [{"channel": "b", "last": 0, "max_hz": 4}],
            [{"channel": "c", "snapshot": True}],
            [{"channel": "d", "since": {"epoch": "e", "seq": 5}}],
        ]

    def test_refusals_are_exceptions(self) -> None:
        line = new_line()
        subscriptions = [line.subscribe("nothing"), line.subscribe("secret"), line.subscribe("no name")]
        line.deliver()

        assert [type(each.error) for each in subscriptions] == [UnknownChannel, PermissionDenied, InvalidChannel]
        assert str(subscriptions[0].error) == "unknown-channel: channel 'nothing' is not declared"
        assert line.subscribe("nothing").error is None, "it can be requested again"

    def test_a_channel_has_at_most_one_subscription(self) -> None:
        line = new_line()
        line.subscribe("events")

        with pytest.raises(InvalidChannel, match="subscribed to 'events' already"):
            line.subscribe("events")

    def test_late_items_of_an_ended_subscription_are_not_given_to_the_next_one(self) -> None:
        line = new_line()
        first = line.subscribe("events")
        line.deliver()
        line.server.publish("events", "old")
        line.server.advance(1)
        line.transmit()
        line.protocol.unsubscribe(first, line.now)
        second = line.subscribe("events")
        line.server.publish("events", "new")
        line.advance(1)

        assert [value.data for value in line.read(second)] == ["new"]
        assert line.read(first) == []

    def test_the_answer_to_an_ended_subscription_is_ignored(self) -> None:
        line = new_line()
        subscription = line.subscribe("nothing")
        line.protocol.unsubscribe(subscription, line.now)
        line.deliver()

        assert isinstance(subscription.error, ClientClosed)

    def test_values_can_be_read_after_unsubscribing(self) -> None:
        line = new_line()
        subscription = line.subscribe("events", capacity=2)
        line.deliver()
        line.server.publish("events", *range(5))
        line.advance(1)
        line.protocol.unsubscribe(subscription, line.now)

        assert [value.data for value in line.read(subscription)] == [0, 1]
        assert len(line.commands("subscribe")) == 1

    def test_many_channels_are_requested_in_several_commands(self) -> None:
        line = Line(Rig())
        for number in range(MAX_CHANNELS + 1):
            line.subscribe(f"c{number}")
        line.connect()

        assert [len(command["channels"]) for command in line.commands("subscribe")] == [MAX_CHANNELS, 1]

    @pytest.mark.parametrize(
        ("type_", "bad", "good", "reason"),
        [(int, "x", 3, "Expected `int`"), (Picky, {"id": "bad"}, {"id": "good"}, "KeyError: 'bad'")],
        ids=["another type", "exception of the type"],
    )
    def test_an_item_that_cannot_be_decoded_raises_and_the_next_one_follows(
        self, type_: Any, bad: object, good: object, reason: str
    ) -> None:
        line = new_line()
        subscription = line.subscribe("events", type=type_)
        line.deliver()
        line.server.publish("events", bad, good)
        line.advance(1)

        with pytest.raises(InvalidItem, match=f"item 1 of channel 'events' cannot be decoded: {reason}"):
            line.read(subscription, 1)
        assert msgspec.to_builtins(line.read(subscription, 1)[0].data) == good

    def test_messagepack_has_the_same_items(self) -> None:
        protocol = ClientProtocol()
        subscription = protocol.subscribe("events", Options(), 0.0, type=dict[str, int])
        protocol.connection_made(0.0, codec=MSGPACK_CODEC)
        (command,) = protocol.data_to_send()
        assert isinstance(command, bytes)
        sent = msgspec.msgpack.decode(command)
        answer = subscribed("events", 1, id=sent["id"])
        protocol.receive_message(msgspec.msgpack.encode([answer, item("events", 2, {"x": 2**63})]), 0.0)

        assert sent["channels"] == [{"channel": "events"}]
        assert protocol.next_value(subscription, 0.0).data == {"x": 2**63}
        with pytest.raises(NotAHub, match="sent text"):
            protocol.receive_message("[]", 0.0)


class TestResuming:
    def test_a_subscription_without_an_answer_starts_as_its_options_say(self) -> None:
        line = Line(Rig())
        line.subscribe("a", last=5)
        for _ in range(2):
            reconnect(line)
            assert line.selections == [{"channel": "a", "last": 5}]

    def test_an_event_reports_whether_the_subscription_resumed_without_loss(self) -> None:
        line = new_line()
        subscription = line.subscribe("short")
        line.deliver()
        for count in (1, 9):
            line.disconnect()
            line.server.publish("short", *range(count))
            line.connect()
            line.advance(1)

        complete, incomplete = [event for event in line.events if isinstance(event, Resumed)]
        assert (complete.position.seq, complete.complete) == (0, True)
        assert (incomplete.position.seq, incomplete.complete) == (1, False)
        gap = line.read(subscription)[1]
        assert (gap.first, gap.last, gap.count, gap.reason) == (2, 7, 6, "retention")
        assert subscription.read_position == subscription.position

    def test_a_gap_that_was_not_described_is_described_on_the_next_connection(self) -> None:
        line, _ = subscribed_line()
        for epoch in ("e2", "e3"):
            reconnect(line)
            assert line.selections[0]["since"] == {"epoch": "e1", "seq": 10}
            line.receive(subscribed("a", 2, id=line.sent[-1]["id"], epoch=epoch, recovered=False))

    def test_a_gap_that_the_server_does_not_describe_is_reported(self) -> None:
        line, subscription = subscribed_line()
        reconnect(line)
        line.receive(subscribed("a", 2, id=line.sent[-1]["id"], epoch="e2", recovered=False), item("a", 3))
        gap, after = line.read(subscription)

        assert gap == Gap("a", None, None, None, "retention", epochs=Epochs("e1", "e2"))
        assert after.seq == 3

    def test_a_snapshot_after_a_gap_may_repeat_items(self) -> None:
        """A table that has forgotten deletions starts again within its epoch: its items are not duplicates."""
        line, subscription = subscribed_line()
        reconnect(line)
        gap = {"type": "$gap", "channel": "a", "reason": "retention", "epoch": {"old": "e1", "new": "e1"}}
        line.receive(subscribed("a", 2, id=line.sent[-1]["id"], recovered=False), gap, item("a", 5), item("a", 9))

        assert [getattr(value, "seq", None) for value in line.read(subscription)] == [None, 5, 9]
        assert subscription.position == Position("e1", 9)

    def test_a_server_that_has_lost_the_newest_items(self) -> None:
        line = new_line()
        subscription = line.subscribe("events")
        line.deliver()
        line.server.publish("events", *range(5))
        line.advance(1)
        line.restart(Server(CHANNELS, QUICK))  # with the same epochs
        line.server.publish("events", "after")
        line.connect()
        line.advance(1)
        *before, gap, after = line.read(subscription)

        assert len(before) == 5
        assert (gap.count, gap.epochs.old) == (None, gap.epochs.new)
        assert (after.seq, after.data) == (1, "after")

    def test_an_epoch_that_changes_during_a_subscription(self) -> None:
        line, subscription = subscribed_line()
        gap = {"type": "$gap", "channel": "a", "reason": "broker", "epoch": {"old": "e1", "new": "e2"}}
        line.receive(gap, item("a", 1))

        assert [type(value) for value in line.read(subscription)] == [Gap, Item]
        assert subscription.position == Position("e2", 1)

    def test_duplicates_are_ignored(self) -> None:
        line, subscription = subscribed_line()
        gap = {"type": "$gap", "channel": "a", "from": 11, "to": 12, "count": 2, "reason": "buffer"}
        line.receive(item("a", 10), gap, gap, item("a", 12), item("a", 13), item("a", 13))

        assert [getattr(value, "seq", "gap") for value in line.read(subscription)] == ["gap", 13]

    def test_a_subscription_that_the_server_ends(self) -> None:
        line = new_line()
        subscription = line.subscribe("events")
        line.deliver()
        line.server.publish("events", 1)
        line.advance(1)
        line.protocol.refresh("fewer rights", line.now)
        line.transmit()
        (check,) = line.server.events_of(CheckToken)
        line.server.engine.authenticated(check.session, Identity(id=ALICE.id, channels=("table",)), line.now)
        line.deliver()

        assert [value.data for value in line.read(subscription)] == [1]
        assert str(subscription.error) == "the server ended the subscription: forbidden"
        assert isinstance(subscription.error, PermissionDenied)


class TestSlowReaders:
    def test_a_full_buffer_stops_the_channel_until_half_of_it_is_free(self) -> None:
        line = new_line()
        subscription = line.subscribe("events", capacity=4)
        line.deliver()
        line.server.publish("events", *range(9))
        line.advance(1)
        assert len(line.commands("unsubscribe")) == 1

        line.read(subscription, 1)
        assert len(line.commands("subscribe")) == 1
        line.read(subscription, 1)

        assert subscription.position is not None
        assert line.selections == [{"channel": "events", "since": {"epoch": subscription.position.epoch, "seq": 4}}]
        line.deliver()
        assert line.events == [Connected("here")], "it does not count as resumed"

    def test_a_paused_channel_is_not_requested_on_the_next_connection(self) -> None:
        line = new_line()
        subscription = line.subscribe("events", capacity=2)
        line.deliver()
        line.server.publish("events", *range(5))
        line.advance(1)
        line.disconnect()
        line.connect()
        assert len(line.commands("subscribe")) == 1

        line.read(subscription)

        assert line.selections[0]["since"]["seq"] == 2

    def test_a_failed_unsubscribe_is_repeated_when_items_come(self) -> None:
        line, subscription = subscribed_line()
        line.protocol.unsubscribe(subscription, line.now)
        line.transmit()
        line.receive(error("rate-limited", id=line.sent[-1]["id"], after=1))
        assert len(line.commands("unsubscribe")) == 1

        line.receive(item("a", 11), item("a", 12))

        assert len(line.commands("unsubscribe")) == 2
        assert line.events == [Connected("n")]

    def test_a_failed_unsubscribe_is_not_repeated_after_a_new_subscribe(self) -> None:
        line, subscription = subscribed_line()
        line.protocol.unsubscribe(subscription, line.now)
        line.transmit()
        line.receive(error("rate-limited", id=line.sent[-1]["id"], after=1))
        again = line.subscribe("a")
        line.receive(item("a", 11))

        assert len(line.commands("unsubscribe")) == 1
        assert not again.has_values


class TestCommandsAndLiveness:
    def test_frames_are_confirmed_by_number_and_by_size(self) -> None:
        line, _ = subscribed_line()
        for _ in range(CONFIRM_FRAMES):
            line.receive()
        line.receive(item("a", 11, "x" * CONFIRM_CHARACTERS))

        assert [command["frames"] for command in line.commands("seen")] == [CONFIRM_FRAMES, CONFIRM_FRAMES + 3]

    def test_an_older_server_gets_no_confirmations(self) -> None:
        line, _ = subscribed_line()
        line.receive(error("unknown-action", "seen"))
        for _ in range(2 * CONFIRM_FRAMES):
            line.receive()

        assert line.commands("seen") == []
        assert line.events == [Connected("n")]

    def test_the_engine_accepts_confirmations_and_pings(self) -> None:
        line = new_line()
        subscription = line.subscribe("events")
        for number in range(50):
            line.server.publish("events", number)
            line.advance(1)
        line.advance(25)

        assert len(line.read(subscription)) == 50
        assert len(line.commands("seen")) >= 2
        assert line.commands("ping")
        assert line.events == [Connected("here")]

    def test_silence_is_a_loss_and_any_data_is_a_sign_of_life(self) -> None:
        protocol = ClientProtocol()
        protocol.connection_made(0.0)
        assert protocol.get_timer() == MIN_TIMEOUT
        protocol.data_received(5.0)
        protocol.receive_message(msgspec.json.encode([HELLO]).decode(), 6.0)
        protocol.handle_timer(65.0)
        protocol.data_received(65.0)
        protocol.handle_timer(124.0)

        with pytest.raises(ConnectionLost, match="no data for 60 s"):
            protocol.handle_timer(125.0)

    def test_rate_limited_commands_are_repeated_after_the_delay(self) -> None:
        line = scripted_line()
        line.subscribe("a")
        line.receive(error("rate-limited", id=1, after=2))
        other = line.subscribe("b")
        assert len(line.commands("subscribe")) == 1
        assert line.protocol.get_timer() == line.now + 2

        line.server.now += 2
        line.protocol.handle_timer(line.now)
        line.transmit()

        assert [selection["channel"] for selection in line.selections] == ["a", "b"]
        assert other.error is None

    def test_a_refused_command_for_several_channels_is_repeated_for_each_of_them(self) -> None:
        line = Line(Rig())
        good, bad = line.subscribe("a"), line.subscribe("b")
        line.protocol.connection_made(line.now)
        line.receive(HELLO)
        line.receive(error("bad-request", "too many", id=1))

        single = [[{"channel": "a"}], [{"channel": "b"}]]
        assert [command["channels"] for command in line.commands("subscribe")[1:]] == single
        line.receive(error("bad-request", "too many", id=3))
        assert (good.error, str(bad.error)) == (None, "bad-request: too many")

    def test_an_error_without_a_waiting_caller_is_an_event(self) -> None:
        line, _ = subscribed_line()
        line.receive(error("bad-request", "what?"))

        assert line.events[-1] == CommandFailed("bad-request", "what?")

    @pytest.mark.parametrize(
        "message", ["", "{}", "[1]", "[{}]", '["x"]', "[" * 5000, '[{"type":"t","seq":"x"}]', "hello", b"[]"]
    )
    def test_a_message_that_cannot_be_decoded_is_not_from_a_hub(self, message: str | bytes) -> None:
        protocol = ClientProtocol()
        protocol.connection_made(0.0)

        with pytest.raises(NotAHub, match="analytics hub"):
            protocol.receive_message(message, 0.0)

    def test_additions_of_a_later_server_are_ignored(self) -> None:
        line, subscription = subscribed_line()
        line.receive({"type": "$news", "channels": 5, "seq": "x"}, {"type": "$pong", "id": 1})
        line.receive({**item("a", 11), "shade": "blue"}, item("elsewhere", 1))

        assert len(line.read(subscription)) == 1


class TestTokens:
    def test_the_first_message_may_be_the_token(self) -> None:
        line = Line(Server(CHANNELS, QUICK))
        subscription = line.subscribe("events")
        line.connect(None, token="secret")
        (check,) = line.server.events_of(CheckToken)
        line.server.engine.authenticated(check.session, ALICE, line.now)
        line.deliver()

        assert check.token == "secret"
        assert subscription.was_accepted
        assert line.protocol.is_open

    def test_the_repr_does_not_show_queued_commands(self) -> None:
        connection = ConnectionState(MSGPACK_CODEC, has_token=True, started=0.0)
        connection.send_command(0.0, action="auth", token="hidden")

        assert "hidden" not in repr(connection)

    def test_a_refused_first_token_ends_with_the_close_code(self) -> None:
        line = Line(Server(CHANNELS, QUICK))
        line.connect(None, token="old")
        session = line.server.events_of(CheckToken)[0].session
        line.server.engine.authenticated(session, AuthenticationError("expired"), line.now)
        line.deliver()

        assert not line.protocol.is_open
        assert line.peer is not None
        assert line.peer.close is not None
        code, reason = line.peer.close.code, line.peer.close.reason
        assert line.protocol.connection_closed(code, reason, line.now).needs_new_token

    def test_a_missing_token_is_detected_at_once(self) -> None:
        line = Line(Server(CHANNELS, QUICK))
        line.connect(None, has_token=False)

        with pytest.raises(ConnectionClosed) as caught:
            line.deliver()
        decision = line.protocol.connection_closed(caught.value.code, str(caught.value), line.now)
        assert isinstance(decision.error, TokenRefused)
        assert decision.error.fault == "missing"

    def test_a_refresh_is_answered(self) -> None:
        line = new_line()
        outcomes: list[HubError | None] = []
        for result in (ALICE, AuthenticationError("expired"), Identity(id="bob")):
            line.protocol.refresh("fresh", line.now, outcomes.append)
            line.transmit()
            check = line.server.events_of(CheckToken)[-1]
            line.server.engine.authenticated(check.session, result, line.now)
            line.deliver()

        accepted, expired, other_subject = outcomes
        assert accepted is None
        assert isinstance(expired, TokenRefused)
        assert expired.fault == "expired"
        assert isinstance(other_subject, PermissionDenied)

    def test_the_end_of_the_connection_ends_a_refresh_without_an_error(self) -> None:
        line = new_line()
        outcomes: list[HubError | None] = []
        line.protocol.refresh("fresh", line.now, outcomes.append)
        line.disconnect()

        assert outcomes == [None]

    def test_an_expiring_token_is_requested_once(self) -> None:
        line, _ = subscribed_line()
        line.receive({"type": "$expiring", "in": 30})
        assert line.protocol.needs_token

        line.protocol.refresh(None, line.now)

        assert not line.protocol.needs_token
        assert line.commands("auth") == []


class TestEnding:
    def test_the_slot_of_a_drain_counts_from_its_arrival_and_is_used_once(self) -> None:
        line, _ = subscribed_line()
        line.receive({"type": "$drain", "in": 3.25})
        line.server.now += 1

        assert line.events[-1] == Draining(3.25)
        assert line.protocol.connection_closed(1012, "restart", line.now).delay == 2.25
        assert line.protocol.connection_closed(1012, "restart", line.now).delay == 0.5

    def test_the_delay_of_an_error_is_the_minimum_before_reconnecting(self) -> None:
        line, _ = subscribed_line()
        line.receive(error("rate-limited", "slower", after=7))

        assert line.protocol.connection_closed(CloseCode.TOO_MANY_COMMANDS, "", line.now).delay == 7

    def test_only_a_connection_that_lasted_resets_the_back_off(self) -> None:
        line = scripted_line()
        delays = []
        for lifetime in (0, 1, 10, 0):
            line.protocol.connection_made(line.now)
            line.server.now += lifetime
            delays.append(line.protocol.connection_lost("x", line.now).delay)

        assert delays == [0.5, 1, 0.5, 1]

    def test_closing_ends_every_subscription_after_its_values(self) -> None:
        line, subscription = subscribed_line()
        line.receive(item("a", 11))
        reason = HubError("over")
        line.protocol.close(reason, line.now)

        assert len(line.read(subscription)) == 1
        assert subscription.error is reason
        assert line.protocol.get_timer() is None
        line.protocol.handle_timer(line.now)
        line.protocol.unsubscribe(subscription, line.now)
        assert line.protocol.data_to_send() == []
