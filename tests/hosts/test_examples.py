"""The source of the examples: short, with public names only, and all of them in `docs/hosts.md`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import analytics_hub

from ..project.layout import ROOT, source_files
from .pairs import EXAMPLES, HOSTS, NATIVE, PAIRS, SERVERS

FILES = sorted(EXAMPLES.glob("*.py"))
PUBLIC = {f"analytics_hub.{name}" for name in ("auth", "client", "transports.asgi", "transports.websocket")}
LONGEST = {"flask_app": 65, "rows_then_live": 50}
FRAMEWORKS = {
    *("aiohttp", "channels", "django", "fastapi", "flask", "litestar", "quart", "quart_trio", "starlette"),
    *("daphne", "granian", "hypercorn", "httpx", "twisted", "uvicorn", "websockets"),
}


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """The names that a file imports from `analytics_hub`, with their modules."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("analytics_hub"):
            for alias in node.names:
                yield node.module or "", alias.name
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("analytics_hub") for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_short_and_imports_public_names(path: Path) -> None:
    text = path.read_text("utf-8")
    docstring = ast.get_docstring(ast.parse(text))

    assert len(text.splitlines()) < LONGEST.get(path.stem, 40)
    assert docstring is not None
    assert path.stem in docstring, "the command that starts it"
    for module, name in imported(path):
        assert name in analytics_hub.__all__ if module == "analytics_hub" else module in PUBLIC


def test_every_host_and_every_server_is_tested() -> None:
    assert {pair.host for pair in PAIRS} == set(HOSTS)
    assert {pair.server for pair in PAIRS} == {*SERVERS, NATIVE}


def test_the_page_shows_every_example() -> None:
    page = (ROOT / "docs" / "hosts.md").read_text("utf-8")

    assert set(re.findall(r"\(\.\./examples/(\w+\.py)\)", page)) == {path.name for path in FILES}


def test_the_package_imports_no_framework() -> None:
    modules = [name for name in source_files() if not name.endswith("__main__")]
    script = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
print(*sorted({FRAMEWORKS!r} & set(sys.modules)))
"""

    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert run.stdout.split() == []
