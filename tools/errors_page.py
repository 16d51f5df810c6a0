"""The table of exceptions in `docs/protocol.md`: `python -m tools.errors_page` makes it from the code."""

from __future__ import annotations

import inspect
from typing import Final

from analytics_hub import exceptions
from analytics_hub.exceptions import HubError
from tests.project.layout import ROOT

PAGE: Final = ROOT / "docs" / "protocol.md"
NOT_FOR_PEERS: Final = frozenset({"HubError", "HubOverloaded", "KeySetError"})
"""The base, and exceptions that only the application gets: in other threads, and from a key set."""
_START: Final = "<!-- errors -->\n"
_END: Final = "<!-- end -->"


def peer_errors() -> list[type[HubError]]:
    """The exceptions that a peer can be answered with, in the order of their module."""
    classes = [each for each in vars(exceptions).values() if isinstance(each, type) and issubclass(each, HubError)]
    return [each for each in classes if each.__name__ not in NOT_FOR_PEERS]


def render() -> str:
    head = "| exception | when | HTTP | close code | `$error` |"
    return "\n".join([head, "|---" * 5 + "|", *map(_row, peer_errors())])


def _row(error: type[HubError]) -> str:
    when, _, _ = (inspect.getdoc(error) or "").partition("\n")
    cells = [
        f"`{error.__name__}`",
        when.partition(". ")[0].removesuffix("."),
        f"{error.http_status:d} `{error.http_code}`",
        f"{error.close_code:d}" if _has_own(error, "close_code") else "",
        f"`{error.error_code}`" if _has_own(error, "error_code") else "",
    ]
    return "| " + " | ".join(cells) + " |"


def _has_own(error: type[HubError], code: str) -> bool:
    """Whether a class other than `HubError` sets the code; without, no peer is answered in this way."""
    return any(code in vars(each) for each in error.__mro__[: error.__mro__.index(HubError)])


def renew(text: str) -> str:
    """The page with the table between its marks as the code has it."""
    before, start, rest = text.partition(_START)
    _, end, after = rest.partition(_END)
    assert start, f"{PAGE} has no mark for the start of the table"
    assert end, f"{PAGE} has no mark for the end of the table"
    return f"{before}{start}{render()}\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(renew(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
