"""A client that is cut off after any frame, and resumes from the position stated there, gets exactly the rest."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_hub.channels import Channel
from analytics_hub.core import cohort as cohort_module
from analytics_hub.core.events import Append, Read
from analytics_hub.tuning import Tuning

from .cursor_wire import Cursor, CursorWire, Cut, cuts, since
from .rig import Peer, Rig
from .wire import Fields

INTERVAL: Final = 0.125
KEEPS: Final = 10
"""Items that the journal keeps."""
CHANNELS: Final = {
    each.name: each
    for each in (
        Channel("a"),
        Channel("b"),
        Channel("t", mode="table", max_keys=4),
        Channel("l", mode="latest"),
        Channel("d", mode="durable", keep_items=6),
    )
}
KEYS: Final = ("x", "y", "z", "w")
PLAIN: Final = ("a", "b", "d")

names = st.sampled_from(sorted(CHANNELS))
publishing = st.tuples(st.just("publish"), names, st.integers(1, 7), st.sampled_from(KEYS))
subscribing = st.tuples(
    st.just("subscribe"),
    st.lists(
        st.tuples(names, st.sampled_from(("", "snapshot", "last", "since", "since-other", "max_hz"))),
        min_size=1,
        max_size=4,
        unique_by=lambda pair: pair[0],
    ),
)
steps = st.lists(
    st.one_of(
        publishing,
        publishing,
        publishing,
        st.tuples(st.just("delete"), st.sampled_from(KEYS)),
        st.tuples(st.just("advance"), st.sampled_from((INTERVAL / 2, INTERVAL, 1.0))),
        st.tuples(st.just("advance"), st.just(INTERVAL)),
        subscribing,
        st.tuples(st.just("unsubscribe"), names),
        st.tuples(st.sampled_from(("one", "fill", "stall", "resume", "journal", "ping"))),
    ),
    max_size=30,
)
tunings = st.builds(
    Tuning,
    interval=st.just(INTERVAL),
    max_batch=st.sampled_from((1, 2, 3, 50)),
    max_frames=st.sampled_from((None, 1, 2)),
    rate=st.sampled_from((None, 4.0, 40.0)),
    buffer_items=st.sampled_from((2, 256)),
    burst_items=st.sampled_from((5, 1000)),
    journal_chunk=st.just(3),
)


class World:
    """Two clients of one wire with a cursor, written in slices of one; the actions concern the first."""

    def __init__(self, tuning: Tuning) -> None:
        setattr(cohort_module, "SLICE", 1)  # noqa: B010 - a constant to type checkers
        self.rig = Rig(*CHANNELS.values(), tuning=tuning)
        self.done = 0
        self.peer, self.other = (self.rig.connect(wire=CursorWire()) for _ in range(2))
        for peer in (self.peer, self.other):
            peer.subscribe(*CHANNELS)

    def do(self, verb: str, *arguments: Any) -> None:
        rig, peer = self.rig, self.peer
        if verb == "publish":
            channel, count, key = arguments
            rig.publish(channel, *range(count), **({"key": key} if channel == "t" else {}))
        elif verb == "delete":
            rig.engine.delete("t", arguments[0], rig.now)
        elif verb == "advance":
            rig.advance(arguments[0])
        elif verb == "subscribe":
            self._send({"action": "subscribe", "channels": [self._selection(*pair) for pair in arguments[0]]})
        elif verb == "unsubscribe":
            self._send({"action": "unsubscribe", "channels": [arguments[0]]})
        elif verb == "one":
            rig.engine.handle_timer(rig.now)
            delivery = next(rig.engine.data_to_send(), None)
            if delivery is not None:
                rig.write(delivery.frame, delivery.recipients)
        elif verb == "fill":
            peer.is_full = True
        elif verb == "stall":
            rig.pump()
            peer.stall()
        elif verb == "resume":
            peer.resume()
        elif verb == "journal":
            self.journal()
        else:
            self._send({"action": "ping"})

    def _send(self, command: Fields) -> None:
        """Without writing anything, so that answers accumulate."""
        self.rig.engine.receive_data(self.peer.session, msgspec.json.encode(command).decode(), self.rig.now)

    def _selection(self, channel: str, option: str) -> Fields:
        log = self.rig.engine.registry.logs[channel]
        options: dict[str, Fields] = {
            "": {},
            "snapshot": {"snapshot": True},
            "last": {"last": 3},
            "since": {"since": {"epoch": log.epoch, "seq": max(0, log.head - 4)}},
            "since-other": {"since": {"epoch": "other", "seq": 1}},
            "max_hz": {"max_hz": 2},
        }
        return {"channel": channel, **options[option]}

    def journal(self) -> None:
        """Execute all events for the journal."""
        rig = self.rig
        rig.events.extend(rig.engine.events())
        while self.done < len(rig.events):
            event = rig.events[self.done]
            self.done += 1
            if isinstance(event, Append):
                kept = rig.kept.setdefault("d", {})
                kept.update(enumerate(event.items, event.first))
                for seq in list(kept)[:-KEEPS]:
                    del kept[seq]
                rig.engine.committed("d", min(kept), rig.now)
            elif isinstance(event, Read):
                kept = rig.kept.setdefault("d", {})
                items = [pair for pair in kept.items() if pair[0] > event.after]
                rig.engine.journal_read("d", event.after, items[: event.limit], rig.now)
            rig.events.extend(rig.engine.events())

    def finish(self) -> None:
        """Write everything to both clients."""
        for peer in (self.peer, self.other):
            peer.is_full = False
            peer.resume()
        for _ in range(6):
            self.journal()
            self.rig.advance(10)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tuning=tunings, plan=steps)
def test_a_client_cut_off_after_any_frame_resumes_with_exactly_the_rest(tuning: Tuning, plan: list[Any]) -> None:
    world = World(tuning)
    for step in plan:
        world.do(*step)
    world.finish()

    for peer in (world.peer, world.other):
        stream = cuts(peer)
        check_stream(stream)
        check_rest(world, stream)


def check_stream(stream: list[Cut]) -> None:
    """On plain channels a cursor equals what the client has counted, except while more answers are to come."""
    counted: dict[str, int] = {}
    before: Cursor = {}
    for cut in stream:
        for item in cut.items:
            count(item, counted)
        if cut.has_more_answers:
            expected = {name: seq for name, (_, seq) in before.items() if name in PLAIN}
        else:
            expected = {name: seq for name, seq in counted.items() if name in PLAIN}
            assert set(cut.cursor) == set(counted)
        assert {name: seq for name, (_, seq) in cut.cursor.items() if name in PLAIN} == expected, cut
        before = cut.cursor


def count(item: Fields, counted: dict[str, int]) -> None:
    """What one item adds for a client that keeps count. Nothing comes twice, and nothing is missing."""
    channel = item.get("channel", "")
    if item["type"] == "$subscribed":
        for answer in item["channels"]:
            counted.setdefault(answer["channel"], answer["seq"])
    elif item["type"] == "$unsubscribed":
        for account in item["channels"]:
            counted.pop(account["channel"], None)
    elif item["type"] == "$gap" and channel in counted and item["to"] is not None and channel in PLAIN:
        if item["to"] > counted[channel]:
            assert item["from"] == counted[channel] + 1, item
            counted[channel] = item["to"]
    elif "seq" in item:
        if channel in PLAIN:
            assert item["seq"] == counted[channel] + 1, item
        assert item["seq"] > counted[channel]
        counted[channel] = item["seq"]


def check_rest(world: World, stream: list[Cut]) -> None:
    """Resume from every cut, each time in a new session."""
    rig = world.rig
    resumed = []
    for cut in stream:
        peer = rig.connect()
        if cut.cursor:
            peer.send_subscribe(*since(cut.cursor))
        resumed.append(peer)
    for channel in PLAIN:  # a loss is reported before the next item
        world.finish()
        rig.publish(channel, "last")
    world.finish()

    tables: dict[str, Table] = {}
    pending: list[Fields] = []
    for cut, peer in zip(stream, resumed, strict=True):
        pending += cut.items
        if not cut.has_more_answers:  # until then the cursor is the previous one
            for item in pending:
                update(item, tables)
            pending = []
        for channel, (_, seq) in cut.cursor.items():
            check_channel(rig, peer, channel, seq, tables[channel].copy())


class Table:
    """What a client knows of a channel since it subscribed: the number of the newest item of each key."""

    def __init__(self, start: int, newest: dict[str | None, int] | None = None) -> None:
        self.start = start
        self.newest = newest or {}

    def copy(self) -> Table:
        return Table(self.start, dict(self.newest))

    def add(self, item: Fields) -> None:
        key = item.get("key")
        self.newest[key] = item["seq"]
        if item.get("deleted"):
            del self.newest[key]


def update(item: Fields, tables: dict[str, Table]) -> None:
    if item["type"] == "$subscribed":
        for answer in item["channels"]:
            tables.setdefault(answer["channel"], Table(answer["seq"]))
    elif item["type"] == "$unsubscribed":
        for account in item["channels"]:
            tables.pop(account["channel"], None)
    elif "seq" in item:
        tables[item["channel"]].add(item)


def check_channel(rig: Rig, peer: Peer, channel: str, seq: int, table: Table) -> None:
    log = rig.engine.registry.logs[channel]
    got = [item for item in peer.items if item.get("channel") == channel]
    if any(item["type"] == "$gap" and item["to"] is None for item in got):
        table, seq = Table(0), 0  # what follows is a snapshot
    accounted = {item["seq"] for item in got if "seq" in item}
    for gap in got:
        if gap["type"] == "$gap" and gap["to"] is not None:
            accounted |= set(range(gap["from"], gap["to"] + 1))
    assert not accounted or min(accounted) > seq, "an item came twice"
    if channel in PLAIN:
        assert accounted == set(range(seq + 1, log.head + 1)), "an item is missing"
        return
    for item in got:
        if "seq" in item:
            table.add(item)
    live = {entry.key: entry.seq for entry in log.after(0) if not entry.deleted and entry.seq > table.start}
    assert table.newest == live, channel
