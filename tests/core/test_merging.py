from __future__ import annotations

from itertools import chain

from hypothesis import example, given
from hypothesis import strategies as st

from analytics_hub.core.ring import Entry, merge_oldest


def entry(order: int, run: int) -> Entry:
    return Entry(order, 0, b"", f"c{run}")


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 70))
@example([0] + [1] * 9, 2)  # one run ends while most of the others are not wanted
def test_the_oldest_of_all_come_in_publish_order(places: list[int], limit: int) -> None:
    """As if everything were sorted and the rest thrown away."""
    runs = [[entry(order, place) for order, place in enumerate(places) if place == run] for run in range(6)]

    found = merge_oldest([run for run in runs if run], limit)

    assert found == sorted(chain(*runs), key=lambda each: each.order)[:limit]


@given(st.integers(1, 9), st.integers(0, 20))
def test_what_comes_from_a_journal_stays_together(length: int, limit: int) -> None:
    """Its entries all have the order 0: a run goes as a whole before the next, and each in its own order."""
    runs = [[Entry(0, seq, b"", f"c{run}") for seq in range(length)] for run in range(3)]

    assert merge_oldest(runs, limit) == list(chain(*runs))[:limit]
