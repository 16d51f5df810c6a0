"""`docs/testing.md`: every snippet runs as it stands there, in a project of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

import pytest

from ..project.layout import ROOT

PAGE: Final = ROOT / "docs" / "testing.md"
SNIPPET: Final = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS: Final[dict[str, str]] = dict(SNIPPET.findall(PAGE.read_text("utf-8")))
HAS_ASYNCIO_PLUGIN: Final = importlib.util.find_spec("pytest_asyncio") is not None
TESTS: Final = sorted(name for name in SNIPPETS if name.startswith("test_"))

MISTAKES: Final = {
    "conftest.py": """
from pathlib import Path
import pytest

@pytest.fixture
def hub():
    from app import hub
    return hub
""",
    "test_mistakes.py": """
from app import hub

def test_too_few(assert_published):
    hub.publish("alerts", {"id": 8})
    assert_published("alerts", {"id": 7})

def test_nothing_comes(live_hub, blocking_live_client):
    blocking_live_client("alerts").next(timeout=0.01)

def test_nothing_runs(blocking_live_client):
    blocking_live_client("alerts")
""",
    "other/conftest.py": """
import pytest

@pytest.fixture
def hub():
    return None
""",
    "other/test_other.py": "def test_other(assert_published): pass",
}


def run_pytest(folder: Path, files: dict[str, str]) -> tuple[dict[str, str], str]:
    """The outcome of each test ("" or why it did not pass), by its class and name; and what pytest has printed."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = ["-m", "pytest", "-p", "pytest_analytics_hub", "-p", "no:cacheprovider", "-q", "--junitxml=report.xml"]
    run = subprocess.run(
        [sys.executable, *command, "-W", "ignore::DeprecationWarning", "-c", os.devnull, "--rootdir", str(folder)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    outcomes = {}
    for case in ET.parse(folder / "report.xml").iter("testcase"):
        troubles = [f"{trouble.get('message')}\n{trouble.text}" for trouble in case if trouble.tag != "system-out"]
        outcomes[f"{case.get('classname')}.{case.get('name')}"] = "\n".join(troubles)
    return outcomes, run.stdout + run.stderr


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    able = {name: text for name, text in SNIPPETS.items() if HAS_ASYNCIO_PLUGIN or "pytest_asyncio" not in name}
    return run_pytest(tmp_path_factory.mktemp("testing"), able)[0]


@pytest.mark.parametrize("name", TESTS)
def test_a_snippet_runs(name: str, outcomes: dict[str, str]) -> None:
    if "pytest_asyncio" in name and not HAS_ASYNCIO_PLUGIN:
        pytest.skip("needs pytest-asyncio")
    module = name.removesuffix(".py")
    found = {case: outcome for case, outcome in outcomes.items() if case.split(".")[0] == module}

    assert len(found) == SNIPPETS[name].count("def test_")
    assert set(found.values()) == {""}, found


def test_every_python_snippet_of_the_page_is_a_file() -> None:
    assert len(SNIPPETS) == PAGE.read_text("utf-8").count("```python")
    assert len(TESTS) == len(SNIPPETS) - 2


def test_mistakes_are_reported_in_sentences(tmp_path: Path) -> None:
    outcomes, _ = run_pytest(tmp_path, {"app.py": SNIPPETS["app.py"]} | MISTAKES)
    few, nothing, runs, other = (outcome for _, outcome in sorted(outcomes.items(), key=_by_name))

    assert "0 items were published to 'alerts' with {'data': {'id': 7}}; expected at least 1. Published in all:" in few
    assert "PublishedItem(channel='alerts', data={'id': 8}" in few
    assert "no further item within 0.01 s; received so far: []" in nothing
    assert "the hub is not running; the fixture `live_hub`, a TestClient or `async with hub:` runs it" in runs
    assert "assert_published needs a fixture named `hub`" in other or "published needs a fixture named `hub`" in other


def _by_name(outcome: tuple[str, str]) -> int:
    order = ("too_few", "nothing_comes", "nothing_runs", "other")
    return next(place for place, name in enumerate(order) if outcome[0].endswith(name))


def test_the_plugin_costs_nothing_where_it_is_not_used() -> None:
    imports = "import pytest; before = set(sys.modules); import pytest_analytics_hub"
    script = f"import sys; {imports}; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert run.stdout.split() == ["pytest_analytics_hub"]
