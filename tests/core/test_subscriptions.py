"""Beginning, pacing and ending subscriptions, and where they start (`docs/protocol.md` §4 and §5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analytics_hub.channels import Channel
from analytics_hub.core.events import DemandChanged
from analytics_hub.core.statistics import Demand
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


def answer_to(peer: Peer, channel: str | Fields) -> Fields:
    """The answer about one channel."""
    (answer,) = peer.subscribe(channel)["channels"]
    return dict(answer)


def since(channel: str, seq: int, epoch: str = "test.1") -> Fields:
    return {"channel": channel, "since": {"epoch": epoch, "seq": seq}}


# --- start positions


@pytest.mark.parametrize(
    ("options", "seq", "data"),
    [({}, 3, []), ({"last": 2}, 1, [2, 3]), ({"last": 9}, 0, [1, 2, 3]), ({"snapshot": True}, 0, [1, 2, 3])],
)
def test_events_start_at_the_end_or_where_the_options_say(options: Fields, seq: int, data: list[int]) -> None:
    rig = Rig(A)
    rig.publish("a", 1, 2, 3)
    peer = rig.connect()

    answer = answer_to(peer, {"channel": "a", **options})
    rig.advance(1)
    rig.deliver("a", 4)

    assert (answer["ok"], answer["mode"], answer["epoch"], answer["seq"]) == (True, "events", "test.1", seq)
    assert "recovered" not in answer
    assert peer.data() == [*data, 4]
    assert peer.types == ["$hello", "$subscribed", *["a"] * (len(data) + 1)]


@pytest.mark.parametrize("options", [{}, {"snapshot": True}])
def test_tables_start_with_a_snapshot(options: Fields) -> None:
    rig = Rig(TABLE, LATEST)
    rig.publish("t", 1, 2, key="k")
    rig.publish("l", 3, 4)
    peer = rig.connect()

    peer.subscribe({"channel": "t", **options}, {"channel": "l", **options})

    assert sorted(peer.data()) == [2, 4]


# --- resuming


@pytest.mark.parametrize(("seq", "data"), [(3, [4, 5]), (5, [])])
def test_a_resume_continues_after_the_position(seq: int, data: list[int]) -> None:
    rig = Rig(A)
    rig.publish("a", *range(1, 6))
    peer = rig.connect()

    answer = answer_to(peer, since("a", seq))

    assert (answer["recovered"], answer["seq"]) == (True, seq)
    assert peer.data() == data
    assert peer.items_of("$gap") == []
    assert peer.ledger("a").published == len(data)


def test_a_resume_below_what_is_kept_reports_the_hole() -> None:
    rig = Rig(Channel("a", keep_items=3))
    rig.publish("a", *range(1, 11))
    peer = rig.connect()

    answer = answer_to(peer, since("a", 4))

    assert (answer["recovered"], answer["seq"]) == (False, 7)
    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"], gap["reason"]) == (5, 7, 3, "retention")
    assert peer.data() == [8, 9, 10]
    assert peer.types == ["$hello", "$subscribed", "$gap", "a", "a", "a"]
    ledger = peer.ledger("a")
    assert (ledger.published, ledger.dropped, ledger.delivered) == (6, 3, 3)


def test_another_epoch_is_never_a_recovery() -> None:
    rig = Rig(A)
    rig.publish("a", 1, 2)
    peer = rig.connect()

    answer = answer_to(peer, since("a", 1, "other"))

    assert (answer["recovered"], answer["seq"]) == (False, 0)
    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"]) == (None, None, None)
    assert gap["epoch"] == {"old": "other", "new": "test.1"}
    assert peer.data() == [1, 2]


def test_a_resume_of_a_table_learns_of_deletions() -> None:
    rig = Rig(TABLE)
    rig.publish("t", 1, key="k")
    rig.engine.delete("t", "k", rig.now)
    peer = rig.connect()

    answer = answer_to(peer, since("t", 1))

    assert answer["recovered"] is True
    assert [item["deleted"] for item in peer.items if "seq" in item] == [True]


def test_a_resume_of_a_table_below_a_forgotten_deletion_is_a_snapshot() -> None:
    rig = Rig(TABLE)
    rig.publish("t", "live", key="live")
    for key in "abc":
        rig.publish("t", 1, key=key)
        rig.engine.delete("t", key, rig.now)
    peer = rig.connect()

    answer = answer_to(peer, since("t", 1))

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

    answer = answer_to(peer, "a")
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

    answer = answer_to(peer, "t")
    rig.advance(5)

    assert answer["seq"] == 2
    assert peer.data() == [0, 1, 2, 3, 4]


def test_subscribing_again_replaces_max_hz() -> None:
    rig = Rig(A, tuning=Tuning(interval=0.125))
    peer = rig.connect()
    peer.subscribe({"channel": "a", "max_hz": 1})
    rig.deliver("a", 1)
    rig.advance(0.125)
    rig.deliver("a", 2)
    paced = peer.data()

    peer.subscribe("a")
    rig.pump()

    assert (paced, peer.data()) == ([1], [1, 2])


def test_subscribing_again_with_a_start_option_restarts() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")
    rig.deliver("a", 1, 2, 3)

    answer = answer_to(peer, {"channel": "a", "last": 2, "max_hz": 5})
    rig.advance(1)

    ended = peer.items_of("$unsubscribed")[0]
    assert (ended["reason"], ended["channels"]) == ("restarted", [{"channel": "a", "seq": 3, "abandoned": 0}])
    assert answer["seq"] == 1
    assert peer.data() == [1, 2, 3, 2, 3]
    assert peer.types.index("$unsubscribed") < len(peer.types) - peer.types[::-1].index("$subscribed")


def test_a_restart_that_is_refused_ends_nothing() -> None:
    rig = Rig(A)
    peer = rig.connect()
    peer.subscribe("a")

    answer = answer_to(peer, since("a", 99))
    rig.deliver("a", 1)

    assert answer["ok"] is False
    assert peer.data() == [1]
    assert "$unsubscribed" not in peer.types


# --- refusals

EXCLUSIVE = "snapshot, since and last exclude each other; give at most one"


@pytest.mark.parametrize(
    ("selection", "code", "message"),
    [
        ({"channel": "a", "last": 1, "snapshot": True}, "bad-request", EXCLUSIVE),
        ({"channel": "a", "last": 1, "since": {"epoch": "e", "seq": 1}}, "bad-request", EXCLUSIVE),
        (since("a", 2), "bad-request", "since.seq 2 is above 1, the newest of channel 'a' in this epoch"),
        ("unknown", "unknown-channel", "channel 'unknown' is not declared"),
        ("secret", "forbidden", "channel 'secret' is not open to the roles of this token"),
        ("user:x", "forbidden", "channel 'user:x' is not open to the roles of this token"),
        (
            "not legal",
            "bad-request",
            "channel name 'not legal' is not 1 to 255 characters of A-Z a-z 0-9 . _ : / -",
        ),
        ("b", "too-many-subscriptions", "a session may hold 2 subscriptions"),
    ],
)
def test_a_refused_channel_affects_no_other(selection: str | Fields, code: str, message: str) -> None:
    rig = Rig(A, B, SECRET, MEMBERS, tuning=Tuning(max_subscriptions=2))
    rig.publish("a", 1)
    peer = rig.connect(Identity(id="x", channels=("a", "b", "secret", "user:1")))
    peer.subscribe("user:1", "a")

    refused, accepted = peer.subscribe(selection, "a")["channels"]
    rig.deliver("a", 2)

    assert (refused["ok"], refused["code"], refused["message"]) == (False, code, message)
    assert accepted["ok"]
    assert peer.data() == [2]
    assert sorted(rig.engine.registry.logs) == ["a", "b", "secret", "user:1"]


def test_a_text_too_long_for_a_name_is_cut_in_the_answer() -> None:
    peer = Rig(A).connect()

    assert len(answer_to(peer, "x" * 300)["channel"]) < 300
    assert len(peer.unsubscribe("x" * 300)["channels"][0]["channel"]) < 300


def test_a_channel_may_start_only_once_in_one_command() -> None:
    rig = Rig(A)

    first, second, third = rig.connect().subscribe("a", {"channel": "a", "last": 1}, "a")["channels"]

    assert (first["ok"], second["ok"], third["ok"]) == (True, False, True)
    assert second["code"] == "bad-request"


def test_a_client_is_told_that_a_member_of_a_pattern_has_no_item_yet() -> None:
    rig = Rig(A, MEMBERS)
    peer = rig.connect()

    misspelt, declared = peer.subscribe("user:anm", "a")["channels"]
    rig.publish("user:ann", 1)
    known = answer_to(peer, "user:ann")

    assert misspelt["pattern"] == known["pattern"] == "user:*"
    assert misspelt["message"] == "nothing was published to this member of 'user:*' yet"
    assert "message" not in known
    assert not {"pattern", "message"} & declared.keys()


@pytest.mark.parametrize("name", ["user:*", "other:*", "*"])
def test_a_pattern_cannot_be_subscribed_to(name: str) -> None:
    answer = answer_to(Rig(MEMBERS).connect(), name)

    assert (answer["ok"], answer["code"]) == (False, "bad-request")
    assert answer["message"] == f"{name!r} is a pattern; subscribe to its members, each by its whole name"


def test_the_members_of_a_pattern_are_limited() -> None:
    rig = Rig(MEMBERS, tuning=Tuning(max_members=2))

    answers = rig.connect().subscribe("user:1", "user:2", "user:3", "user:1")["channels"]

    assert [answer.get("code") for answer in answers] == [None, None, "unknown-channel", None]
    assert "one more than the 2 members that pattern 'user:*' may have" in answers[2]["message"]


# --- ending


def test_no_item_follows_an_unsubscribe() -> None:
    rig = Rig(A, B)
    peer = rig.connect()
    peer.subscribe("a", "b")
    rig.deliver("a", 1)

    answer = peer.unsubscribe("a", "a", "b", "c")
    rig.deliver("a", 2)

    assert answer["reason"] == "asked"
    assert answer["channels"] == [
        {"channel": "a", "seq": 1, "abandoned": 0},
        {"channel": "b", "seq": 0, "abandoned": 0},
        {"channel": "c", "seq": None, "abandoned": 0},
    ]
    assert peer.data() == [1]


def test_what_was_pending_is_abandoned() -> None:
    rig = Rig(A, tuning=Tuning(rate=1))
    peer = rig.connect()
    peer.subscribe("a")
    rig.deliver("a", 1, 2, 3)

    answer = peer.unsubscribe("a")

    assert answer["channels"] == [{"channel": "a", "seq": 1, "abandoned": 2}]
    assert peer.ledger("a").abandoned == 2


@pytest.mark.parametrize("is_overwritten", [False, True])
def test_a_loss_is_reported_before_the_end(is_overwritten: bool) -> None:
    tuning = Tuning(rate=1, buffer_items=2)
    rig = Rig(Channel("a"), tuning=replace(tuning, burst_items=2) if is_overwritten else tuning)
    peer = rig.connect()
    peer.subscribe("a")
    rig.deliver("a", 1)

    rig.publish("a", *range(2, 10))
    if not is_overwritten:
        rig.advance(0.1)
    peer.unsubscribe("a")

    assert peer.types[-2:] == ["$gap", "$unsubscribed"]
    (gap,) = peer.items_of("$gap")
    assert (gap["from"], gap["to"], gap["count"]) == (2, 7, 6)
    assert peer.items_of("$unsubscribed")[0]["channels"][0] == {"channel": "a", "seq": 7, "abandoned": 2}


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


# --- demand


def test_changes_of_the_demand_of_observed_channels_are_reported() -> None:
    rig = Rig(A, B, MEMBERS)
    rig.engine.registry.observed.update(("a", "user:*"))
    first, second = rig.connect(), rig.connect()

    first.subscribe({"channel": "a", "max_hz": 2}, "b", {"channel": "user:1", "max_hz": 3})
    second.subscribe({"channel": "user:2", "max_hz": 4}, "user:1")
    limited = rig.engine.registry.demand("a")
    first.subscribe("a")
    unlimited = rig.engine.registry.demand("a")
    members = rig.engine.registry.demand("user:*")
    for peer in (first, second):
        rig.engine.disconnect(peer.session, rig.now)
    rig.pump()

    assert limited == Demand(viewers=1, max_hz=2)
    assert unlimited == Demand(viewers=1, max_hz=None)
    assert members == Demand(viewers=3, keys=frozenset({"1", "2"}), max_hz=None)
    assert rig.engine.registry.demand("a") == rig.engine.registry.demand("user:*") == Demand()
    changes = [event.channel for event in rig.events_of(DemandChanged)]
    assert (changes.count("a"), changes.count("user:*")) == (3, 6)
    assert len(changes) == 9
