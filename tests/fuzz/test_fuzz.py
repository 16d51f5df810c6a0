"""Every parser survives inputs that hypothesis generates, its samples, and the inputs that once broke it."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings

from .regressions import REGRESSIONS
from .strategies import LARGE_INPUTS
from .targets import TARGETS

PHASES = [Phase.generate, Phase.shrink]  # failing inputs are kept in `regressions.py`, not in hypothesis' database


def assert_survives(name: str, data: bytes) -> None:
    """The parser handles `data` as its target demands; the target raises otherwise."""
    TARGETS[name].check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_samples_and_regressions_break_nothing(name: str) -> None:
    for data in (*TARGETS[name].samples, *REGRESSIONS.get(name, ())):
        assert_survives(name, data)


@pytest.mark.parametrize("name", TARGETS)
def test_no_generated_input_breaks_a_parser(name: str) -> None:
    @settings(phases=PHASES, suppress_health_check=LARGE_INPUTS)
    @given(TARGETS[name].inputs)
    def check(data: bytes) -> None:
        assert_survives(name, data)

    check()


def test_regressions_are_of_existing_targets() -> None:
    assert REGRESSIONS.keys() <= TARGETS.keys()
