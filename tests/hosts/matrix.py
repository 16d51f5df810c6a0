"""The table of hosts and servers in `docs/hosts.md`, which is generated from the results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..project.layout import ROOT
from .pairs import PAIRS, Pair
from .probe import CHECKS, ENDED, LOGGED

PAGE: Final = ROOT / "docs" / "hosts.md"
COLUMNS: Final = (*CHECKS, LOGGED, ENDED)
_SECTION: Final = re.compile(r"(?<=<!-- seen by tests/hosts -->\n).*?(?=<!-- end -->)", re.DOTALL)


def row(pair: Pair, answers: Mapping[str, str]) -> str:
    cells = [pair.host.name, pair.server, *(answers.get(column, "?") for column in COLUMNS)]
    return f"| {' | '.join(cells)} |\n"


def table(answers: Mapping[Pair, Mapping[str, str]]) -> str:
    head = ["host", "server", *COLUMNS]
    lines = [f"| {' | '.join(head)} |\n", f"|{'---|' * len(head)}\n"]
    return "".join([*lines, *(row(pair, answers[pair]) for pair in PAIRS)])


def committed() -> str:
    """The table in the page."""
    found = _SECTION.search(PAGE.read_text("utf-8"))
    assert found is not None, f"{PAGE} has no markers"
    return found[0]


def rewrite(text: str) -> None:
    PAGE.write_text(_SECTION.sub(lambda _: text, PAGE.read_text("utf-8")), "utf-8")
