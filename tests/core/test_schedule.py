from __future__ import annotations

import gc

import pytest

from analytics_hub.core.schedule import Schedule


class Alarm:
    def __init__(self) -> None:
        self.wake_at: float | None = None


def test_an_empty_schedule_has_nothing() -> None:
    schedule: Schedule[Alarm] = Schedule()

    assert schedule.next() is None
    assert schedule.due(1e9) == []


def test_items_come_in_the_order_of_their_times() -> None:
    schedule: Schedule[Alarm] = Schedule()
    late, early, soon = Alarm(), Alarm(), Alarm()

    schedule.at(late, 3.0)
    schedule.at(early, 1.0)
    schedule.at(soon, 2.0)

    assert schedule.next() == 1.0
    assert schedule.due(2.0) == [early, soon]
    assert schedule.next() == 3.0


def test_an_item_that_was_due_has_no_time_any_more() -> None:
    schedule: Schedule[Alarm] = Schedule()
    alarm = Alarm()
    schedule.at(alarm, 1.0)

    schedule.due(1.0)

    assert alarm.wake_at is None
    assert schedule.due(9.0) == []


def test_items_due_together_come_in_the_order_they_were_scheduled() -> None:
    schedule: Schedule[Alarm] = Schedule()
    alarms = [Alarm() for _ in range(5)]

    for alarm in alarms:
        schedule.at(alarm, 1.0)

    assert schedule.due(1.0) == alarms


def test_scheduling_again_moves_an_item() -> None:
    schedule: Schedule[Alarm] = Schedule()
    alarm = Alarm()
    schedule.at(alarm, 1.0)

    schedule.at(alarm, 2.0)

    assert schedule.due(1.0) == []
    assert schedule.due(2.0) == [alarm]


def test_scheduling_for_the_same_time_again_changes_nothing() -> None:
    schedule: Schedule[Alarm] = Schedule()
    alarm = Alarm()

    schedule.at(alarm, 1.0)
    schedule.at(alarm, 1.0)

    assert schedule.due(1.0) == [alarm]


def test_what_is_cancelled_is_not_due_and_may_be_cancelled_again() -> None:
    schedule: Schedule[Alarm] = Schedule()
    first, second = Alarm(), Alarm()
    schedule.at(first, 1.0)
    schedule.at(second, 1.0)

    schedule.cancel(first)
    schedule.cancel(first)

    assert schedule.due(1.0) == [second]


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
