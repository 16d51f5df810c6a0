"""The client returns what was published, in order, with every loss reported, whatever happens to the connection.

Random publications, disconnects with frames in flight, server restarts, slow clients, and slow readers.
"""

from __future__ import annotations

from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.channels import Channel
from analytics_hub.client.subscription_state import SubscriptionState
from analytics_hub.client.values import Gap, Item
from analytics_hub.exceptions import TableFull
from analytics_hub.tuning import Tuning

from .wire import Line, Server

# Small limits, so that every bound is reached.
TUNING: Final = Tuning(max_batch=3, buffer_items=4, burst_items=6, interval=0.01, rate=50.0, journal_chunk=3)
CHANNELS: Final = (
    Channel("events", keep_items=5),
    Channel("durable", mode="durable", keep_items=5),
    Channel("table", mode="table", max_keys=4),
    Channel("latest", mode="latest"),
)
NAMES: Final = [channel.name for channel in CHANNELS]
COUNTED: Final = ("events", "durable")
CAPACITY: Final = 4

Values = list[Item[Any] | Gap]


class World:
    """A client that subscribes to all channels, and everything that was published."""

    def __init__(self) -> None:
        self.servers = [Server(CHANNELS, TUNING, nonce="0")]
        self.line = Line(self.servers[0])
        self.published: dict[tuple[int, str], list[Any]] = {}
        self.live: dict[str, int] = {}
        self.read_values: dict[str, Values] = {name: [] for name in NAMES}
        self.line.connect()
        self.subscriptions = {name: self.line.subscribe(name, capacity=CAPACITY, snapshot=True) for name in NAMES}
        self.line.deliver()

    @property
    def number(self) -> int:
        return len(self.servers) - 1

    def publish(self, channel: str, key: str | None) -> None:
        kept = self.published.setdefault((self.number, channel), [])
        mark = [self.number, len(kept) + 1]
        try:
            self.line.server.publish(channel, mark, key=key if channel == "table" else None)
        except TableFull:
            return
        kept.append(mark)
        if channel == "table" and key is not None:
            self.live[key] = len(kept)

    def burst(self, channel: str, count: int) -> None:
        for number in range(count):
            self.publish(channel, "abcd"[number % 4])

    def pass_time(self, seconds: float) -> None:
        self.line.server.advance(seconds)

    def deliver_all(self, seconds: float) -> None:
        """Time passes, and all frames are delivered."""
        self.line.server.advance(seconds)
        self.line.deliver()

    def delete(self, key: str) -> None:
        if self.line.server.engine.delete("table", key, self.line.now):
            self.published[self.number, "table"].append(None)
            del self.live[key]

    def restart(self) -> None:
        self.servers.append(Server(CHANNELS, TUNING, nonce=str(len(self.servers))))
        self.line.restart(self.servers[-1])
        self.live.clear()

    def reconnect(self) -> None:
        if self.line.peer is not None:
            self.line.disconnect()
        self.line.connect()

    def stall(self) -> None:
        if self.line.peer is not None and not self.line.peer.session.is_stalled:
            self.line.peer.stall()

    def resume(self) -> None:
        if self.line.peer is not None and self.line.peer.session.is_stalled:
            self.line.peer.resume()

    def read(self, channel: str, count: int) -> None:
        self.read_values[channel] += self.line.read(self.subscriptions[channel], count)

    def replace_reader(self, channel: str) -> None:
        """Unsubscribe, and let another reader resume at the same position."""
        old = self.subscriptions[channel]
        self.line.protocol.unsubscribe(old, self.line.now)
        self.subscriptions[channel] = self.line.subscribe(
            channel, capacity=CAPACITY, since=old.read_position, snapshot=old.read_position is None
        )

    def finish(self) -> None:
        """Connect, and read everything."""
        self.resume()
        if self.line.peer is None:
            self.line.connect()
        for _ in range(200):
            self.line.server.advance(1.0)
            self.line.deliver()
            if not self.line.in_flight and not any(each.has_values for each in self.subscriptions.values()):
                break
            for name in NAMES:
                self.read(name, 1000)
        else:
            raise AssertionError("values keep coming")


def check_counted(world: World, channel: str, subscription: SubscriptionState) -> None:
    """Every sequence number up to the newest occurs once, either as an item or in a gap."""
    server, last = 0, 0
    is_known = True  # the number of the next item
    for value in world.read_values[channel]:
        if isinstance(value, Gap) and value.count is None:
            assert value.epochs is not None
            assert value.epochs.old != value.epochs.new
            server, is_known = int(value.epochs.new.partition(".")[0]), False
            continue
        first = value.seq if isinstance(value, Item) else value.first
        assert first is not None
        assert not is_known or first == last + 1
        is_known = True
        if isinstance(value, Item):
            assert value.data == [server, first]
            last = first
        else:
            assert value.count is not None
            last = first + value.count - 1
            assert value.last == last
    head = len(world.published.get((world.number, channel), ()))
    assert subscription.read_position is not None
    assert subscription.read_position.seq == head
    assert (server, last) == (world.number, head) or not is_known


def check_table(world: World) -> None:
    """Applying the values reproduces the table, except for deletions that a gap may have contained."""
    held: dict[str, int] = {}
    doubtful: set[str] = set()
    seq = 0
    for value in world.read_values["table"]:
        if isinstance(value, Gap):
            doubtful |= held.keys()
            seq = 0 if value.count is None else seq
            continue
        assert value.seq > seq
        assert value.key is not None
        seq = value.seq
        doubtful.discard(value.key)
        if value.deleted:
            held.pop(value.key, None)
        else:
            assert value.data[1] == value.seq
            held[value.key] = value.seq
    assert {key: held[key] for key in held if key not in doubtful or key in world.live} == world.live


def check_latest(world: World) -> None:
    marks = [value.data for value in world.read_values["latest"] if isinstance(value, Item)]
    published = world.published.get((world.number, "latest"))

    assert marks == sorted(marks)
    assert len(marks) == len({tuple(mark) for mark in marks})
    assert not published or marks[-1] == published[-1]


keys = st.sampled_from("abcdef")
channels = st.sampled_from(NAMES)
few = st.integers(1, 9)
often = st.one_of(
    st.tuples(st.just("burst"), channels, st.integers(3, 9)),
    st.tuples(st.just("deliver_all"), st.sampled_from([0.02, 0.5])),
    st.tuples(st.just("deliver_all"), st.sampled_from([0.02, 0.5])),
    st.tuples(st.just("read"), channels, few),
)
steps = st.one_of(
    often,
    often,
    often,
    st.tuples(st.just("publish"), channels, keys),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("deliver"), few),
    st.tuples(st.just("pass_time"), st.sampled_from([0.005, 0.05, 1.0])),
    st.tuples(st.sampled_from(["disconnect", "reconnect", "restart", "stall", "resume"])),
    st.tuples(st.just("replace_reader"), channels),
)


def play(world: World, step: tuple[Any, ...]) -> None:
    match step:
        case ("deliver", count):
            world.line.deliver(count)
        case ("disconnect",):
            world.line.disconnect()
        case (name, *arguments):
            getattr(world, name)(*arguments)


@given(st.lists(steps, min_size=30, max_size=80))
def test_the_reader_gets_what_was_published_in_order_with_every_loss_reported(script: list[tuple[Any, ...]]) -> None:
    world = World()

    for step in script:
        play(world, step)
        assert all(len(each._values) <= CAPACITY for each in world.subscriptions.values())
    world.finish()

    for name in COUNTED:
        check_counted(world, name, world.subscriptions[name])
    check_table(world)
    check_latest(world)
