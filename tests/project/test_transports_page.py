"""`docs/transports.md` shows what the transports declare of themselves."""

from __future__ import annotations

import importlib

from analytics_hub.transports._abilities import Abilities, render

from .layout import ROOT, source_files

PAGE = ROOT / "docs" / "transports.md"


def declared() -> dict[str, Abilities]:
    found: dict[str, Abilities] = {}
    for name in source_files():
        if ".transports." in name:
            abilities = getattr(importlib.import_module(name), "ABILITIES", None)
            if abilities is not None:
                found[abilities.transport] = abilities
    return found


def test_the_table_of_abilities_is_that_of_the_transports() -> None:
    """Where it fails, what it expected belongs between the two marks of the page."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- abilities -->\n")
    table, _, _ = rest.partition("\n<!-- end -->")

    assert table == render(declared().values())
