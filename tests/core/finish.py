"""The end of a run: there are no more faults, and everything must come to rest."""

from __future__ import annotations

from analytics_hub.core.statistics import Ledger

from .structure import check_empty
from .world import OPS, World

MOST_ROUNDS = 2000


def finish(world: World) -> None:
    """Resume all clients, answer all questions, let time pass: then nothing may be pending or left over."""
    _answer_all(world)
    for client in world.clients:
        if client.is_live and client.is_stalled:
            world.resume(client)
    come_to_rest(world)
    _check_streams(world)
    _check_cohorts(world)
    _disconnect(world)


def _answer_all(world: World) -> None:
    while world.token_checks:
        world.answer_token(OPS)
    while world.questions:
        world.answer_question(world.questions[0].channels)
    while world.jobs:
        world.do_journal()


def _pending(world: World) -> int:
    return sum(
        ledger.pending
        for client in world.clients
        if client.is_live
        for ledger in world.engine.ledger(client.session).values()
    )


def come_to_rest(world: World) -> None:
    """Turns only at the times for which the engine asks: a missing wake-up shows here."""
    for _ in range(MOST_ROUNDS):
        world.turn()
        if world.jobs or world.token_checks or world.questions:
            _answer_all(world)
            continue
        if not _pending(world) and world.engine.is_quiet:
            return
        timer = world.engine.get_timer()
        assert timer is not None, "items or losses are pending, but the engine wants no turn"
        world.now = max(world.now, timer)
    raise AssertionError(f"{_pending(world)} items are still pending")


def _check_streams(world: World) -> None:
    for client in world.clients:
        if not client.is_live:
            continue
        assert not client.is_stalled and not client.expected
        assert client.streams == client.subscribed, f"client {client.number}"
        for name, ledger in world.engine.ledger(client.session).items():
            stream = client.streams[name]
            stream.check_complete()
            assert ledger.dropped == stream.announced, (ledger, stream)


def _check_cohorts(world: World) -> None:
    """Clients with equal subscriptions form one cohort again, once all have full buckets and the same items."""
    for _ in range(3):
        world.run(8.0)
        for name in list(world.histories):
            key = "a" if world.histories[name].channel.mode == "table" else None
            if key is not None and world.refusal(name, key) is not None:
                key = next(item.key for item in world.histories[name].present())
            world.publish(name, "rest", key=key)
        come_to_rest(world)
    for subscription_set in world.engine.registry.subscription_sets.values():
        if not any(reader.gaps for cohort in subscription_set.cohorts for reader in cohort.readers.values()):
            assert len(subscription_set.cohorts) == 1, f"{len(subscription_set.cohorts)} of {subscription_set.key}"


def _disconnect(world: World) -> None:
    for client in world.clients:
        world.disconnect(client)
    world.turn()
    come_to_rest(world)
    assert world.engine.is_quiet
    for client in world.clients:
        for name, final in client.session.final.items():
            assert final.is_balanced and final.pending == 0, f"client {client.number}, {name}: {final}"
    _check_totals(world)
    world.advance(30.0)
    world.turn()
    check_empty(world.engine)


def _check_totals(world: World) -> None:
    """The totals of a channel are the sum of its closed accounts."""
    if any(client.is_cut_off for client in world.clients):
        return  # the reference does not know which of its commands were executed
    for name, channel in world.engine.statistics().channels.items():
        ended = [stream for stream in world.ended if stream.history is world.histories[name]]
        finals = [stream.final for stream in ended if stream.final is not None]
        if len(finals) == len(ended):
            total = sum(finals, Ledger())
            assert channel.ledger == total, f"{name}: {channel.ledger}, not {total}"
