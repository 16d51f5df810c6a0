"""The machine runs with small constants of the core; nobody else does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from analytics_hub.core import cohort, commands


@pytest.fixture(autouse=True)
def constants() -> Iterator[None]:
    before = cohort.SLICE, commands.MAX_OVER_RATE
    yield
    for module, name, value in ((cohort, "SLICE", before[0]), (commands, "MAX_OVER_RATE", before[1])):
        setattr(module, name, value)
