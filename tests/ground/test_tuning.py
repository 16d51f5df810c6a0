from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from math import inf, nan
from typing import Any

import pytest

from analytics_hub.tuning import PROFILES, RANGES, Tuning


def make(**options: Any) -> Tuning:
    return Tuning(**options)


def test_every_field_has_a_range_that_admits_its_default() -> None:
    assert {field.name for field in fields(Tuning)} == set(RANGES)
    assert Tuning() == PROFILES["default"]


@pytest.mark.parametrize("field", RANGES)
def test_both_ends_of_a_range_are_allowed(field: str) -> None:
    least, most, _ = RANGES[field]
    room: dict[str, Any] = {"reconnect_max": 86_400.0, "reconnect_min": 0.0}

    for value in (least, most):
        assert getattr(Tuning(**{**room, field: value}), field) == value


@pytest.mark.parametrize("field", RANGES)
def test_a_value_out_of_range_is_refused_with_the_range(field: str) -> None:
    least, most, _ = RANGES[field]

    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"^{field} is .*; it must be between "):
            make(**{field: value})


@pytest.mark.parametrize("value", ["5", True, None, [], 1.5])
def test_a_count_must_be_a_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^max_batch is .*; it must be a whole number$"):
        Tuning(max_batch=value)


@pytest.mark.parametrize("value", ["5", False, None, []])
def test_a_duration_must_be_a_number(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^interval is .*; it must be a number$"):
        Tuning(interval=value)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_a_number_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match=r"^heartbeat is "):
        Tuning(heartbeat=value)


def test_seconds_may_be_whole_numbers() -> None:
    assert Tuning(heartbeat=5).heartbeat == 5


@pytest.mark.parametrize("field", ["rate", "command_rate", "max_frames"])
def test_none_is_no_limit(field: str) -> None:
    assert getattr(make(**{field: None}), field) is None


def test_the_shortest_reconnect_must_not_exceed_the_longest() -> None:
    with pytest.raises(ValueError, match=r"^reconnect_min is 40; it must not exceed "):
        Tuning(reconnect_min=40)


def test_a_tuning_is_immutable() -> None:
    tuning = Tuning()

    with pytest.raises(FrozenInstanceError):
        tuning.rate = 5  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"^rate is -1"):
        replace(tuning, rate=-1)


def test_profiles_are_known_by_name() -> None:
    assert Tuning.profile("low-latency").interval < Tuning().interval
    assert Tuning.profile("memory-constrained").max_frames == 5


def test_an_unknown_profile_is_refused_with_the_known_names() -> None:
    name: Any = "fast"

    with pytest.raises(ValueError, match=r"^no profile 'fast'; there are default, high-frequency, low-latency, "):
        Tuning.profile(name)
