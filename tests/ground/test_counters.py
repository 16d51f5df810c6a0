"""What is counted has a name in `COUNTERS`, and what has a name there is counted."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator

from analytics_hub.telemetry import COUNTERS, level_of

from ..project.layout import source_files

WORDS = {name for name in COUNTERS if "-" not in name}
COUNTING = {"count", "_count", "note", "_note", "fault", "give_up"}


def counted() -> Iterator[ast.expr]:
    """Everything that the package hands to a counter as its name."""
    for path in source_files().values():
        for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in COUNTING:
                yield from node.args[:1]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
                yield from node.args[4:]
                yield from (keyword.value for keyword in node.keywords if keyword.arg == "counter")
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("counters"):
                yield node.slice
            elif isinstance(node, ast.FunctionDef) and node.name == "_kind":
                yield from (part for part in ast.walk(node) if isinstance(part, ast.Constant))


def names() -> set[str]:
    found = set()
    for node in counted():
        for part in ast.walk(node):
            if isinstance(part, ast.JoinedStr) and isinstance(part.values[0], ast.Constant):
                prefix = str(part.values[0].value)
                members = {name for name in COUNTERS if name.startswith(prefix)}
                assert members, prefix
                found |= members
            elif isinstance(part, ast.Constant) and isinstance(part.value, str) and looks_like_one(part.value):
                found.add(part.value)
    return found


def looks_like_one(text: str) -> bool:
    return text in WORDS or ("-" in text and " " not in text and not text.endswith("-"))


def test_the_names_of_counters_are_a_closed_set() -> None:
    assert names() == set(COUNTERS)


def test_what_somebody_should_look_at_is_a_warning() -> None:
    assert level_of("overloaded") == level_of("limited-address") == logging.WARNING
    assert level_of("protocol-fault") == level_of("handshake-timeout") == logging.INFO
