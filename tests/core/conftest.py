"""The machine changes constants of the core; they are reset after each test."""

from __future__ import annotations

import pytest

from analytics_hub.core import cohort, commands


@pytest.fixture(autouse=True)
def constants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "SLICE", cohort.SLICE)
    monkeypatch.setattr(commands, "MAX_OVER_RATE", commands.MAX_OVER_RATE)
