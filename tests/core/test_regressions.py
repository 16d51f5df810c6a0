"""Failures that the machine has found, each as a scenario of its own. The world checks all invariants at every step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analytics_hub.channels import Channel
from analytics_hub.tuning import Tuning

from .client import Client
from .finish import come_to_rest, finish
from .strategies import make_channels
from .world import Setup, World

TUNING = Tuning(interval=1 / 64, rate=None, heartbeat=2.0)


def begin(tuning: Tuning = TUNING, *, clients: int = 1, of: tuple[str, ...] = (), slice_size: int = 1) -> World:
    """A world with `clients` that have subscribed to `of`, are in step, and were written nothing for a while."""
    world = World(Setup(make_channels(), tuning, slice_size=slice_size))
    for _ in range(clients):
        subscribe(world, world.connect(), *of)
    world.turn()
    world.advance(1.0)
    world.turn()
    return world


def subscribe(world: World, client: Client, *names: str) -> None:
    if names:
        world.send(client, {"action": "subscribe", "channels": list(names)})


def begin_flush(world: World) -> None:
    """Only the first slice of a cohort is written."""
    world.publish("ev")
    world.timer()
    world.hand_over(1)


def test_a_client_that_subscribes_while_it_is_stalled_gets_nothing_until_it_is_resumed() -> None:
    world = World(Setup(make_channels(), TUNING))
    client = world.connect()
    world.hand_over(stalling={0})

    subscribe(world, client, "ev")
    world.publish("ev")
    world.turn()

    finish(world)


def test_one_command_cannot_start_a_channel_twice() -> None:
    """The end of the first subscription would come before its beginning, and its gap after the second one."""
    world = begin()

    world.send(world.clients[0], {"action": "subscribe", "channels": ["ev", {"channel": "ev", "last": 1}]})

    finish(world)


@pytest.mark.parametrize("last", [2, 5])
def test_a_client_without_tokens_that_reads_from_the_journal_does_not_keep_the_driver_busy(last: int) -> None:
    tuning = replace(TUNING, rate=0.5, journal_chunk=2)
    world = World(Setup(make_channels(window=1), tuning, restored=5))
    world.send(world.connect(), {"action": "subscribe", "channels": [{"channel": "dur", "last": last}]})
    world.turn()
    world.do_journal()

    world.run(4.0)

    finish(world)


def test_what_the_journal_has_deleted_and_memory_still_has_is_no_loss() -> None:
    world = World(Setup(make_channels(window=4), TUNING, journal_keeps=1))
    client = world.connect()
    world.turn()
    for n in range(3):
        world.publish("dur", n)
    world.handle_events()
    world.do_journal()

    world.send(client, {"action": "subscribe", "channels": [{"channel": "dur", "snapshot": True}]})
    world.turn()

    assert client.streams["dur"].delivered == 3
    finish(world)


def test_a_follower_keeps_its_queue_when_one_of_its_logs_overflows() -> None:
    world = begin(replace(TUNING, burst_items=4), of=("ev", "log"))
    for _ in range(3):
        for _ in range(3):
            world.publish("ev")
        world.turn()
        world.advance(TUNING.interval)

    world.publish("ev")
    for _ in range(5):
        world.publish("log")
    world.turn()

    assert world.clients[0].streams["ev"].delivered == 10
    finish(world)


def test_a_write_before_a_client_joined_its_cohort_is_no_heartbeat_for_it() -> None:
    world = World(Setup(make_channels(), replace(TUNING, rate=0.5, buffer_items=1)))
    late = world.connect()
    for client in (late, world.connect()):
        subscribe(world, client, "ev")
    world.publish("ev")
    world.publish("ev")
    world.advance(1 / 1024)
    world.turn({late.number})
    world.resume(late)

    world.run(5.0)

    finish(world)


def test_a_client_without_tokens_does_not_delay_others_with_the_same_subscriptions() -> None:
    world = World(Setup(make_channels(), replace(TUNING, rate=4.0)))
    for _ in range(6):
        world.publish("ev")
    subscribe(world, world.connect(), "ev")
    world.send(world.connect(), {"action": "subscribe", "channels": [{"channel": "ev", "last": 6}]})
    world.publish("ev")
    world.turn()

    world.advance(TUNING.interval / 2)
    world.publish("ev")
    world.turn()
    world.advance(2 * TUNING.interval)
    world.turn()

    assert [client.streams["ev"].delivered for client in world.clients] == [2, 4]
    finish(world)


def test_what_a_table_lost_is_reported_before_its_subscription_ends() -> None:
    world = World(Setup((Channel("tab", mode="table", max_keys=1),), TUNING))
    client = world.connect()
    subscribe(world, client, "tab")
    world.turn({0})
    for key in "ab":
        world.publish("tab", key=key)
        world.delete("tab", key)

    world.send(client, {"action": "unsubscribe", "channels": ["tab"]})

    finish(world)
    assert client.session.final["tab"].dropped == 2


def test_a_client_that_starts_with_a_snapshot_misses_no_earlier_deletion() -> None:
    world = World(Setup((Channel("tab", mode="table", max_keys=2),), TUNING))
    world.publish("tab", key="a")
    for key in "bcd":
        world.publish("tab", key=key)
        world.delete("tab", key)
    client = world.connect()

    subscribe(world, client, "tab")
    world.turn()

    assert (client.streams["tab"].delivered, client.streams["tab"].announced) == (1, 0)
    finish(world)


@pytest.mark.parametrize("what", ["answer", "answer and end", "heartbeat"])
def test_a_client_stalled_by_its_slice_of_a_flush_is_written_nothing_more(what: str) -> None:
    world = begin(clients=2, of=("ev",))
    owed = world.clients[1]
    begin_flush(world)

    if what == "heartbeat":
        world.advance(3.0)
        world.timer()
    else:
        world.send(owed, {"action": "ping"})
    if what == "answer and end":
        world.end(owed)
    world.hand_over(stalling={1})

    world.turn()
    finish(world)


@pytest.mark.parametrize("seconds", [0.0, 1 / 8])
def test_a_client_that_ends_all_subscriptions_keeps_its_rate_and_pace(seconds: float) -> None:
    world = begin(replace(TUNING, rate=2.0), of=("ev",))
    client = world.clients[0]
    world.publish("ev")
    world.publish("ev")
    world.turn()
    world.advance(seconds)

    world.send(client, {"action": "unsubscribe", "channels": ["ev"]})
    subscribe(world, client, "ev")
    world.publish("ev")
    world.turn()

    finish(world)


def test_a_connection_is_closed_after_its_control_items_were_written() -> None:
    world = begin()
    client = world.clients[0]
    world.send(client, {"action": "ping"})
    world.end(client)

    world.handle_events()
    assert client.closed is None

    world.turn()
    assert client.closed == 1000 and not client.expected
    finish(world)


def test_the_last_control_items_may_take_several_writes() -> None:
    world = begin(replace(TUNING, command_rate=None, control_bytes=1_000_000))
    client = world.clients[0]
    world.send(client, {"action": "ping"})
    world.turn({0})
    world.send(client, *[{"action": "ping", "id": "x" * 100}] * 3000)
    world.turn()
    world.resume(client)
    world.end(client)

    world.turn()

    assert client.closed == 1000 and not client.expected
    finish(world)


def test_a_client_that_is_stalled_when_the_journal_answers_resumes_where_it_was() -> None:
    """The journal answers while it is stalled."""
    world = World(Setup(make_channels(window=1), replace(TUNING, journal_chunk=2), restored=5))
    client = world.connect()
    world.send(client, {"action": "subscribe", "channels": [{"channel": "dur", "snapshot": True}]})
    world.turn()
    world.send(client, {"action": "ping"})
    world.turn({0})

    world.do_journal()
    world.turn()
    world.resume(client)

    come_to_rest(world)
    assert client.streams["dur"].delivered == 5
    finish(world)
