"""Scenarios for the machine that random steps seldom produce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from analytics_hub.core.events import Append
from analytics_hub.identity import Identity

from . import strategies as draw
from .client import Client
from .wire import Fields
from .world import World

INTERRUPTIONS: Final = ("ping", "subscribe", "unsubscribe", "leave", "end", "end", "wait")


def publish(world: World, name: str, body: int, key: str) -> None:
    world.publish(name, body, key=key if name in draw.KEYED else None)


# --- clients with the same subscriptions


def set_subscriptions(world: World, client: Client, *names: str) -> None:
    """Subscribe to these channels, and no others."""
    others = [name for name in client.subscribed if name not in names]
    commands: list[Fields] = [{"action": "unsubscribe", "channels": others}] if others else []
    world.send(client, *commands, {"action": "subscribe", "channels": list(names)})


def gather(world: World, clients: Sequence[Client], names: Sequence[str]) -> None:
    for client in clients:
        set_subscriptions(world, client, *names)
    world.turn()
    world.advance(draw.INTERVAL)


def fall_behind(world: World, clients: Sequence[Client], name: str, numbers: Sequence[int]) -> None:
    """Clients stall one after the other, each at another write, and are resumed when there is more."""
    gather(world, clients, [name])
    late = [clients[number % len(clients)] for number in numbers]
    for client in late:
        publish(world, name, 0, "a")
        world.turn({client.number})
        world.advance(draw.INTERVAL)
    for client in late:
        if client.is_stalled and client.is_live:
            world.resume(client)
        publish(world, name, 1, "b")
        world.turn()
        world.advance(draw.INTERVAL)


# --- in the middle of a flush


def shares_cohort(client: Client) -> bool:
    """Whether it shares a cohort and can be written to."""
    cohort = client.session.cohort
    return client.is_live and not client.is_paused and cohort is not None and cohort.size > 1 and not cohort.is_stalled


def is_owed(client: Client) -> bool:
    """Whether items were taken for its cohort and not written to it: its slice of a flush, or the rest of a table."""
    cohort = client.session.cohort
    if cohort is None or not shares_cohort(client):
        return False
    return cohort.owes(client.session) or any(reader.carry for reader in cohort.readers.values())


def begin_flush(world: World, client: Client, count: int) -> None:
    """Publish to all channels of a client, and write until a client is owed the rest."""
    for n in range(count):
        for name in list(client.subscribed):
            publish(world, name, n, draw.KEYS[n])
    world.advance(draw.INTERVAL)
    world.timer()
    while not any(map(is_owed, world.clients)):
        if world.hand_over(1):
            return


def interrupt(world: World, owed: Client, what: str) -> None:
    """Something happens to a client that is owed a frame."""
    match what:
        case "ping":
            world.send(owed, {"action": "ping"})
        case "subscribe":
            world.send(owed, {"action": "subscribe", "channels": ["ev", "tab"]})
        case "unsubscribe":
            world.send(owed, {"action": "unsubscribe", "channels": list(owed.subscribed)[:1]})
        case "leave":
            world.disconnect(owed)
        case "end":
            world.send(owed, {"action": "ping"})
            world.end(owed)
        case "wait":  # for a heartbeat
            world.advance(3.0)
            world.timer()


# --- others


def pace(world: World, clients: Sequence[Client], name: str, max_hz: float, beats: int) -> None:
    """Clients subscribe with `max_hz`, and more is published than that."""
    for client in clients:
        world.send(client, {"action": "subscribe", "channels": [{"channel": name, "max_hz": max_hz}]})
    for n in range(beats):
        publish(world, name, n, "a")
        world.turn()
        world.advance(1 / 32)


def move(world: World, clients: Sequence[Client], old: str, new: str) -> None:
    """The first client uses up its tokens on one channel, then joins the others on another."""
    count = int(world.tuning.rate or 2.0) + 1
    for client in clients:
        set_subscriptions(world, client, old if client is clients[0] else new)
    for name in (old, new):
        world.advance(draw.INTERVAL)
        set_subscriptions(world, clients[0], name)
        world.turn()
        for n in range(count):
            publish(world, name, n, "a")
        world.turn()


def change_while_asked(world: World, client: Client, names: Sequence[str], other: Identity, withdrawn: int) -> None:
    """While the application is asked about a client, its identity changes, and channels are withdrawn from it."""
    for channels in (names[:1], names):
        world.send(client, {"action": "subscribe", "channels": list(channels)})
        world.handle_events()
        if channels is names:
            world.identify(client, other)
            world.forbid(client, list(client.subscribed)[:withdrawn])
        while world.questions:
            world.answer_question(world.questions[0].channels)


def delete_known_key(world: World, client: Client, name: str, command: Fields, *, is_late: bool) -> None:
    """A client subscribes to a table with deletions; then a key that it knows, or would have known, is deleted."""
    world.publish(name, 0, key="a")
    world.publish(name, 0, key="b")
    if name in world.histories:
        world.delete(name, "b")
    world.send(client, command)
    if not is_late:
        world.turn()
        world.advance(draw.INTERVAL)
    if name in world.histories:
        world.delete(name, "a")
    world.turn()


def outrun(world: World, client: Client, keeps: int) -> None:
    """A client waits for items of the journal, which deletes them meanwhile, and then reads again."""
    name = draw.DURABLE[0]
    history = world.histories[name]
    _keep(world, name, 8)
    since = {"epoch": history.epoch, "seq": max(0, history.head - 8)}
    world.send(client, {"action": "subscribe", "channels": [{"channel": name, "since": since}]})
    world.turn()
    world.journals[name].trim(keeps)
    _keep(world, name, 1)
    world.send(client, {"action": "subscribe", "channels": ["ev"]})
    world.advance(draw.INTERVAL)
    world.turn()


def _keep(world: World, name: str, count: int) -> None:
    """Publish to a durable channel; its journal executes the appends, and no reads."""
    for n in range(count):
        world.publish(name, n)
    world.turn()
    for job in [job for job in world.jobs if isinstance(job, Append)]:
        world.do_journal(world.jobs.index(job))
