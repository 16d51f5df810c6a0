"""The results of the suite: its `index.json`, read strictly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

AGENT: Final = "analytics-hub"
"""The name of the server in the report of the suite."""
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
INFORMATIONAL: Final = frozenset({"7.1.6", "7.13.1", "7.13.2"})
"""Cases with the verdict informational, whatever the server does."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of the suite on one case: on the exchange, and on its close."""

    case: str
    behavior: str
    closing: str
    text: str

    @property
    def section(self) -> int:
        return int(self.case.partition(".")[0])

    @property
    def is_strict(self) -> bool:
        wanted = "INFORMATIONAL" if self.case in INFORMATIONAL else "OK"
        return self.behavior == self.closing == wanted

    def __str__(self) -> str:
        return f"{self.case}: {self.behavior}, closing {self.closing}: {self.text}"


@dataclass(frozen=True, slots=True)
class Report:
    """All verdicts of a run, in the order of the suite, and other failures of it."""

    verdicts: tuple[Verdict, ...]
    failures: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, count: int, failures: Iterable[str] = ()) -> Self:
        """The report that the suite has written into `folder`, of `count` cases."""
        index = folder / "index.json"
        cases = json.loads(index.read_text()).get(AGENT, {}) if index.exists() else {}
        ordered = sorted(cases, key=lambda case: [int(part) for part in case.split(".")])
        missing = [f"{len(cases)} cases have a verdict; there must be {count}"] if len(cases) != count else []
        return cls(tuple(_read_verdict(folder, case, cases[case]) for case in ordered), (*missing, *failures))

    @property
    def weak(self) -> tuple[Verdict, ...]:
        """The verdicts that are not strict."""
        return tuple(verdict for verdict in self.verdicts if not verdict.is_strict)

    @property
    def faults(self) -> list[str]:
        return [*self.failures, *map(str, self.weak)]

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
