"""The schedule against a plain dictionary of times."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.core.schedule import Schedule


class Alarm:
    def __init__(self) -> None:
        self.wake_at: float | None = None


def test_items_that_are_due_together_keep_the_order_in_which_they_were_scheduled() -> None:
    schedule: Schedule[Alarm] = Schedule()
    alarms = [Alarm() for _ in range(5)]

    for alarm in alarms:
        schedule.at(alarm, 1.0)

    assert schedule.due(1.0) == alarms


actions = st.one_of(
    st.tuples(st.just("at"), st.integers(0, 3), st.integers(0, 9)),
    st.tuples(st.just("at"), st.integers(0, 3), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("due"), st.just(0), st.integers(0, 9)),
)


@given(st.lists(actions, max_size=40))
def test_an_item_is_due_once_at_the_time_for_which_it_was_last_scheduled(plan: list[tuple[str, int, int]]) -> None:
    schedule: Schedule[Alarm] = Schedule()
    alarms = [Alarm() for _ in range(4)]
    times: dict[Alarm, float] = {}
    for action, index, time in [*plan, ("due", 0, 9)]:
        alarm = alarms[index]
        if action == "at":
            schedule.at(alarm, time)
            times[alarm] = time
        elif action == "due":
            due = [times.pop(each) for each in schedule.due(time)]
            assert due == sorted(due)
            assert all(when > time for when in times.values())
        else:
            schedule.cancel(alarm)
            times.pop(alarm, None)
        assert {each: each.wake_at for each in alarms if each.wake_at is not None} == times
        upcoming = schedule.next()
        assert not times or (upcoming is not None and upcoming <= min(times.values()))

    assert times == {}
    assert schedule.next() is None


@pytest.mark.parametrize("release", ["cancel", "move", "due"])
def test_nothing_refers_to_an_item_that_is_not_scheduled_there_any_more(release: str) -> None:
    schedule: Schedule[Alarm] = Schedule()
    alarm = Alarm()
    schedule.at(alarm, 1e9)

    match release:
        case "cancel":
            schedule.cancel(alarm)
        case "move":
            schedule.at(alarm, 1.0)
            schedule.due(1.0)
        case "due":
            schedule.due(1e9)

    assert [each for each in gc.get_referrers(alarm) if isinstance(each, (dict, list)) and each is not locals()] == []
