"""`docs/limits.md` shows every limit and counter of the code."""

from __future__ import annotations

from analytics_hub.telemetry import COUNTERS
from tools.limits_page import GROUPS, NO_LIMITS, PAGE, render_page, settable, shown


def test_the_page_is_generated_from_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(), "regenerate it: python -m tools.limits_page"


def test_every_setting_is_a_limit_or_is_listed_as_no_limit() -> None:
    assert {name for name in settable() if name.partition(".")[2] not in NO_LIMITS} == shown()


def test_every_limit_that_names_a_counter_has_one() -> None:
    named = {name for limits in GROUPS.values() for limit in limits for name in limit.counter.split(", ") if name}

    assert named <= set(COUNTERS)
