"""Every row of the catalogue in docs/security.md has a test that is named after it, and the reverse."""

from __future__ import annotations

import re

from ..project.layout import ROOT

_ROW = re.compile(r"^\| ([A-Z]\d\d) \|", re.MULTILINE)
_TEST = re.compile(r"^(?:async )?def test_((?:[a-z]\d\d_)+)", re.MULTILINE)  # of one row or several


def test_the_page_lists_exactly_the_tested_attacks() -> None:
    rows = _ROW.findall((ROOT / "docs/security.md").read_text("utf-8"))
    names = [name for path in (ROOT / "tests").rglob("test_*.py") for name in _TEST.findall(path.read_text("utf-8"))]
    tests = {row.upper() for name in names for row in name.strip("_").split("_")}

    assert len(rows) == len(set(rows))
    assert set(rows) == tests
