from __future__ import annotations

from analytics_hub.core.ring import Entry, RingBuffer


def fill(ring: RingBuffer, *sizes: int) -> None:
    for size in sizes:
        ring.append(Entry(0, ring.head + 1, b"x" * size, "a"))


def seqs(entries: list[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


def test_a_new_ring_is_empty() -> None:
    ring = RingBuffer(3, 100)

    assert (ring.head, ring.floor, ring.nbytes, ring.after(0)) == (0, 0, 0, [])


def test_positions_count_from_one() -> None:
    ring = RingBuffer(3, 100)

    fill(ring, 1, 1)

    assert (ring.head, ring.floor) == (2, 0)
    assert seqs(ring.after(0)) == [1, 2]
    assert seqs(ring.after(1)) == [2]
    assert seqs(ring.after(2)) == []


def test_drop_oldest_keeps_the_newest() -> None:
    ring = RingBuffer(3, 100)

    fill(ring, 1, 1, 1, 1, 1)

    assert (ring.head, ring.floor) == (5, 2)
    assert seqs(ring.after(2)) == [3, 4, 5]


def test_bytes_bound_what_is_kept() -> None:
    ring = RingBuffer(10, 10)

    fill(ring, 4, 4, 4)

    assert seqs(ring.after(ring.floor)) == [2, 3]
    assert ring.nbytes == 8


def test_exactly_full_loses_nothing() -> None:
    ring = RingBuffer(2, 10)

    fill(ring, 5, 5)

    assert ring.floor == 0


def test_the_newest_entry_stays_however_large_it_is() -> None:
    ring = RingBuffer(10, 10)

    fill(ring, 4, 99)

    assert seqs(ring.after(ring.floor)) == [2]
    assert ring.nbytes == 99


def test_the_largest_is_remembered_when_it_is_gone() -> None:
    ring = RingBuffer(1, 100)

    fill(ring, 9, 2)

    assert ring.largest == 9
    assert ring.nbytes == 2


def test_some_after_stops_at_its_limit() -> None:
    ring = RingBuffer(10, 100)
    fill(ring, *[1] * 10)

    assert seqs(ring.some_after(3, 4)) == [4, 5, 6, 7]
    assert seqs(ring.some_after(8, 4)) == [9, 10]


def test_a_ring_may_begin_at_any_number() -> None:
    ring = RingBuffer(2, 100, head=40)

    fill(ring, 1, 1, 1)

    assert (ring.head, ring.floor) == (43, 41)
    assert seqs(ring.after(41)) == [42, 43]


def test_positions_are_right_at_every_step_of_a_long_life() -> None:
    """Overwritten entries are let go in portions; in between the list is longer than what is kept."""
    ring = RingBuffer(50, 10_000)

    for head in range(1, 300):
        fill(ring, head % 7)
        assert (ring.head, ring.floor) == (head, max(0, head - 50))
        assert seqs(ring.after(ring.floor)) == list(range(ring.floor + 1, head + 1))
        assert ring.nbytes == sum(seq % 7 for seq in range(ring.floor + 1, head + 1))
