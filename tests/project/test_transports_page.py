"""`docs/transports.md` has the table of what the transports can do."""

from __future__ import annotations

from ..conformance.abilities import render
from .layout import ROOT

PAGE = ROOT / "docs" / "transports.md"


def test_the_table_of_abilities_is_current() -> None:
    """If it fails, put the expected text between the two marks of the page."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- abilities -->\n")
    table, _, _ = rest.partition("\n<!-- end -->")

    assert table == render()
