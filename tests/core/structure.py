"""The structure of the engine: it holds exactly what its sessions hold, and nothing is left behind."""

from __future__ import annotations

from analytics_hub.core.cohort import Cohort
from analytics_hub.core.engine import Engine
from analytics_hub.core.reader import Reader


def check_structure(engine: Engine) -> None:
    logs = engine.registry.logs
    held: dict[Cohort, list[str]] = {}
    watchers = dict.fromkeys(logs, 0)
    for session in engine.sessions.values():
        assert not session.is_closed
        assert (session.cohort is not None) == bool(session.subscriptions)
        for name in session.subscriptions:
            watchers[name] += 1
        if session.cohort is not None:
            held.setdefault(session.cohort, []).append(session.id)
            assert session.cohort.is_stalled == session.is_stalled, f"{session.id} is in the wrong cohort"
            wanted = tuple(sorted((name, sub.max_hz) for name, sub in session.subscriptions.items()))
            assert session.cohort.subscription_set.key == (session.wire.name, wanted)
    assert {name: log.watchers for name, log in logs.items()} == watchers

    subscription_sets = engine.registry.subscription_sets
    cohorts = [cohort for subscription_set in subscription_sets.values() for cohort in subscription_set.cohorts]
    assert len(cohorts) == len(held) and set(cohorts) == set(held), "subscription sets and sessions differ in cohorts"
    for key, subscription_set in subscription_sets.items():
        assert subscription_set.key == key and subscription_set.cohorts
        assert subscription_set.primary is None or subscription_set.primary in subscription_set.cohorts
    for cohort, members in held.items():
        _check_cohort(engine, cohort, members)
    readers = {reader for cohort in held for reader in cohort.readers.values()}
    for log in logs.values():
        assert set(log.idle) <= readers, f"{log.name} has idle readers without a session"
        assert set(log.followers) <= set(held), f"{log.name} has followers without a session"
        assert not log.is_dirty or log in engine._scheduler.dirty_logs


def _check_cohort(engine: Engine, cohort: Cohort, members: list[str]) -> None:
    assert sorted(session.id for session in cohort.members()) == sorted(members)
    assert cohort.size == len(members)
    assert all(part.members for part in cohort.slices), "an empty slice"
    assert set(cohort.owed) <= set(cohort.slices)
    subscriptions = next(cohort.members()).subscriptions
    assert set(cohort.readers) == set(subscriptions)
    for name, reader in cohort.readers.items():
        log = engine.registry.logs[name]
        assert reader.log is log and reader.cohort is cohort
        waits = reader in _reading(engine)
        places = (reader in log.idle) + (reader in cohort.dirty)
        if cohort.is_stalled:
            assert reader not in log.idle and cohort not in log.followers, f"a stalled reader of {name} is awake"
        elif cohort.queue is not None:
            assert places == 0 and cohort in log.followers, f"a follower is in {places} other places"
        else:
            assert cohort not in log.followers
            assert places == 1 or (places == 0 and waits), f"a reader of {name} is in {places} places"
        assert cohort.dirty.count(reader) <= 1


def _reading(engine: Engine) -> set[Reader]:
    """The readers that wait for the journal."""
    return {reader for pending in engine._journal._reads.values() for reader in pending.readers}


def check_empty(engine: Engine) -> None:
    """All clients have disconnected, and nothing is left to be written."""
    check_structure(engine)
    assert not engine.sessions and not engine.registry.subscription_sets
    assert not engine.has_output, "there is still output"
    assert not engine._commands._authorizing
    assert not engine._journal._reads, "a session that has ended waits for the journal"
    for log in engine.registry.logs.values():
        assert not log.idle and not log.followers and not log.watchers
        assert not log.is_member, f"{log.name} was not removed"
