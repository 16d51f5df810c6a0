"""`docs/protocol.md` has the codes of all exceptions that a peer can be answered with."""

from __future__ import annotations

from analytics_hub import exceptions
from tools.errors_page import NOT_FOR_PEERS, PAGE, renew


def test_the_table_is_that_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert renew(text) == text, "renew it: python -m tools.errors_page"


def test_exceptions_that_are_left_out_exist() -> None:
    assert set(vars(exceptions)) >= NOT_FOR_PEERS
