"""Commands and their answers, bad input above all (`docs/protocol.md` §4, §8 and §10)."""

from __future__ import annotations

import json

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.events import AskAuthorize, CheckToken, Close, Confirmed, Pause
from analytics_hub.exceptions import HubError
from analytics_hub.identity import Identity
from analytics_hub.protocol import Selection
from analytics_hub.tuning import Tuning

from .answers import REFUSALS
from .rig import ALICE, START, WALL, Peer, Rig
from .wire import Fields

A = Channel("a")
B = Channel("b")
SECRET = Channel("secret", roles=frozenset({"admin"}))
PING: Fields = {"action": "ping"}
IDS = [str(error) for error, *_ in REFUSALS]


def error(peer: Peer) -> Fields:
    """The `$error` that came last."""
    return peer.items_of("$error")[-1]


def newcomer(rig: Rig) -> Peer:
    """A client that has said `auth` and waits for the answer."""
    peer = rig.connect(identity=None)
    peer.send({"action": "auth", "id": 9, "token": "t"})
    return peer


def grant(peer: Peer, result: Identity | HubError) -> None:
    peer.rig.engine.authenticated(peer.session, result, peer.rig.now)
    peer.rig.pump()


# --- welcome


def test_hello_is_the_first_item() -> None:
    rig = Rig(A, tuning=Tuning(rate=7, heartbeat=3))

    (hello,) = rig.connect().items

    assert hello == {
        "type": "$hello",
        "timestamp": "2023-11-14T22:13:20.000Z",
        "session": "s0",
        "protocol": 1,
        "node": "here",
        "heartbeat": 3,
        "limits": {
            "subscriptions": 128,
            "batch": 50,
            "buffer": 256,
            "rate": 7,
            "commands": 1000,
            "connections": 100,
            "message": None,
        },
        "reconnect": {"min": 0.5, "max": 30},
        "expires": None,
    }


def test_what_a_client_has_seen_is_passed_on_and_has_no_answer() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.forget()

    peer.send({"action": "seen", "frames": 7}, {"action": "seen", "id": 1, "frames": 2**53 - 1})

    assert peer.items == []
    assert rig.events_of(Confirmed) == [Confirmed(peer.session, 7), Confirmed(peer.session, 2**53 - 1)]


def test_a_ping_is_answered_with_its_id() -> None:
    peer = Rig(A).connect()

    peer.send({**PING, "id": "x"}, PING)

    assert [pong["id"] for pong in peer.items_of("$pong")] == ["x", None]


# --- bad input


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("{", "truncated"),
        ("5", "object"),
        ("[]", "empty array"),
        ('{"action":"ping","x":1}', "x"),
        ('{"action":"subscribe","channels":[5]}', "$.channels"),
        ('{"action":"subscribe","channels":[]}', "$.channels"),
        ("[" * 100_000 + "]" * 100_000, "nested"),
        (b'{"action":"ping"}', "binary"),
    ],
)
def test_a_malformed_command_is_answered_and_the_client_lives(data: str | bytes, place: str) -> None:
    peer = Rig(A).connect()

    peer.send_raw(data)
    peer.send({**PING, "id": 1})

    assert (error(peer)["code"], error(peer)["retry"]) == ("bad-request", "never")
    assert place in error(peer)["message"]
    assert peer.items_of("$pong")[0]["id"] == 1
    assert peer.close is None


def test_an_unknown_action_is_answered_with_the_actions_there_are() -> None:
    peer = Rig(A).connect()

    peer.send({"action": "dance", "id": 4})

    assert (error(peer)["code"], error(peer)["id"]) == ("unknown-action", 4)
    assert "subscribe, unsubscribe, auth, ping" in error(peer)["message"]


def test_ten_malformed_commands_in_a_row_end_the_client() -> None:
    peer = Rig(A).connect()

    for _ in range(9):
        peer.send_raw("nonsense")
    lives = peer.close is None
    peer.send_raw("nonsense")
    peer.send_raw("nonsense")

    assert lives
    assert peer.close is not None
    assert (peer.close.code, peer.close.reason) == (4400, "10 malformed commands in a row")
    assert len(peer.items_of("$error")) == 10


def test_a_good_command_forgives_the_malformed_ones() -> None:
    peer = Rig(A).connect()

    for _ in range(5):
        for _ in range(9):
            peer.send_raw("nonsense")
        peer.send(PING)

    assert peer.close is None


def test_what_follows_the_last_malformed_command_is_not_carried_out() -> None:
    peer = Rig(A).connect()

    peer.send_raw("[" + "5," * 10 + '{"action":"ping"}]')

    assert peer.items_of("$pong") == []
    assert peer.close is not None


@pytest.mark.parametrize("action", ["subscribe", "unsubscribe"])
def test_more_channels_than_a_session_may_hold_are_one_bad_request(action: str) -> None:
    peer = Rig(A, tuning=Tuning(max_subscriptions=3)).connect()

    peer.send({"action": action, "id": 2, "channels": ["a"] * 4})

    assert (error(peer)["code"], error(peer)["id"]) == ("bad-request", 2)
    assert error(peer)["message"] == "4 channels in one command; at most 3 are allowed"
    assert peer.types[1:] == ["$error"]


def test_commands_over_the_rate_are_refused_until_later() -> None:
    rig = Rig(A, tuning=Tuning(command_rate=4))
    peer = rig.connect()

    peer.send(*[{**PING, "id": number} for number in range(6)])
    rig.advance(0.25)
    peer.send({**PING, "id": "later"})

    assert [pong["id"] for pong in peer.items_of("$pong")] == [0, 1, 2, 3, "later"]
    refused = peer.items_of("$error")
    assert [one["id"] for one in refused] == [4, 5]
    assert {(one["code"], one["retry"], one["after"]) for one in refused} == {("rate-limited", "later", 0.25)}
    assert peer.close is None


def test_a_thousand_refused_commands_end_the_client() -> None:
    rig = Rig(A, tuning=Tuning(command_rate=1))
    peer = rig.connect()

    peer.send_raw(json.dumps([PING] * 1000))
    lives = peer.close is None
    peer.send(PING)

    assert lives
    assert peer.close is not None
    assert peer.close.code == 4429


def test_what_is_served_of_a_flood_does_not_excuse_it() -> None:
    """A flood takes time, in which some of its commands fall due."""
    rig = Rig(A, tuning=Tuning(command_rate=100))
    flood, fair = rig.connect(), rig.connect()

    for _ in range(80):
        rig.advance(0.2)
        flood.send_raw(json.dumps([PING] * 60))
        fair.send_raw(json.dumps([PING] * 40))  # half of it is too much, and answered so
    refused = len(fair.items_of("$error"))

    assert flood.close is not None
    assert flood.close.code == 4429
    assert fair.close is None
    assert refused > 1000


def test_who_is_closed_for_its_full_lane_is_not_closed_again_for_its_commands() -> None:
    rig = Rig(A, tuning=Tuning(command_rate=1, control_bytes=1024))
    peer = rig.connect()
    peer.stall()

    peer.send_raw(json.dumps([PING] * 2000))

    assert [close.code for close in rig.events_of(Close)] == [4503]


# --- before authentication


@pytest.mark.parametrize("command", [PING, {"action": "subscribe", "channels": ["a"]}])
def test_nothing_but_auth_comes_before_it(command: Fields) -> None:
    peer = Rig(A).connect(identity=None)

    peer.send({**command, "id": 1})

    assert peer.types == ["$error"]
    assert (error(peer)["code"], error(peer)["id"]) == ("unauthenticated", 1)
    assert peer.close is None


def test_a_first_token_opens_the_session() -> None:
    rig = Rig(A)
    peer = newcomer(rig)
    (asked,) = rig.events_of(CheckToken)

    grant(peer, Identity(id="bob", expires=WALL + 100))

    assert (asked.session, asked.token) == (peer.session, "t")
    assert peer.types == ["$hello", "$authenticated"]
    assert peer.items[0]["expires"] == WALL + 100
    assert (peer.items[1]["id"], peer.items[1]["expires"]) == (9, WALL + 100)


def test_auth_and_subscribe_in_one_packet_work() -> None:
    rig = Rig(A)
    peer = rig.connect(identity=None)

    peer.send_raw('[{"action":"auth","token":"t"},{"action":"subscribe","channels":["a"]}]')
    before = peer.types
    grant(peer, ALICE)

    assert before == []
    assert peer.types == ["$hello", "$authenticated", "$subscribed"]
    assert "id" not in peer.items[1]


@pytest.mark.parametrize(("refusal", "answer", "closed"), REFUSALS, ids=IDS)
def test_a_refused_first_token_ends_the_client(refusal: HubError, answer: Fields, closed: int) -> None:
    peer = newcomer(Rig(A))

    grant(peer, refusal)

    assert error(peer).items() >= {"id": 9, "retry": "later", **answer}.items()
    assert peer.close is not None
    assert (peer.close.code, peer.close.reason) == (closed, answer["message"])


def test_a_token_that_has_run_out_meanwhile_is_expired() -> None:
    peer = newcomer(Rig(A))

    grant(peer, Identity(id="bob", expires=WALL))

    assert error(peer)["message"] == "expired token"
    assert peer.close is not None


def test_an_answer_that_nobody_waits_for_is_ignored() -> None:
    rig = Rig(A)
    peer = rig.connect()
    gone = newcomer(rig)
    rig.engine.disconnect(gone.session, rig.now)

    grant(peer, Identity(id="mallory"))
    grant(gone, ALICE)

    assert peer.types == ["$hello"]
    assert peer.session.identity == ALICE
    assert gone.items == []


# --- a refreshed token


def test_a_refreshed_token_loses_no_data() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    peer.send({"action": "auth", "token": "t"})
    rig.deliver("a", 1)

    grant(peer, Identity(id="alice", expires=WALL + 500))

    assert peer.data() == [1]
    assert peer.items_of("$authenticated")[0]["expires"] == WALL + 500
    assert "$unsubscribed" not in peer.types


def test_a_refreshed_token_must_be_for_the_same_subject() -> None:
    peer = Rig(A).connect()
    peer.send({"action": "auth", "id": 5, "token": "t"})

    grant(peer, Identity(id="mallory", roles=frozenset({"admin"})))

    assert (error(peer)["code"], error(peer)["id"]) == ("forbidden", 5)
    assert peer.session.identity == ALICE
    assert peer.close is None


def test_what_new_roles_do_not_allow_is_ended_and_named() -> None:
    rig = Rig(A, SECRET)
    peer = rig.connect(Identity(id="root", roles=frozenset({"admin"})))
    peer.subscribe("a", "secret")
    peer.send({"action": "auth", "token": "t"})

    grant(peer, Identity(id="root"))
    rig.deliver("secret", 1)
    rig.deliver("a", 2)

    (ended,) = peer.items_of("$unsubscribed")
    assert (ended["reason"], [one["channel"] for one in ended["channels"]]) == ("forbidden", ["secret"])
    assert "id" not in ended
    assert peer.data() == [2]


@pytest.mark.parametrize("refusal", [error for error, *_ in REFUSALS], ids=IDS)
def test_a_refused_refresh_leaves_the_session_alone(refusal: HubError) -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    peer.send({"action": "auth", "token": "t"})

    grant(peer, refusal)
    rig.deliver("a", 1)

    assert len(peer.items_of("$error")) == 1
    assert peer.data() == [1]
    assert peer.close is None


# --- what others decide about it


def test_what_changes_while_the_application_is_asked_is_not_allowed_by_that() -> None:
    """Roles that come meanwhile open nothing that was not asked about, and what was taken back is not held any more."""
    rig = Rig(A, B, SECRET, asks_to_authorize=True)
    peer = rig.connect()
    peer.send_subscribe("a")
    rig.engine.authorized(peer.session, ["a"], rig.now)
    peer.send_subscribe("a", "b", "secret")
    rig.engine.identify(peer.session, Identity(id="alice", roles=frozenset({"admin"})), rig.now)
    rig.engine.forbid(peer.session, ["a"], rig.now)

    rig.engine.authorized(peer.session, ["b"], rig.now)
    rig.pump()

    answers = peer.items_of("$subscribed")[-1]["channels"]
    assert [(one["channel"], one.get("code")) for one in answers] == [
        ("a", "forbidden"),
        ("b", None),
        ("secret", "forbidden"),
    ]
    assert [ask.channels for ask in rig.events_of(AskAuthorize)] == [("a",), ("b",)]


def test_another_identity_keeps_what_it_may_have() -> None:
    rig = Rig(A, SECRET)
    peer = rig.connect(Identity(id="root", roles=frozenset({"admin"})))
    peer.subscribe("a", "secret")
    rig.deliver("secret", 1)

    rig.engine.identify(peer.session, Identity(id="root"), rig.now)
    rig.deliver("secret", 2)
    rig.deliver("a", 3)
    rig.advance(1.0)

    (ended,) = peer.items_of("$unsubscribed")
    assert (ended["reason"], ended["channels"]) == ("forbidden", [{"channel": "secret", "seq": 1, "abandoned": 0}])
    assert "id" not in ended
    assert peer.data() == [1, 3]
    assert peer.ledger("secret").delivered == 1
    assert peer.subscribe("secret")["channels"][0]["code"] == "forbidden"


def test_an_identity_that_may_have_the_same_is_told_nothing() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    peer.forget()

    rig.engine.identify(peer.session, Identity(id="alice", roles=frozenset({"guest"})), rig.now)
    rig.pump()

    assert peer.items == []
    assert peer.session.identity is not None
    assert peer.session.identity.roles == {"guest"}


def test_who_waits_for_a_token_or_has_gone_is_nobody_else() -> None:
    rig = Rig(A)
    waiting, gone = newcomer(rig), rig.connect()
    rig.engine.disconnect(gone.session, rig.now)

    for peer in (waiting, gone):
        rig.engine.identify(peer.session, Identity(id="root"), rig.now)
        rig.engine.forbid(peer.session, ["a"], rig.now)
    rig.pump()

    assert waiting.session.identity is None
    assert gone.session.identity == ALICE
    assert waiting.items == []


def test_channels_that_are_taken_back_end_and_no_others() -> None:
    rig = Rig(A, B)
    peer = rig.connect()
    peer.subscribe("a", "b")
    peer.stall()
    rig.deliver("b", 1, 2)

    rig.engine.forbid(peer.session, ["b", "unknown"], rig.now)
    rig.deliver("b", 3)
    rig.deliver("a", 4)
    peer.resume()

    (ended,) = peer.items_of("$unsubscribed")
    assert (ended["reason"], ended["channels"]) == ("forbidden", [{"channel": "b", "seq": 0, "abandoned": 2}])
    assert peer.data() == [4]


# --- what the application says


def test_the_application_has_a_say_about_each_channel() -> None:
    rig = Rig(A, B, SECRET, asks_to_authorize=True)
    peer = rig.connect()

    peer.send({"action": "subscribe", "id": 1, "channels": ["a", "b", "a", "secret", "unknown"]})
    (ask,) = rig.events_of(AskAuthorize)
    before = peer.types[1:]
    rig.engine.authorized(peer.session, ["a"], rig.now)
    rig.pump()

    assert (ask.identity, ask.channels, before) == (ALICE, ("a", "b"), [])
    answer = peer.items_of("$subscribed")[0]
    assert answer["id"] == 1
    assert [(one["channel"], one.get("code")) for one in answer["channels"]] == [
        ("a", None),
        ("b", "forbidden"),
        ("a", None),
        ("secret", "forbidden"),
        ("unknown", "unknown-channel"),
    ]
    assert answer["channels"][1]["message"] == "channel 'b' was refused by the application"


def test_nobody_is_asked_twice_about_one_subscription() -> None:
    rig = Rig(A, asks_to_authorize=True)
    peer = rig.connect()
    peer.send({"action": "subscribe", "channels": ["a"]})
    rig.engine.authorized(peer.session, ["a"], rig.now)

    peer.subscribe({"channel": "a", "max_hz": 1})

    assert len(rig.events_of(AskAuthorize)) == 1
    assert len(peer.items_of("$subscribed")) == 2


def test_commands_behind_one_that_waits_keep_their_order() -> None:
    rig = Rig(A, B, asks_to_authorize=True)
    peer = rig.connect()

    peer.send({"action": "subscribe", "channels": ["a"]}, PING, {"action": "subscribe", "channels": ["b"]}, PING)
    rig.engine.authorized(peer.session, ["a"], rig.now)
    rig.pump()
    in_between = peer.types[1:]
    rig.engine.authorized(peer.session, ["b"], rig.now)
    rig.pump()

    assert in_between == ["$subscribed", "$pong"]
    assert peer.types[1:] == ["$subscribed", "$pong", "$subscribed", "$pong"]


def test_a_verdict_that_nobody_waits_for_is_ignored() -> None:
    rig = Rig(A, asks_to_authorize=True)
    peer = rig.connect()
    gone = rig.connect()
    gone.send({"action": "subscribe", "channels": ["a"]})
    rig.engine.disconnect(gone.session, rig.now)

    for one in (peer, gone):
        rig.engine.authorized(one.session, ["a"], rig.now)
        rig.pump()

    assert peer.types == gone.types == ["$hello"]
    assert rig.engine.statistics().subscriptions == 0


def test_too_many_waiting_commands_stop_the_reading() -> None:
    rig = Rig(A, tuning=Tuning(pending_bytes=1024))
    peer = newcomer(rig)

    for _ in range(30):
        peer.send({**PING, "id": "x" * 100})
    stopped = rig.events_of(Pause)
    grant(peer, ALICE)

    assert [pause.paused for pause in stopped] == [True]
    assert [pause.paused for pause in rig.events_of(Pause)] == [True, False]
    assert len(peer.items_of("$pong")) == 30


def test_reading_goes_on_only_when_nothing_waits_any_more() -> None:
    rig = Rig(A, tuning=Tuning(pending_bytes=1024))
    peer = newcomer(rig)
    for _ in range(30):
        peer.send({**PING, "id": "x" * 100})
    peer.send({"action": "auth", "token": "second"}, PING)

    grant(peer, ALICE)
    in_between = [pause.paused for pause in rig.events_of(Pause)]
    grant(peer, ALICE)

    assert in_between == [True]
    assert [pause.paused for pause in rig.events_of(Pause)] == [True, False]
    assert rig.now == START


# --- without a frame


def names_of(peer: Peer) -> list[list[str]]:
    """The channels of each answer."""
    return [[one["channel"] for one in answer["channels"]] for answer in peer.items_of("$subscribed")]


def test_selections_become_as_few_commands_as_their_bound_allows() -> None:
    rig = Rig(Channel("user:*"), tuning=Tuning(max_subscriptions=3))
    peer = rig.connect()
    wanted = [Selection(f"user:{number}", last=1) for number in range(7)]
    rig.publish("user:6", "news")

    rig.engine.subscribe(peer.session, wanted, rig.now)
    rig.pump()

    names = [selection.channel for selection in wanted]
    assert names_of(peer) == [names[:3], names[3:6], names[6:]]
    assert [one.get("code") for one in peer.items_of("$subscribed")[1]["channels"]] == ["too-many-subscriptions"] * 3
    assert set(peer.session.subscriptions) == set(names[:3])
    assert "id" not in peer.items_of("$subscribed")[0]


def test_no_selection_is_no_command() -> None:
    rig = Rig(A)
    peer = rig.connect()

    rig.engine.subscribe(peer.session, [], rig.now)
    rig.pump()

    assert peer.types == ["$hello"]


def test_selections_count_as_commands_of_their_number() -> None:
    rig = Rig(A, B, tuning=Tuning(command_rate=2))
    peer = rig.connect()

    rig.engine.subscribe(peer.session, [Selection("a"), Selection("b")], rig.now)
    rig.engine.subscribe(peer.session, [Selection("a")], rig.now)
    rig.pump()

    assert names_of(peer) == [["a", "b"]]
    assert (error(peer)["code"], error(peer)["after"]) == ("rate-limited", 0.5)


def test_selections_wait_for_an_identity_and_their_turn() -> None:
    rig = Rig(A, asks_to_authorize=True)
    peer, early = newcomer(rig), rig.connect(identity=None)

    for each in (peer, early):
        rig.engine.subscribe(each.session, [Selection("a")], rig.now)
    rig.pump()
    before = peer.types
    grant(peer, ALICE)
    rig.engine.authorized(peer.session, ["a"], rig.now)
    rig.pump()

    assert before == []
    assert peer.types == ["$hello", "$authenticated", "$subscribed"]
    assert error(early)["code"] == "unauthenticated"


def test_selections_of_a_session_that_has_ended_are_ignored() -> None:
    rig = Rig(A)
    peer = rig.connect()
    rig.engine.disconnect(peer.session, rig.now)

    rig.engine.subscribe(peer.session, [Selection("a")], rig.now)
    rig.pump()

    assert peer.types == ["$hello"]
    assert rig.engine.statistics().subscriptions == 0
