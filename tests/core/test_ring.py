"""The ring buffer against a plain list, and the merge of several runs against sorting."""

from __future__ import annotations

from itertools import chain

from hypothesis import example, given
from hypothesis import strategies as st

from analytics_hub.core.ring import Entry, RingBuffer, merge_oldest


@given(
    st.lists(st.integers(0, 12), max_size=120),
    st.integers(1, 50),
    st.integers(1, 60),
    st.integers(0, 40),
    st.integers(0, 20),
)
@example([4, 99], 10, 10, 0, 5)  # the newest entry stays, however large it is
@example([5, 5], 2, 10, 0, 1)  # exactly full
def test_a_ring_keeps_the_newest_entries_within_its_bounds(
    sizes: list[int], max_items: int, max_bytes: int, head: int, limit: int
) -> None:
    """Overwritten entries are released in portions; in between the list is longer than what is kept."""
    ring = RingBuffer(max_items, max_bytes, head)
    kept: list[int] = []
    for number, size in enumerate(sizes, 1):
        ring.append(Entry(0, head + number, b"x" * size, "a"))
        kept.append(size)
        while len(kept) > max_items or (sum(kept) > max_bytes and len(kept) > 1):
            del kept[0]

        assert (ring.head, ring.floor) == (head + number, head + number - len(kept))
        assert [len(entry.data) for entry in ring.after(ring.floor)] == kept
        assert ring.nbytes == sum(kept)
        assert ring.largest == max(sizes[:number])
        position = ring.floor + len(kept) // 2
        assert [entry.seq for entry in ring.after(position)] == list(range(position + 1, ring.head + 1))
        assert ring.some_after(position, limit) == ring.after(position)[:limit]
    if not sizes:
        assert (ring.head, ring.floor, ring.nbytes, ring.after(head)) == (head, head, 0, [])


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 70))
@example([0] + [1] * 9, 2)  # one run ends while most of the others are not wanted
def test_the_oldest_entries_of_several_runs_are_in_publish_order(places: list[int], limit: int) -> None:
    runs = [[Entry(order, 0, b"", f"c{run}") for order, place in enumerate(places) if place == run] for run in range(6)]

    found = merge_oldest([run for run in runs if run], limit)

    assert found == sorted(chain(*runs), key=lambda entry: entry.order)[:limit]


@given(st.integers(1, 9), st.integers(0, 20))
def test_entries_from_a_journal_keep_their_order(length: int, limit: int) -> None:
    """All of them have the order 0: each run goes as a whole before the next."""
    runs = [[Entry(0, seq, b"", f"c{run}") for seq in range(length)] for run in range(3)]

    assert merge_oldest(runs, limit) == list(chain(*runs))[:limit]
