"""Imports point one way, and the core imports nothing that has a clock, a thread or a socket."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

import pytest

import analytics_hub

from .layout import PACKAGE, ROOT, source_files

FACADE = PACKAGE

# From the ground up: what stands in a line imports only what stands in the same line or above it.
LAYERS = (
    ("channels", "clock", "codes", "exceptions", "identity", "schema", "tuning"),
    ("protocol",),
    ("contracts", "core"),
    ("access", "asyncapi", "auth", "background", "event_loop", "faults", "hooks", "http", "journals", "telemetry"),
    ("hub",),
    ("client", "trading", "transports"),
    (FACADE, "testing"),
    ("cli", "demo", "__main__"),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
PURE = RANK["core"]

# Two modules that know each other by their nature: the first imports the second for type checkers only.
MUTUAL = (("core.session", "core.cohort"),)  # a session has a cohort, a cohort has sessions

# Whatever would give the core a clock, randomness, concurrency, I/O or a log.
FORBIDDEN_IN_CORE = {
    *("asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "sched", "signal", "subprocess", "threading"),
    *("http", "io", "logging", "os", "pathlib", "select", "selectors", "socket", "sqlite3", "ssl", "urllib"),
    *("random", "secrets", "time", "uuid"),
}


class Import(NamedTuple):
    importer: str
    line: int
    imported: str
    at_runtime: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"

    @property
    def arrow(self) -> tuple[str, str]:
        """Importer and imported, below the package."""
        return self.importer.removeprefix(f"{PACKAGE}."), self.imported.removeprefix(f"{PACKAGE}.")


def imports_of(module: str, path: Path, known: Collection[str]) -> Iterator[Import]:
    """Every import in the file of `module`, by absolute name: also those in functions and for type checkers only."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_bytes(), str(path))
    for_checkers = {
        statement
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{name}" if f"{base}.{name}" in known else base for name in names]
        for name in names:
            yield Import(module, node.lineno, name, at_runtime=node not in for_checkers)


FILES = source_files()
IMPORTS = [found for module, path in FILES.items() for found in imports_of(module, path, FILES)]


def part_of(module: str) -> str:
    """The part of the package that a module belongs to, as `LAYERS` names it."""
    return FACADE if module == PACKAGE else module.split(".")[1]


def is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def test_every_module_has_its_place() -> None:
    assert {part_of(module) for module in FILES} <= set(RANK)


def test_imports_point_one_way() -> None:
    upward = [
        str(found)
        for found in IMPORTS
        if is_ours(found.imported) and RANK[part_of(found.imported)] > RANK[part_of(found.importer)]
    ]

    assert upward == []


def test_imports_form_no_circles_not_even_for_type_checkers() -> None:
    graph: dict[str, set[str]] = {module: set() for module in FILES}
    for found in IMPORTS:
        if found.imported in FILES and (found.at_runtime or found.arrow not in MUTUAL):
            graph[found.importer].add(found.imported)

    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("arrow", MUTUAL, ids=" -> ".join)
def test_an_arrow_of_a_circle_is_for_type_checkers_only_and_still_needed(arrow: tuple[str, str]) -> None:
    assert {found.at_runtime for found in IMPORTS if found.arrow == arrow} == {False}


def test_the_lower_layers_import_the_standard_library_and_msgspec_only() -> None:
    allowed = sys.stdlib_module_names | {"msgspec", PACKAGE}
    foreign = [
        str(found)
        for found in IMPORTS
        if RANK[part_of(found.importer)] <= PURE and found.imported.partition(".")[0] not in allowed
    ]

    assert foreign == []


def test_the_core_has_no_clock_and_no_io() -> None:
    impure = [
        str(found)
        for found in IMPORTS
        if part_of(found.importer) == "core" and found.imported.partition(".")[0] in FORBIDDEN_IN_CORE
    ]

    assert impure == []


def test_nothing_is_imported_by_the_name_of_its_folder() -> None:
    """`import transports.x` would work in a checkout and nowhere else, and load a second copy of the module."""
    misled = [str(found) for found in IMPORTS if found.imported.partition(".")[0] in {"transports", "tests"}]

    assert misled == []


def test_no_transport_can_be_imported_without_the_package() -> None:
    modules = [path.stem for path in sorted((ROOT / "transports").glob("*.py")) if not path.stem.startswith("_")]
    script = f"""
import importlib
for name in {modules!r}:
    try:
        importlib.import_module("transports." + name)
    except ImportError:
        continue
    print(name)
"""

    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert modules
    assert run.stdout.split() == []


def test_the_facade_exports_what_it_says() -> None:
    offered = {
        name
        for name, value in vars(analytics_hub).items()
        if not name.startswith("_") and is_ours(getattr(value, "__module__", ""))
    }
    listed = analytics_hub.__all__

    assert [name for name in listed if not hasattr(analytics_hub, name)] == []
    assert set(listed) >= offered
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os.path", "os.path"),
        ("from collections.abc import Sized", "collections.abc"),
        ("from . import memory", "analytics_hub.transports.memory"),
        ("from .. import Hub", "analytics_hub"),
        ("from .. import hub", "analytics_hub.hub"),
        ("from ..hub import Hub", "analytics_hub.hub"),
        ("def late() -> None:\n    import socket", "socket"),
        ("if TYPE_CHECKING:\n    from .memory import Batches", "analytics_hub.transports.memory"),
    ],
)
def test_imports_are_read_right(source: str, expected: str, tmp_path: Path) -> None:
    known = {"analytics_hub.hub", "analytics_hub.transports.memory"}
    sample = tmp_path / "sample.py"
    sample.write_text(source)

    found = list(imports_of("analytics_hub.transports.sample", sample, known))

    assert [one.imported for one in found] == [expected]
    assert found[0].at_runtime is not source.startswith("if")
