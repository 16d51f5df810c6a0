"""The report of a benchmark: rows, as a table of text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

HEADERS: Final = ("row", "what", "measured", "against", "ratio", "bar", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured claim. `met` is None where there is no bar, or the row could not run (`note` has the reason)."""

    name: str
    what: str
    value: float | None = None
    unit: str = ""
    against: str = ""
    against_value: float | None = None
    ratio: float | None = None
    bar: str = "report"
    met: bool | None = None
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        met = {True: "yes", False: "NO", None: "-"}[self.met]
        against = " ".join(part for part in (self.against, number(self.against_value)) if part)
        measured = f"{number(self.value)} {self.unit}".strip() or "not run"
        return (self.name, self.what, measured, against, number(self.ratio), self.bar, met)


def not_run(name: str, what: str, reason: str, bar: str = "report") -> Row:
    return Row(name=name, what=what, bar=bar, note=f"not run: {reason}")


def number(value: float | None) -> str:
    """Four significant digits, without an exponent."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.4g}"


def render(rows: Sequence[Row]) -> str:
    """A Markdown table, its columns aligned for the terminal; notes follow it, one line for each."""
    lines = [HEADERS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADERS))]
    text = [_line(HEADERS, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    text += [_line(row.cells, widths) for row in rows]
    notes = [f"{row.name}: {row.note}" for row in rows if row.note]
    return "\n".join([*text, *([""] if notes else []), *notes])


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    return [asdict(row) for row in rows]
