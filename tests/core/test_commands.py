"""Commands and their answers, above all to bad input (`docs/protocol.md` §4, §8 and §10)."""

from __future__ import annotations

import json

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.commands import MAX_OVER_RATE
from analytics_hub.core.events import AskAuthorize, CheckToken, Close, Confirmed, Pause
from analytics_hub.exceptions import HubError
from analytics_hub.identity import Identity
from analytics_hub.protocol import Selection
from analytics_hub.tuning import Tuning

from .answers import REFUSALS
from .rig import ALICE, WALL, Peer, Rig
from .wire import Fields

A = Channel("a")
B = Channel("b")
SECRET = Channel("secret", roles=frozenset({"admin"}))
ADMIN = Identity(id="alice", roles=frozenset({"admin"}))
PING: Fields = {"action": "ping"}
IDS = [str(error) for error, *_ in REFUSALS]


def last_error(peer: Peer) -> Fields:
    return peer.items_of("$error")[-1]


def codes(answer: Fields) -> list[tuple[str, str | None]]:
    """Each channel of an answer, and why it was refused."""
    return [(each["channel"], each.get("code")) for each in answer["channels"]]


def authenticating(rig: Rig) -> Peer:
    """A client that has sent `auth` and waits for the answer."""
    peer = rig.connect(identity=None)
    peer.send({"action": "auth", "id": 9, "token": "t"})
    return peer


def authenticated(peer: Peer, result: Identity | HubError) -> None:
    peer.rig.engine.authenticated(peer.session, result, peer.rig.now)
    peer.rig.pump()


def authorized(peer: Peer, *allowed: str) -> None:
    peer.rig.engine.authorized(peer.session, allowed, peer.rig.now)
    peer.rig.pump()


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


def test_seen_is_passed_on_and_has_no_answer() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.forget()

    peer.send({"action": "seen", "frames": 7}, {"action": "seen", "id": 1, "frames": 2**53 - 1})

    assert peer.items == []
    assert rig.events_of(Confirmed) == [Confirmed(peer.session, 7), Confirmed(peer.session, 2**53 - 1)]


def test_an_answer_has_the_id_of_its_command() -> None:
    peer = Rig(A).connect()

    peer.send(
        {**PING, "id": "x"},
        PING,
        {"action": "unsubscribe", "id": 8, "channels": ["a"]},
        {"action": "subscribe", "id": 9, "channels": ["a"]},
    )

    answers = [(item["type"], item["id"]) for item in peer.items[1:]]
    assert answers == [("$pong", "x"), ("$pong", None), ("$unsubscribed", 8), ("$subscribed", 9)]


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
def test_an_invalid_command_is_answered_and_the_session_continues(data: str | bytes, place: str) -> None:
    peer = Rig(A).connect()

    peer.send_raw(data)
    peer.send({**PING, "id": 1})

    assert (last_error(peer)["code"], last_error(peer)["retry"]) == ("bad-request", "never")
    assert place in last_error(peer)["message"]
    assert peer.items_of("$pong")[0]["id"] == 1
    assert peer.close is None


def test_an_unknown_action_is_answered_with_the_actions_there_are() -> None:
    peer = Rig(A).connect()

    peer.send({"action": "dance", "id": 4})

    assert (last_error(peer)["code"], last_error(peer)["id"]) == ("unknown-action", 4)
    assert "subscribe, unsubscribe, auth, ping" in last_error(peer)["message"]


def test_ten_malformed_commands_in_a_row_end_the_session() -> None:
    peer, other = (Rig(A).connect() for _ in range(2))

    for _ in range(3):
        for _ in range(9):
            peer.send_raw("nonsense")
        peer.send(PING)
    other.send_raw("[" + "5," * 10 + '{"action":"ping"}]')

    assert peer.close is None
    assert other.ending == (4400, "10 malformed commands in a row")
    assert len(other.items_of("$error")) == 10
    assert other.items_of("$pong") == []


@pytest.mark.parametrize("action", ["subscribe", "unsubscribe"])
def test_more_channels_than_a_session_may_hold_are_one_bad_request(action: str) -> None:
    peer = Rig(A, tuning=Tuning(max_subscriptions=3)).connect()

    peer.send({"action": action, "id": 2, "channels": ["a"] * 4})

    assert (last_error(peer)["code"], last_error(peer)["id"]) == ("bad-request", 2)
    assert last_error(peer)["message"] == "4 channels in one command; at most 3 are allowed"
    assert peer.types[1:] == ["$error"]


# --- the rate


def test_commands_over_the_rate_are_refused_until_later() -> None:
    rig = Rig(A, tuning=Tuning(command_rate=4))
    peer = rig.connect()

    peer.send(*[{**PING, "id": number} for number in range(6)])
    rig.advance(0.25)
    peer.send({**PING, "id": "later"})

    assert [pong["id"] for pong in peer.items_of("$pong")] == [0, 1, 2, 3, "later"]
    errors = peer.items_of("$error")
    assert [error["id"] for error in errors] == [4, 5]
    assert {(error["code"], error["retry"], error["after"]) for error in errors} == {("rate-limited", "later", 0.25)}
    assert peer.close is None


def test_a_thousand_commands_over_the_rate_end_the_session() -> None:
    rig = Rig(A, tuning=Tuning(command_rate=1))
    peer = rig.connect()

    peer.send_raw(json.dumps([PING] * MAX_OVER_RATE))
    is_closed_early = peer.close is not None
    peer.send(PING)

    assert not is_closed_early
    assert peer.ending == (4429, "too many commands")


def test_executed_commands_do_not_excuse_a_flood() -> None:
    """A flood takes time, in which some of its commands are within the rate."""
    rig = Rig(A, tuning=Tuning(command_rate=100))
    flooding, other = rig.connect(), rig.connect()

    for _ in range(80):
        rig.advance(0.2)
        flooding.send_raw(json.dumps([PING] * 60))
        other.send_raw(json.dumps([PING] * 40))  # half of them are over the rate

    assert flooding.close is not None
    assert flooding.close.code == 4429
    assert other.close is None
    assert len(other.items_of("$error")) > MAX_OVER_RATE


def test_a_client_closed_for_its_full_control_queue_is_not_closed_again_for_its_commands() -> None:
    rig = Rig(A, tuning=Tuning(command_rate=1, control_bytes=1024))
    peer = rig.connect()
    peer.stall()

    peer.send_raw(json.dumps([PING] * 2000))

    assert [close.code for close in rig.events_of(Close)] == [4503]


# --- the first token


@pytest.mark.parametrize("command", [PING, {"action": "subscribe", "channels": ["a"]}])
def test_the_first_command_must_be_auth(command: Fields) -> None:
    peer = Rig(A).connect(identity=None)

    peer.send({**command, "id": 1})

    assert peer.types == ["$error"]
    assert (last_error(peer)["code"], last_error(peer)["id"]) == ("unauthenticated", 1)
    assert peer.close is None


def test_a_first_token_opens_the_session() -> None:
    rig = Rig(A)
    peer = authenticating(rig)
    (check,) = rig.events_of(CheckToken)

    authenticated(peer, Identity(id="bob", expires=WALL + 100))

    assert (check.session, check.token) == (peer.session, "t")
    assert peer.types == ["$hello", "$authenticated"]
    assert peer.items[0]["expires"] == WALL + 100
    assert (peer.items[1]["id"], peer.items[1]["expires"]) == (9, WALL + 100)


def test_auth_and_subscribe_may_come_in_one_frame() -> None:
    rig = Rig(A)
    peer = rig.connect(identity=None)

    peer.send_raw('[{"action":"auth","token":"t"},{"action":"subscribe","channels":["a"]}]')
    before = peer.types
    authenticated(peer, ALICE)

    assert before == []
    assert peer.types == ["$hello", "$authenticated", "$subscribed"]
    assert "id" not in peer.items[1]


@pytest.mark.parametrize(("refusal", "answer", "code"), REFUSALS, ids=IDS)
def test_a_refused_first_token_ends_the_session(refusal: HubError, answer: Fields, code: int) -> None:
    peer = authenticating(Rig(A))

    authenticated(peer, refusal)

    assert last_error(peer).items() >= {"id": 9, "retry": "later", **answer}.items()
    assert peer.ending == (code, answer["message"])


def test_a_token_that_has_expired_during_its_check_is_refused() -> None:
    peer = authenticating(Rig(A))

    authenticated(peer, Identity(id="bob", expires=WALL))

    assert last_error(peer)["message"] == "expired token"
    assert peer.close is not None


def test_an_unexpected_answer_is_ignored() -> None:
    rig = Rig(A, asks_to_authorize=True)
    peer = rig.connect()
    gone, asking = authenticating(rig), rig.connect()
    asking.send_subscribe("a")
    for each in (gone, asking):
        rig.engine.disconnect(each.session, rig.now)

    for each in (peer, gone):
        authenticated(each, Identity(id="mallory"))
    for each in (peer, asking):
        authorized(each, "a")

    assert peer.types == asking.types == ["$hello"]
    assert peer.session.identity == ALICE
    assert gone.items == []
    assert rig.engine.statistics().subscriptions == 0


# --- a refreshed token


def test_a_refreshed_token_loses_no_data() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    peer.send({"action": "auth", "token": "t"})
    rig.deliver("a", 1)

    authenticated(peer, Identity(id="alice", expires=WALL + 500))

    assert peer.data() == [1]
    assert peer.items_of("$authenticated")[0]["expires"] == WALL + 500
    assert "$unsubscribed" not in peer.types


def test_a_refreshed_token_must_be_for_the_same_subject() -> None:
    peer = Rig(A).connect()
    peer.send({"action": "auth", "id": 5, "token": "t"})

    authenticated(peer, Identity(id="mallory", roles=frozenset({"admin"})))

    assert (last_error(peer)["code"], last_error(peer)["id"]) == ("forbidden", 5)
    assert peer.session.identity == ALICE
    assert peer.close is None


@pytest.mark.parametrize("refusal", [error for error, *_ in REFUSALS], ids=IDS)
def test_a_refused_refresh_changes_nothing(refusal: HubError) -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    peer.send({"action": "auth", "token": "t"})

    authenticated(peer, refusal)
    rig.deliver("a", 1)

    assert len(peer.items_of("$error")) == 1
    assert peer.data() == [1]
    assert peer.close is None


# --- changes from outside


@pytest.mark.parametrize("by_token", [True, False])
def test_subscriptions_that_a_new_identity_may_not_have_end(by_token: bool) -> None:
    rig = Rig(A, SECRET)
    peer = rig.connect(ADMIN)
    peer.subscribe("a", "secret")
    rig.deliver("secret", 1)

    if by_token:
        peer.send({"action": "auth", "token": "t"})
        authenticated(peer, ALICE)
    else:
        rig.engine.identify(peer.session, ALICE, rig.now)
    rig.deliver("secret", 2)
    rig.deliver("a", 3)
    rig.advance(1.0)

    (ended,) = peer.items_of("$unsubscribed")
    assert (ended["reason"], ended["channels"]) == ("forbidden", [{"channel": "secret", "seq": 1, "abandoned": 0}])
    assert "id" not in ended
    assert peer.data() == [1, 3]
    assert peer.ledger("secret").delivered == 1
    assert codes(peer.subscribe("secret")) == [("secret", "forbidden")]


def test_an_identity_that_allows_the_same_is_not_announced() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    peer.forget()

    rig.engine.identify(peer.session, ADMIN, rig.now)
    rig.pump()

    assert peer.items == []
    assert peer.session.identity == ADMIN


def test_only_an_open_session_can_be_identified() -> None:
    rig = Rig(A)
    waiting, gone = authenticating(rig), rig.connect()
    rig.engine.disconnect(gone.session, rig.now)

    for peer in (waiting, gone):
        rig.engine.identify(peer.session, ADMIN, rig.now)
        rig.engine.forbid(peer.session, ["a"], rig.now)
    rig.pump()

    assert waiting.session.identity is None
    assert gone.session.identity == ALICE
    assert waiting.items == []


def test_withdrawn_channels_end_and_no_others() -> None:
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


# --- the application is asked


def test_the_application_is_asked_about_each_channel_that_the_roles_admit() -> None:
    rig = Rig(A, B, SECRET, asks_to_authorize=True)
    peer = rig.connect()

    peer.send({"action": "subscribe", "id": 1, "channels": ["a", "b", "a", "secret", "unknown"]})
    (question,) = rig.events_of(AskAuthorize)
    before = peer.types[1:]
    authorized(peer, "a")

    assert (question.identity, question.channels, before) == (ALICE, ("a", "b"), [])
    (answer,) = peer.items_of("$subscribed")
    assert answer["id"] == 1
    assert codes(answer) == [
        ("a", None),
        ("b", "forbidden"),
        ("a", None),
        ("secret", "forbidden"),
        ("unknown", "unknown-channel"),
    ]
    assert answer["channels"][1]["message"] == "channel 'b' was refused by the application"


def test_the_application_is_asked_once_about_a_subscription() -> None:
    rig = Rig(A, asks_to_authorize=True)
    peer = rig.connect()
    peer.send_subscribe("a")
    authorized(peer, "a")

    peer.subscribe({"channel": "a", "max_hz": 1})

    assert len(rig.events_of(AskAuthorize)) == 1
    assert len(peer.items_of("$subscribed")) == 2


def test_what_changes_while_the_application_is_asked_is_not_allowed_by_its_answer() -> None:
    """New roles open no channel about which it was not asked, and a channel withdrawn meanwhile stays withdrawn."""
    rig = Rig(A, B, SECRET, asks_to_authorize=True)
    peer = rig.connect()
    peer.send_subscribe("a")
    authorized(peer, "a")
    peer.send_subscribe("a", "b", "secret")
    rig.engine.identify(peer.session, ADMIN, rig.now)
    rig.engine.forbid(peer.session, ["a"], rig.now)

    authorized(peer, "b")

    assert codes(peer.items_of("$subscribed")[-1]) == [("a", "forbidden"), ("b", None), ("secret", "forbidden")]
    assert [question.channels for question in rig.events_of(AskAuthorize)] == [("a",), ("b",)]


def test_commands_behind_one_that_waits_keep_their_order() -> None:
    rig = Rig(A, B, asks_to_authorize=True)
    peer = rig.connect()

    peer.send({"action": "subscribe", "channels": ["a"]}, PING, {"action": "subscribe", "channels": ["b"]}, PING)
    authorized(peer, "a")
    in_between = peer.types[1:]
    authorized(peer, "b")

    assert in_between == ["$subscribed", "$pong"]
    assert peer.types[1:] == ["$subscribed", "$pong", "$subscribed", "$pong"]


@pytest.mark.parametrize("waits_again", [False, True])
def test_reading_pauses_while_too_many_commands_wait(waits_again: bool) -> None:
    rig = Rig(A, tuning=Tuning(pending_bytes=1024))
    peer = authenticating(rig)

    peer.send(*[{**PING, "id": "x" * 100}] * 30)
    if waits_again:
        peer.send({"action": "auth", "token": "second"}, PING)
    paused = [pause.paused for pause in rig.events_of(Pause)]
    authenticated(peer, ALICE)
    in_between = [pause.paused for pause in rig.events_of(Pause)]
    authenticated(peer, ALICE)

    assert paused == [True]
    assert in_between == ([True] if waits_again else [True, False])
    assert [pause.paused for pause in rig.events_of(Pause)] == [True, False]
    assert len(peer.items_of("$pong")) == 30 + waits_again


# --- subscribing without a frame


def test_selections_become_as_few_commands_as_their_bound_allows() -> None:
    rig = Rig(Channel("user:*"), tuning=Tuning(max_subscriptions=3))
    peer = rig.connect()
    names = [f"user:{number}" for number in range(7)]

    rig.engine.subscribe(peer.session, [Selection(name) for name in names], rig.now)
    rig.pump()

    answers = peer.items_of("$subscribed")
    assert [[name for name, _ in codes(answer)] for answer in answers] == [names[:3], names[3:6], names[6:]]
    assert {code for _, code in codes(answers[1])} == {"too-many-subscriptions"}
    assert list(peer.session.subscriptions) == names[:3]
    assert "id" not in answers[0]


def test_selections_count_as_commands() -> None:
    rig = Rig(A, B, tuning=Tuning(command_rate=2))
    peer = rig.connect()

    rig.engine.subscribe(peer.session, [Selection("a"), Selection("b")], rig.now)
    rig.engine.subscribe(peer.session, [], rig.now)
    rig.engine.subscribe(peer.session, [Selection("a")], rig.now)
    rig.pump()

    assert peer.types == ["$hello", "$subscribed", "$error"]
    assert (last_error(peer)["code"], last_error(peer)["after"]) == ("rate-limited", 0.5)


def test_selections_wait_for_their_turn() -> None:
    rig = Rig(A, asks_to_authorize=True, tuning=Tuning(pending_bytes=1024))
    waiting, early, gone = authenticating(rig), rig.connect(identity=None), rig.connect()
    rig.engine.disconnect(gone.session, rig.now)

    for peer in (waiting, early, gone):
        rig.engine.subscribe(peer.session, [Selection("a")] * 50, rig.now)
    rig.pump()
    before = waiting.types
    authenticated(waiting, ALICE)
    authorized(waiting, "a")

    assert before == []
    assert waiting.types == ["$hello", "$authenticated", "$subscribed"]
    assert last_error(early)["code"] == "unauthenticated"
    assert gone.types == ["$hello"]
    assert [(pause.session, pause.paused) for pause in rig.events_of(Pause)] == [
        (waiting.session, True),
        (waiting.session, False),
    ]
