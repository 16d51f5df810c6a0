"""What must hold after every step, after a flush, after a stall, and after a whole turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from analytics_hub.core.cohort import Cohort
from analytics_hub.core.engine import Delivery
from analytics_hub.core.statistics import Ledger

from .answers import TOLERANCE
from .client import Client
from .model import Item, Stream
from .structure import check_structure
from .wire import read_frames

if TYPE_CHECKING:
    from .world import World

GRAIN: Final = 0.25
"""Deadlines of sessions may be this late, in seconds."""


def check(world: World) -> None:
    """After every verb and every delivery."""
    check_structure(world.engine)
    for client in world.clients:
        if client.is_live:
            _check_ledger(world, client)


# --- the ledger


def _check_ledger(world: World, client: Client) -> None:
    ledgers = world.engine.ledger(client.session)
    assert set(ledgers) == set(client.subscribed)
    unsent = _unsent(world, client)
    dropped: dict[str, int] = {}
    for name, ledger in ledgers.items():
        stream = client.subscribed[name]
        is_answered = client.streams.get(name) is stream  # or the unsent items are of the previous one
        items, announced = unsent.get(name, (0, 0)) if is_answered else (0, 0)
        where = f"client {client.number}, {name}: {ledger}"
        assert ledger.is_balanced, where
        counts = (ledger.delivered, ledger.conflated, ledger.dropped, ledger.pending)
        assert min(counts) >= 0, where
        assert ledger.abandoned == 0, where
        assert ledger.published == stream.history.head - stream.start, where
        assert ledger.delivered == stream.delivered + items, f"{where}, {stream.delivered} + {items} written"
        assert ledger.dropped >= stream.announced + announced, where
        dropped[name] = ledger.dropped
        if not stream.history.conflates:
            assert ledger.conflated == 0, where
        elif not unsent:
            _check_pending(client, stream, ledger)
    _check_drops(world, client, ledgers, has_all=not unsent)
    client.dropped = {client.subscribed[name]: count for name, count in dropped.items()}


def _unsent(world: World, client: Client) -> dict[str, tuple[int, int]]:
    """What the engine counts as delivered, but has not handed to the driver: items and reported losses."""
    found: dict[str, tuple[int, int]] = {}
    for delivery in world.engine._membership.outbox:
        if client.session not in delivery.recipients:
            continue
        for frame in read_frames(delivery.frame):
            for fields in frame:
                name = fields.get("channel", "")
                items, announced = found.get(name, (0, 0))
                if not fields["type"].startswith("$"):
                    found[name] = items + 1, announced
                elif fields["type"] == "$gap" and fields["count"]:
                    found[name] = items, announced + fields["count"]
    return found


def _check_pending(client: Client, stream: Stream, ledger: Ledger) -> None:
    """What a table or `latest` still has for a client is what is live above its position; its carry may be outdated."""
    cohort = client.session.cohort
    assert cohort is not None
    live = stream.history.live(stream.seen)
    wanted = [item for item in live if stream.resumes or not item.deleted or item.key in stream.table]
    if not (cohort.readers[stream.name].carry or cohort.owes(client.session)):
        assert len(wanted) <= ledger.pending <= len(live), f"{stream.name}: {ledger}, but {len(wanted)} are live"


# --- losses


def _check_drops(world: World, client: Client, ledgers: dict[str, Ledger], *, has_all: bool) -> None:
    """A loss has a reason, and nothing is lost without need."""
    cohort = client.session.cohort
    if cohort is None or cohort.owes(client.session) or not has_all:
        return
    trimmed: list[Item] = []
    waiting: list[tuple[Item, Stream]] = []
    for name, ledger in ledgers.items():
        stream = client.subscribed[name]
        history = stream.history
        if history.conflates:
            assert ledger.dropped == 0 or history.forgotten > stream.start, f"{name}: {ledger}"
            continue
        rose = ledger.dropped - client.dropped.get(stream, 0)
        assert rose >= 0, f"{name}: dropped decreased by {-rose}"
        position = stream.seen + ledger.dropped - stream.announced
        taken = _count_taken(cohort, name)
        if history.channel.mode == "durable":
            assert position + taken >= min(history.reported_trim, history.head, history.floor()), f"{name}: {ledger}"
            assert not rose or position <= max(history.trimmed, stream.seen), f"{name}: {ledger}, {history.trimmed}"
            continue
        overwritten = max(history.floor(), stream.hole_end)
        assert position + taken >= overwritten, f"{name}: overwritten up to {overwritten} and not dropped: {ledger}"
        waiting += [(item, stream) for item in history.items[position:]]
        if rose and position > overwritten:
            trimmed.append(history.items[position - 1])
    if trimmed:
        _check_trim(world, client, trimmed, waiting)


def _count_taken(cohort: Cohort, name: str) -> int:
    """How many items of a channel were taken from its log and wait to be written: overwriting them loses nothing."""
    queued = [entry for entry in cohort.queue or () if entry.channel == name]
    return len(cohort.readers[name].carry) + len(queued)


def _check_trim(world: World, client: Client, trimmed: list[Item], waiting: list[tuple[Item, Stream]]) -> None:
    """The oldest were dropped, and no more than exceed the buffer. Subscriptions with `max_hz` may be exempt."""
    cohort = client.session.cohort
    assert cohort is not None
    newest = max(trimmed, key=lambda item: item.order)
    is_held = client.is_stalled or cohort.bucket.available(world.engine_now) < 1 - TOLERANCE
    assert is_held, f"client {client.number} lost {newest.fields}, but nothing held it back"
    others = [item for item, stream in waiting if not stream.every]
    assert all(item.order > newest.order for item in others), f"client {client.number} lost {newest.fields}"
    nbytes = sum(len(item.encoded) for item, _ in waiting)
    is_full = len(waiting) >= world.tuning.buffer_items
    is_heavy = nbytes + len(newest.encoded) > world.tuning.buffer_bytes
    assert is_full or is_heavy, f"client {client.number} lost {newest.fields} without need"


def _held(client: Client) -> tuple[int, int]:
    """Items and bytes that are pending for a client and count for its buffer."""
    items: list[bytes] = []
    cohort = client.session.cohort
    assert cohort is not None
    for reader in cohort.readers.values():
        if reader.log.channel.mode == "events" and not reader.period:
            position = reader.position + reader.log.count_lost(reader.position)
            items += [entry.data for entry in reader.log.after(position)]
    return len(items), sum(map(len, items))


def check_after_resume(world: World, client: Client) -> None:
    """A client that missed a flush while it was stalled has no more pending than its buffer allows."""
    if client.session.cohort is not None:
        _check_buffer(world, client)


def check_after_flush(world: World, delivery: Delivery) -> None:
    """A client without tokens has no more pending than its buffer allows, from the first slice of its flush on."""
    if world.tuning.max_frames is not None or b'"data":' not in delivery.frame or len(delivery.frame) > 200_000:
        return
    for session in delivery.recipients:
        client = world.client_of(session)
        cohort = session.cohort
        if (
            client.is_live
            and cohort is not None
            and cohort.dirty
            and cohort.bucket.available(world.engine_now) < 1 - TOLERANCE
        ):
            if any(reader.carry for reader in cohort.readers.values()):
                continue
            if client.flushed_at == world.engine_now:
                _check_buffer(world, client)


def _check_buffer(world: World, client: Client) -> None:
    items, nbytes = _held(client)
    assert items <= world.tuning.buffer_items, f"{items} items are pending for client {client.number}"
    assert nbytes <= world.tuning.buffer_bytes, f"{nbytes} bytes are pending for client {client.number}"


# --- before and after a whole turn


def check_before_turn(world: World) -> None:
    """The engine is called at the times for which it asks: so no client has waited too long for a heartbeat."""
    for client in world.clients:
        if client.is_live and client.identity is not None and not client.is_stalled:
            silent = world.now - client.wrote_at
            assert silent <= world.tuning.heartbeat + GRAIN, f"client {client.number} got nothing for {silent} s"


def check_after_turn(world: World) -> None:
    """No client waits longer than necessary."""
    for client in world.clients:
        if not client.is_live:
            continue
        _check_deadlines(world, client)
        if not client.is_stalled:
            assert not client.expected, f"client {client.number} still waits for {client.expected}"
            _check_promptness(world, client)


def _check_deadlines(world: World, client: Client) -> None:
    """No session outlives a deadline, except by the grain of deadlines."""
    tuning, now = world.tuning, world.now - GRAIN
    assert not client.is_stalled or now < client.stalled_at + _patience(world, client), f"client {client.number}"
    assert not client.has_pinged or now < client.heard_at + tuning.silence_timeout, f"client {client.number}"
    if client.identity is None:
        assert now < client.since + tuning.auth_timeout, f"client {client.number}"
    elif client.identity.expires is not None and not _has_shifted(world, client):
        left = client.identity.expires - world.wall
        assert left > -GRAIN, f"the token of client {client.number} has expired"
        is_due = tuning.expiry_warning - left > GRAIN
        assert client.is_stalled or not is_due or client.warned is client.identity, f"client {client.number}"


def _has_shifted(world: World, client: Client) -> bool:
    """A clock that was set takes effect at the next heartbeat, which a stalled client does not get."""
    grace = world.tuning.heartbeat if not client.is_stalled else float("inf")
    return world.now < world.shifted_at + grace + 2 * GRAIN


def _patience(world: World, client: Client) -> float:
    is_durable = any(stream.history.channel.mode == "durable" for stream in client.subscribed.values())
    return world.tuning.durable_write_timeout if is_durable else world.tuning.write_timeout


def check_end(world: World, client: Client, code: int, reason: str) -> None:
    """The engine has ended a session by itself, and not too early."""
    tuning = world.tuning
    if code == 4503 and "wait" in reason:
        assert client.session.is_stalled
    elif code == 4503:
        assert world.now >= client.stalled_at + min(tuning.durable_write_timeout, tuning.write_timeout), reason
    elif code == 4408 and client.identity is None:
        assert world.now >= client.since + tuning.auth_timeout, reason
    elif code == 4408:
        assert client.has_pinged, reason
        assert world.now >= client.heard_at + tuning.silence_timeout, reason
    elif code == 4401:
        assert client.identity is not None and client.identity.expires is not None, reason
        assert client.identity.expires <= world.wall or world.shifted_at > float("-inf"), reason
    else:
        raise AssertionError(f"client {client.number} was closed with {code}, {reason}")


def _check_promptness(world: World, client: Client) -> None:
    """Everything was written two intervals after the last write, at the latest; a cohort may wait for its own turn."""
    cohort = client.session.cohort
    if cohort is None or cohort.bucket.available(world.now) < 1:
        return
    if any(stream.every for stream in client.subscribed.values()):
        return
    interval = world.tuning.interval
    assert cohort.not_before <= world.now + interval, f"client {client.number} waits until {cohort.not_before}"
    if world.now < max(client.flushed_at + 2 * interval, cohort.not_before):
        return
    for name, ledger in world.engine.ledger(client.session).items():
        reader = cohort.readers[name]
        is_reading = client.subscribed[name].history.channel.mode == "durable" and reader.log.floor > reader.position
        assert ledger.pending == 0 or is_reading, f"client {client.number} waits for {name}: {ledger}"
