"""Every name that is counted is in `COUNTERS`, and every name in `COUNTERS` is counted."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator

from analytics_hub.telemetry import COUNTERS, level_of

from ..project.layout import source_files

WORDS = {name for name in COUNTERS if "-" not in name}
COUNTING = {"count", "_count", "note", "_note", "fault", "_fault", "report_fault", "give_up"}
"""Functions that are given the name of a counter first."""


def counted() -> Iterator[ast.expr]:
    """Every expression in the package for the name of a counter."""
    for path in source_files().values():
        for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in COUNTING:
                yield from node.args[:1]
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "counter":  # of an exception
                yield node.value
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
            elif isinstance(part, ast.Constant) and isinstance(part.value, str) and is_name(part.value):
                found.add(part.value)
    return found


def is_name(text: str) -> bool:
    return text in WORDS or ("-" in text and " " not in text and not text.endswith("-"))


def test_the_counters_are_those_that_are_counted() -> None:
    assert names() == set(COUNTERS)


def test_only_events_that_need_attention_are_warnings() -> None:
    assert level_of("overloaded") == level_of("limited-address") == logging.WARNING
    assert level_of("protocol-fault") == level_of("handshake-timeout") == logging.INFO
