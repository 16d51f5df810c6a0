"""What the suite has found: its `index.json`, judged strictly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

AGENT: Final = "analytics-hub"
"""What the suite knows the server by."""
SECTIONS: Final = {
    1: "Framing",
    2: "Pings and pongs",
    3: "Reserved bits",
    4: "Opcodes",
    5: "Fragmentation",
    6: "UTF-8",
    7: "Closing",
    9: "Limits",
    10: "Fragments made by the sender",
    12: "Compression: payloads",
    13: "Compression: parameters",
}
UNJUDGED: Final = frozenset({"7.1.6", "7.13.1", "7.13.2"})
"""Cases on which the suite has no opinion, whatever the server does: it calls them informational."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The suite's words on one case: what was exchanged, and how it was closed."""

    case: str
    behavior: str
    closing: str
    sentence: str

    @property
    def section(self) -> int:
        return int(self.case.partition(".")[0])

    @property
    def is_strict(self) -> bool:
        wanted = "INFORMATIONAL" if self.case in UNJUDGED else "OK"
        return self.behavior == self.closing == wanted

    def __str__(self) -> str:
        return f"{self.case}: {self.behavior}, closing {self.closing}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Report:
    """All verdicts of a run, in the order of the suite, and what else went wrong."""

    verdicts: tuple[Verdict, ...]
    accidents: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, count: int, accidents: Iterable[str] = ()) -> Self:
        """What the suite has written into `folder` about `count` cases."""
        index = folder / "index.json"
        cases = json.loads(index.read_text()).get(AGENT, {}) if index.exists() else {}
        ordered = sorted(cases, key=lambda case: [int(part) for part in case.split(".")])
        missing = [f"{len(cases)} cases were judged, and not {count}"] if len(cases) != count else []
        return cls(tuple(_read_verdict(folder, case, cases[case]) for case in ordered), (*missing, *accidents))

    @property
    def weak(self) -> tuple[Verdict, ...]:
        """Those that are not strict."""
        return tuple(verdict for verdict in self.verdicts if not verdict.is_strict)

    @property
    def faults(self) -> list[str]:
        return [*self.accidents, *map(str, self.weak)]

    def table(self) -> str:
        cases = Counter(verdict.section for verdict in self.verdicts)
        strict = Counter(verdict.section for verdict in self.verdicts if verdict.is_strict)
        rows = [f"| {section} | {SECTIONS[section]} | {cases[section]} | {strict[section]} |" for section in cases]
        head = ["| section | what | cases | strict |", "|---|---|---|---|"]
        return "\n".join([*head, *rows, f"| | | {cases.total()} | {strict.total()} |"])


def _read_verdict(folder: Path, case: str, entry: dict[str, str]) -> Verdict:
    behavior, closing = entry["behavior"], entry["behaviorClose"]
    details = json.loads((folder / entry["reportfile"]).read_text())
    return Verdict(case, behavior, closing, " ".join(filter(None, [details["result"], details["resultClose"]])))
