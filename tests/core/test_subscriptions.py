"""Beginning, pacing and ending subscriptions, and where one starts (`docs/protocol.md` §4 and §5)."""

from __future__ import annotations

import pytest

from analytics_hub.channels import Channel
from analytics_hub.identity import Identity
from analytics_hub.tuning import Tuning

from .rig import Peer, Rig
from .wire import Fields

A = Channel("a")
B = Channel("b")
TABLE = Channel("t", mode="table", max_keys=2)
LATEST = Channel("l", mode="latest")
MEMBERS = Channel("user:*", keep_seconds=10)
SECRET = Channel("secret", roles=frozenset({"admin"}))
BEAT = 0.125


def one(peer: Peer, channel: str | Fields) -> Fields:
    """The answer about one channel."""
    (answer,) = peer.subscribe(channel)["channels"]
    return dict(answer)


def since(channel: str, seq: int, epoch: str | None = None) -> Fields:
    return {"channel": channel, "since": {"epoch": epoch or "test.1", "seq": seq}}


# --- start options


def test_events_start_at_the_end() -> None:
    rig = Rig(A)
    rig.publish("a", 1, 2)
    peer = rig.connect()

    answer = one(peer, "a")
    rig.deliver("a", 3)

    assert (answer["ok"], answer["mode"], answer["epoch"], answer["seq"]) == (True, "events", "test.1", 2)
    assert "recovered" not in answer
    assert peer.data() == [3]


@pytest.mark.parametrize("options", [{}, {"snapshot": True}])
def test_tables_start_with_a_snapshot(options: Fields) -> None:
    rig = Rig(TABLE, LATEST)
    rig.publish("t", 1, 2, key="k")
    rig.publish("l", 3, 4)
    peer = rig.connect()

    peer.subscribe({"channel": "t", **options}, {"channel": "l", **options})

    assert sorted(peer.data()) == [2, 4]


def test_last_starts_some_items_back() -> None:
    rig = Rig(A)
    rig.publish("a", *range(10))
    peer = rig.connect()

    answer = one(peer, {"channel": "a", "last": 3})

    assert answer["seq"] == 7
    assert peer.data() == [7, 8, 9]


def test_the_answer_comes_before_the_items() -> None:
    rig = Rig(A)
    rig.publish("a", 1)
    peer = rig.connect()

    peer.subscribe({"channel": "a", "last": 1})

    assert peer.types == ["$hello", "$subscribed", "a"]


@pytest.mark.parametrize("options", [{"last": 1, "snapshot": True}, {"last": 1, "since": {"epoch": "e", "seq": 1}}])
def test_two_start_options_at_once_are_a_bad_request(options: Fields) -> None:
    answer = one(Rig(A).connect(), {"channel": "a", **options})

    assert (answer["ok"], answer["code"]) == (False, "bad-request")
    assert "exclude each other" in answer["message"]


def test_a_channel_may_start_only_once_in_one_command() -> None:
    rig = Rig(A)

    first, second, third = rig.connect().subscribe("a", {"channel": "a", "last": 1}, "a")["channels"]

    assert (first["ok"], second["ok"], third["ok"]) == (True, False, True)
    assert second["code"] == "bad-request"


# --- resuming


def test_a_resume_goes_on_after_the_position() -> None:
    rig = Rig(A)
    rig.publish("a", *range(1, 6))
    peer = rig.connect()

    answer = one(peer, since("a", 3))

    assert (answer["recovered"], answer["seq"]) == (True, 3)
    assert peer.data() == [4, 5]
    assert peer.items_of("$gap") == []
    assert peer.ledger("a").published == 2


def test_a_resume_at_the_head_is_a_recovery() -> None:
    rig = Rig(A)
    rig.publish("a", 1)

    assert one(rig.connect(), since("a", 1))["recovered"] is True


def test_a_resume_behind_what_is_kept_states_the_hole() -> None:
    rig = Rig(Channel("a", keep_items=3))
    rig.publish("a", *range(1, 11))
    peer = rig.connect()

    answer = one(peer, since("a", 4))

    assert (answer["recovered"], answer["seq"]) == (False, 7)
    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (5, 7, 3, "retention")
    assert peer.data() == [8, 9, 10]
    assert peer.types.index("$subscribed") < peer.types.index("$gap") < peer.types.index("a")
    ledger = peer.ledger("a")
    assert (ledger.published, ledger.dropped, ledger.delivered) == (6, 3, 3)


def test_another_epoch_is_never_passed_off_as_a_recovery() -> None:
    rig = Rig(A)
    rig.publish("a", 1, 2)
    peer = rig.connect()

    answer = one(peer, since("a", 1, "other"))

    assert (answer["recovered"], answer["seq"]) == (False, 0)
    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"]) == (None, None, None)
    assert gap["epoch"] == {"old": "other", "new": "test.1"}
    assert peer.data() == [1, 2]


def test_a_position_from_the_future_is_a_bad_request() -> None:
    rig = Rig(A)
    rig.publish("a", 1)
    peer = rig.connect()

    answer = one(peer, since("a", 2))

    assert (answer["ok"], answer["code"]) == (False, "bad-request")
    assert answer["message"] == "since.seq 2 is above 1, the newest of channel 'a' in this epoch"
    assert peer.close is None


def test_a_resume_of_a_table_learns_of_deletions() -> None:
    rig = Rig(TABLE)
    rig.publish("t", 1, key="k")
    rig.engine.delete("t", "k", rig.now)
    peer = rig.connect()

    answer = one(peer, since("t", 1))

    assert answer["recovered"] is True
    assert [item["deleted"] for item in peer.items if "seq" in item] == [True]


def test_a_resume_of_a_table_behind_a_forgotten_deletion_is_a_snapshot() -> None:
    rig = Rig(TABLE)
    rig.publish("t", "live", key="live")
    for key in "abc":
        rig.publish("t", 1, key=key)
        rig.engine.delete("t", key, rig.now)
    peer = rig.connect()

    answer = one(peer, since("t", 1))

    assert (answer["recovered"], answer["seq"]) == (False, 0)
    (gap,) = peer.items_of("$gap")
    assert (gap["count"], gap["epoch"]) == (None, {"old": "test.1", "new": "test.1"})
    assert peer.data() == ["live"]


# --- subscribing again


def test_subscribing_again_keeps_the_position() -> None:
    rig = Rig(A, tuning=Tuning(rate=1))
    peer = rig.connect()
    peer.subscribe("a")
    rig.deliver("a", 1, 2, 3)

    answer = one(peer, "a")
    rig.advance(5)

    assert answer["seq"] == 1
    assert peer.data() == [1, 2, 3]
    assert "$unsubscribed" not in peer.types


def test_subscribing_again_in_the_middle_of_a_table_keeps_what_was_taken() -> None:
    rig = Rig(Channel("t", mode="table"), tuning=Tuning(max_batch=2, max_frames=1))
    peer = rig.connect()
    peer.subscribe("t")
    for number in range(5):
        rig.publish("t", number, key=str(number))
    rig.pump()

    answer = one(peer, "t")
    rig.advance(5)

    assert answer["seq"] == 2
    assert peer.data() == [0, 1, 2, 3, 4]


def test_subscribing_again_replaces_max_hz() -> None:
    rig = Rig(A, tuning=Tuning(interval=BEAT))
    peer = rig.connect()
    peer.subscribe({"channel": "a", "max_hz": 1})
    rig.deliver("a", 1)
    rig.advance(BEAT)
    rig.deliver("a", 2)
    paced = peer.data()

    peer.subscribe("a")
    rig.pump()

    assert (paced, peer.data()) == ([1], [1, 2])


def test_subscribing_again_with_a_start_restarts() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    rig.deliver("a", 1, 2, 3)

    answer = one(peer, {"channel": "a", "last": 2, "max_hz": 5})
    rig.advance(1)

    ended = peer.items_of("$unsubscribed")[0]
    assert (ended["reason"], ended["channels"]) == ("restarted", [{"channel": "a", "seq": 3, "abandoned": 0}])
    assert answer["seq"] == 1
    assert peer.data() == [1, 2, 3, 2, 3]
    assert peer.types.index("$unsubscribed") < len(peer.types) - peer.types[::-1].index("$subscribed")


def test_a_restart_that_cannot_begin_ends_nothing() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")

    answer = one(peer, since("a", 99))
    rig.deliver("a", 1)

    assert answer["ok"] is False
    assert peer.data() == [1]
    assert "$unsubscribed" not in peer.types


# --- refusals


def test_each_channel_is_judged_on_its_own() -> None:
    rig = Rig(A, SECRET)
    peer = rig.connect()

    answer = peer.subscribe("unknown", "secret", "not legal", "x" * 300, "a")
    rig.deliver("a", 1)

    assert [(one["ok"], one.get("code")) for one in answer["channels"]] == [
        (False, "unknown-channel"),
        (False, "forbidden"),
        (False, "bad-request"),
        (False, "bad-request"),
        (True, None),
    ]
    assert answer["channels"][0]["message"] == "channel 'unknown' is not declared"
    assert answer["channels"][1]["message"] == "channel 'secret' is not open to the roles of this token"
    assert len(answer["channels"][3]["channel"]) < 300
    assert peer.data() == [1]


def test_an_identity_may_be_narrowed_to_members_of_a_pattern() -> None:
    peer = Rig(MEMBERS).connect(Identity(id="x", channels=("user:1",)))

    first, second = peer.subscribe("user:1", "user:2")["channels"]

    assert (first["ok"], second["code"]) == (True, "forbidden")


def test_a_session_holds_so_many_subscriptions() -> None:
    rig = Rig(A, B, MEMBERS, tuning=Tuning(max_subscriptions=2))
    peer = rig.connect()
    peer.subscribe("a", "b")

    answer = one(peer, "user:1")
    again = one(peer, {"channel": "a", "last": 0})

    assert (answer["code"], answer["message"]) == ("too-many-subscriptions", "a session may hold 2 subscriptions")
    assert again["ok"] is True


def test_a_pattern_has_so_many_members() -> None:
    rig = Rig(MEMBERS, tuning=Tuning(max_members=2))

    answers = rig.connect().subscribe("user:1", "user:2", "user:3", "user:1")["channels"]

    assert [(one["ok"], one.get("code")) for one in answers] == [
        (True, None),
        (True, None),
        (False, "unknown-channel"),
        (True, None),
    ]
    assert "one more than the 2 members that pattern 'user:*' may have" in answers[2]["message"]


def test_a_refused_channel_leaves_no_member_behind() -> None:
    rig = Rig(MEMBERS)
    peer = rig.connect(Identity(id="x", channels=()))

    peer.subscribe("user:1")

    assert rig.engine.statistics().channels == {}


# --- ending


def test_nothing_follows_an_unsubscribe() -> None:
    rig = Rig(A, B)
    peer = rig.connect()
    peer.subscribe("a", "b")
    rig.deliver("a", 1)

    answer = peer.unsubscribe("a", "a", "b", "x" * 300)
    rig.deliver("a", 2)

    assert answer["reason"] == "asked"
    assert answer["channels"][:2] == [
        {"channel": "a", "seq": 1, "abandoned": 0},
        {"channel": "b", "seq": 0, "abandoned": 0},
    ]
    assert len(answer["channels"]) == 3
    assert peer.data() == [1]


def test_an_unsubscribe_echoes_its_id() -> None:
    peer = Rig(A).connect()

    peer.send(
        {"action": "unsubscribe", "id": 8, "channels": ["a"]}, {"action": "subscribe", "id": 9, "channels": ["a"]}
    )

    assert [(item["type"], item["id"]) for item in peer.items[1:]] == [("$unsubscribed", 8), ("$subscribed", 9)]


def test_what_was_pending_is_abandoned() -> None:
    rig = Rig(A, tuning=Tuning(rate=1))
    peer = rig.connect()
    peer.subscribe("a")
    rig.deliver("a", 1, 2, 3)

    answer = peer.unsubscribe("a")

    assert answer["channels"] == [{"channel": "a", "seq": 1, "abandoned": 2}]
    assert peer.ledger("a").abandoned == 2


def test_a_loss_is_reported_before_the_end() -> None:
    rig = Rig(A, tuning=Tuning(rate=1, buffer_items=1))
    peer = rig.connect()
    peer.subscribe("a")
    rig.deliver("a", 1, 2, 3, 4)

    peer.unsubscribe("a")

    assert peer.types[-2:] == ["$gap", "$unsubscribed"]
    assert peer.items_of("$gap")[0]["count"] == 2
    assert peer.items_of("$unsubscribed")[0]["channels"][0] == {"channel": "a", "seq": 3, "abandoned": 1}


def test_a_loss_that_nobody_noticed_yet_is_reported_before_the_end() -> None:
    rig = Rig(Channel("a", keep_items=2), tuning=Tuning(rate=1))
    peer = rig.connect()
    peer.subscribe("a")
    rig.deliver("a", 1)

    rig.publish("a", *range(2, 10))
    peer.unsubscribe("a")

    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"]) == (2, 7, 6)
    assert peer.ledger("a").dropped == 6


def test_a_forgotten_deletion_is_reported_before_the_end() -> None:
    rig = Rig(TABLE)
    peer = rig.connect()
    peer.subscribe("t")
    peer.stall()
    for key in "abc":
        rig.publish("t", 1, key=key)
        rig.engine.delete("t", key, rig.now)

    peer.send({"action": "unsubscribe", "channels": ["t"]})
    peer.resume()

    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"]) == (1, 2, 2)
    assert peer.types[-2:] == ["$gap", "$unsubscribed"]


def test_a_session_keeps_its_rate_between_two_subscriptions() -> None:
    rig = Rig(A, tuning=Tuning(rate=4))
    peer = rig.connect()
    peer.subscribe("a")
    rig.deliver("a", 1, 2, 3, 4)

    peer.unsubscribe("a")
    peer.subscribe({"channel": "a", "last": 4})

    assert peer.data() == [1, 2, 3, 4]
    rig.advance(1.1)
    assert peer.data() == [1, 2, 3, 4, 1, 2, 3, 4]
