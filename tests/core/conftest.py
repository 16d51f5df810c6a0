"""The machine runs with small constants of the core; nobody else does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from analytics_hub.core import cohort
from analytics_hub.core import commands as dialogue


@pytest.fixture(autouse=True)
def constants() -> Iterator[None]:
    before = cohort.SLICE, dialogue.MAX_REFUSED
    yield
    for module, name, value in ((cohort, "SLICE", before[0]), (dialogue, "MAX_REFUSED", before[1])):
        setattr(module, name, value)
