from __future__ import annotations

from math import inf

import pytest

from analytics_hub.core.bucket import TokenBucket


def test_a_bucket_begins_full_and_gives_what_it_has() -> None:
    bucket = TokenBucket(2, 0.0)

    assert bucket.available(0.0) == 2
    assert not bucket.take(0.0, 3)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]


def test_tokens_come_back_at_the_rate_up_to_the_capacity() -> None:
    bucket = TokenBucket(10, 0.0)
    bucket.spend(10)

    assert bucket.available(0.5) == pytest.approx(5)
    assert bucket.available(99.0) == 10


def test_time_that_goes_backwards_refills_nothing() -> None:
    bucket = TokenBucket(10, 5.0)
    bucket.spend(10)

    assert bucket.available(1.0) == 0
    assert bucket.available(5.1) == pytest.approx(1)


def test_a_debt_is_paid_first() -> None:
    bucket = TokenBucket(10, 0.0)
    bucket.spend(30)

    assert bucket.available(1.0) == -10
    assert bucket.when(1.0) == pytest.approx(2.1)


def test_when_is_now_if_there_is_enough() -> None:
    bucket = TokenBucket(10, 0.0)

    assert bucket.when(3.0, 10) == 3.0


def test_rounding_costs_no_token() -> None:
    bucket = TokenBucket(1, 0.0)
    bucket.spend(1)

    assert bucket.take(1 - 1e-12)


def test_a_slow_bucket_holds_one_token() -> None:
    bucket = TokenBucket(0.1, 0.0)

    assert [bucket.take(now) for now in (0.0, 9.0, 10.0)] == [True, False, True]


def test_the_capacity_may_be_given() -> None:
    assert TokenBucket(10, 0.0, capacity=3).available(9.0) == 3
    assert TokenBucket(10, 0.0, capacity=0.5).available(9.0) == 1


def test_without_a_rate_nothing_is_limited() -> None:
    bucket = TokenBucket(None, 0.0)

    bucket.spend(1e9)

    assert bucket.take(0.0, 1e9)
    assert bucket.available(0.0) == inf
    assert bucket.when(7.0, 1e9) == 7.0


def test_a_copy_is_equal_and_independent() -> None:
    bucket = TokenBucket(10, 0.0, capacity=20)
    bucket.spend(15)

    twin = bucket.copy()
    bucket.spend(5)

    assert (twin.available(0.5), bucket.available(0.5)) == (10, 5)
    assert twin.available(99.0) == 20
