"""Every way to install the package gives the same modules, and nothing else.

The folder `transports/` is mapped into the package by the build and linked into it in the checkout. These tests work
on copies, offline, with the setuptools and the dependencies of the environment that runs them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement

from .layout import PACKAGE, ROOT, source_files

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VERSION: str = PROJECT["project"]["version"]
BASE = {"anyio", "msgspec", "pyjwt", "wsproto"}

# Modules that need a package beyond the base install; they are imported only where it is in use.
NEEDING_MORE = {"analytics_hub.transports._asgi.sender_trio": "trio"}

PROBE = """
import importlib, importlib.resources, importlib.util, json, pkgutil
import analytics_hub

modules, broken = [], {}
for found in pkgutil.walk_packages(analytics_hub.__path__, "analytics_hub."):
    modules.append(found.name)
    if found.name != "analytics_hub.__main__":
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            broken[found.name] = error.name
folders = ("transports", "tests", "benchmarks", "docs", "examples", "dev")
files = importlib.resources.files("analytics_hub")
listing = [path.name for folder in (files, files / "demo") for path in folder.iterdir()]
print(json.dumps({
    "transports": analytics_hub.transports.__path__[0],
    "modules": sorted(modules),
    "broken": broken,
    "data": [name for name in listing if name.endswith((".typed", ".html"))],
    "leaked": [name for name in folders if importlib.util.find_spec(name)],
}))
"""


class Place(NamedTuple):
    """An environment with the package, and the folder in which its commands run."""

    python: Path
    cwd: Path

    def run(self, *arguments: str) -> str:
        return run(self.python, *arguments, cwd=self.cwd)

    def probe(self) -> dict[str, Any]:
        return _probe(self)


@cache
def _probe(place: Place) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(place.run("-c", PROBE))
    return seen


def run(*command: object, cwd: Path, **environment: str) -> str:
    """The output of a command that must succeed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | {"UV_OFFLINE": "1", "UV_NO_CACHE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def with_dependencies(name: str) -> Iterator[Distribution]:
    """The installed distribution `name` and its dependencies, without extras."""
    found = distribution(name)
    yield found
    for line in found.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from with_dependencies(requirement.name)


def copy_distributions(target: Path, *names: str) -> Path:
    for name in names:
        for found in with_dependencies(name):
            for file in found.files or ():
                if ".." not in file.parts and file.suffix != ".pyc":
                    (target / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file.locate(), target / file)
    return target


class Workshop:
    """Builds and installs in a temporary folder, with `uv`, which is faster than pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dependencies = copy_distributions(folder / "dependencies", *BASE)
        self.build_tools = copy_distributions(folder / "build-tools", "setuptools")
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()

    def checkout(self, name: str) -> Path:
        unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "node_modules")
        return Path(shutil.copytree(ROOT, self.folder / name, symlinks=True, ignore=unwanted))

    def environment(self, name: str, *install: object) -> Place:
        """A new virtual environment with the base dependencies, and with `install`, arguments of `uv pip install`."""
        home = self.folder / name
        self.uv("venv", "--quiet", "--python", sys.executable, home)
        python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
        (site / "dependencies.pth").write_text(f"{self.dependencies}\n")
        if install:
            self.uv("pip", "install", "--no-deps", "--no-build-isolation", "--python", python, *install)
        return Place(python, self.elsewhere)

    def uv(self, *arguments: object) -> None:
        run(sys.executable, "-m", "uv", *arguments, cwd=self.folder, PYTHONPATH=str(self.build_tools))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("packaging"))


@pytest.fixture(scope="session")
def checkout(workshop: Workshop) -> Place:
    """A fresh clone in which the commands run, with nothing installed."""
    return Place(workshop.environment("env-checkout").python, workshop.checkout("checkout"))


@pytest.fixture(scope="session")
def installed(workshop: Workshop) -> Place:
    """`pip install .`"""
    return workshop.environment("env-installed", workshop.checkout("to-install"))


@pytest.fixture(scope="session")
def editable(workshop: Workshop) -> Place:
    """`pip install -e .`"""
    return workshop.environment("env-editable", "-e", workshop.checkout("to-edit"))


@pytest.fixture(scope="session")
def sdist(workshop: Workshop) -> Path:
    out = workshop.folder / "dist"
    workshop.uv("build", "--quiet", "--sdist", "--no-build-isolation", "--out-dir", out, workshop.checkout("to-pack"))
    (archive,) = out.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="session")
def wheel(workshop: Workshop, sdist: Path) -> Path:
    """The wheel that is built from the sdist."""
    out = workshop.folder / "wheels"
    workshop.uv("build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", out, sdist)
    (archive,) = out.glob("*.whl")
    return archive


@pytest.fixture(scope="session")
def from_sdist(workshop: Workshop, wheel: Path) -> Place:
    return workshop.environment("env-sdist", wheel)


@pytest.fixture(scope="session")
def without_links(workshop: Workshop) -> Place:
    """`pip install .` where git cannot create links, and writes a file with the target of the link instead."""
    source = workshop.checkout("to-install-without-links")
    (source / PACKAGE / "transports").unlink()
    (source / PACKAGE / "transports").write_text("../transports")
    return workshop.environment("env-without-links", source)


@pytest.fixture(params=["checkout", "installed", "editable", "from_sdist", "without_links"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


def test_the_list_of_packages_is_complete() -> None:
    packages = {module for module, path in source_files().items() if path.name == "__init__.py"}

    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


@pytest.mark.parametrize("way", ["installed", "editable", "from_sdist", "without_links"])
def test_an_installation_has_the_pytest_plugin_which_costs_other_projects_nothing(
    way: str, request: pytest.FixtureRequest
) -> None:
    place: Place = request.getfixturevalue(way)
    stub = place.cwd / "stub"
    stub.mkdir(exist_ok=True)
    (stub / "pytest.py").write_text("fixture = lambda function: function\n")
    script = f"""
import sys
from importlib.metadata import entry_points

sys.path.insert(0, {str(stub)!r})
(found,) = [entry for entry in entry_points(group="pytest11") if "analytics" in entry.name]
print(found.load().__name__, found.name, "analytics_hub" in sys.modules)
"""

    assert place.run("-c", script).split() == ["pytest_analytics_hub", "pytest_analytics_hub", "False"]


def test_every_installation_has_the_same_modules(place: Place) -> None:
    seen = place.probe()

    assert seen["modules"] == sorted(source_files().keys() - {PACKAGE})
    assert seen["broken"].items() <= NEEDING_MORE.items()


def test_every_installation_has_the_data_files(place: Place) -> None:
    pages = {path.name for path in (ROOT / PACKAGE / "demo").glob("*.html")}

    assert set(place.probe()["data"]) == pages | {"py.typed"}


def test_every_installation_has_the_command(place: Place) -> None:
    assert "demo" in place.run("-m", PACKAGE, "--help")


@pytest.mark.parametrize("way", ["installed", "editable", "from_sdist", "without_links"])
def test_an_installation_adds_one_package_and_one_command(way: str, request: pytest.FixtureRequest) -> None:
    place: Place = request.getfixturevalue(way)

    assert place.probe()["leaked"] == []
    assert "demo" in run(place.python.parent / "analytics-hub", "--help", cwd=place.cwd)


def test_an_editable_installation_has_a_new_file_at_once(editable: Place) -> None:
    folder = Path(editable.probe()["transports"])

    (folder / "novelty.py").write_text("NEWS = 1\n")

    try:
        assert editable.run("-c", "from analytics_hub.transports import novelty; print(novelty.NEWS)") == "1\n"
    finally:
        (folder / "novelty.py").unlink()


def test_the_wheel_has_the_package_and_the_pytest_plugin_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    assert {name.partition("/")[0] for name in names} == {
        PACKAGE,
        "pytest_analytics_hub.py",
        f"analytics_hub-{VERSION}.dist-info",
    }


def test_the_base_install_needs_four_packages(installed: Place) -> None:
    script = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('analytics-hub')))"
    requirements = [Requirement(line) for line in json.loads(installed.run("-c", script))]

    assert {each.name for each in requirements if each.marker is None} == BASE
    assert all(each.marker is None or "extra" in str(each.marker) for each in requirements)


@pytest.mark.parametrize("way", ["checkout", "installed", "from_sdist"])
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_see_the_same_modules(way: str, checker: str, request: pytest.FixtureRequest) -> None:
    """Editable installs are left out: checkers cannot see through setuptools' import hook (`CONTRIBUTING.md`)."""
    program = shutil.which(checker, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"{checker} is not installed; to get it: python3 dev.py lint")
    place: Place = request.getfixturevalue(way)
    missing = f"{PACKAGE}.nowhere"
    script = place.cwd / f"imports_{checker}.py"
    script.write_text("".join(f"import {module}\n" for module in [*source_files(), missing]))
    options = {
        "mypy": ["--strict", "--follow-imports=skip", "--cache-dir", os.devnull, "--python-executable"],
        "pyright": ["--pythonpath"],
    }
    command = [program, *options[checker], str(place.python), script.name]

    done = subprocess.run(command, cwd=place.cwd, capture_output=True, text=True, check=False)

    errors = [line for line in done.stdout.splitlines() if "error:" in line or "- error" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert missing in errors[0]
