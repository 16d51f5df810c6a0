"""Every parser is fed with 200,000 mutated inputs, and with what once broke it."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .regressions import REGRESSIONS
from .runner import BLOCK, examine, run_block, shares
from .strategies import STRATEGIES
from .targets import TARGETS

INPUTS = 200_000
SEED = 0 if os.environ.get("CI") == "true" else random.randrange(2**32)
SHARES = shares([*TARGETS.values()], INPUTS)


@pytest.mark.parametrize("name", TARGETS)
def test_samples_and_what_once_broke_it(name: str) -> None:
    target = TARGETS[name]

    broken = [found for data in (*target.samples, *REGRESSIONS.get(name, ())) if (found := examine(target, data))]

    if broken:
        pytest.fail(str(broken[0]), pytrace=False)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_breaks_it(name: str) -> None:
    left = SHARES[name]
    block = 0
    while left > 0:
        finding = run_block(TARGETS[name], SEED, block, min(left, BLOCK))
        if finding is not None:
            pytest.fail(f"seed {SEED}, block {block} of {finding}", pytrace=False)
        left -= BLOCK
        block += 1


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_is_nearly_well_formed_breaks_it(name: str) -> None:
    @given(STRATEGIES.get(name, st.binary()))
    def check(data: bytes) -> None:
        TARGETS[name].check(data)

    check()


def test_regressions_and_strategies_are_of_targets_that_exist() -> None:
    assert REGRESSIONS.keys() | STRATEGIES.keys() <= TARGETS.keys()
