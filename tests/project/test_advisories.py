"""No dependency admits a version with a known vulnerability: neither a floor, nor a pin, nor this environment."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution, distributions
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from .layout import ROOT


class Advisory(NamedTuple):
    id: str
    package: str
    affected: SpecifierSet
    what: str


def _read() -> Iterator[Advisory]:
    for entry in tomllib.loads((ROOT / "tests/project/advisories.toml").read_text("utf-8"))["advisory"]:
        yield Advisory(entry["id"], entry["package"], SpecifierSet(entry["affected"]), entry["what"])


PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADVISORIES = list(_read())
BY_ID = pytest.mark.parametrize("advisory", ADVISORIES, ids=[advisory.id for advisory in ADVISORIES])


def required() -> list[Requirement]:
    """The requirements of the base install, of the extras, and of wsproto."""
    extras: dict[str, list[str]] = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for extra in extras.values() for text in extra)]
    # h11 comes with wsproto. (pyjwt[crypto] accepts any cryptography, so our extra has a floor of its own.)
    return [Requirement(text) for text in (*texts, *(distribution("wsproto").requires or ()))]


@BY_ID
def test_no_floor_admits_an_affected_version(advisory: Advisory) -> None:
    requirements = [
        requirement for requirement in required() if canonicalize_name(requirement.name) == advisory.package
    ]
    assert requirements, f"{advisory.package} is not required: remove the advisory"

    floors = [
        Version(one.version) for requirement in requirements for one in requirement.specifier if one.operator == ">="
    ]

    assert floors, f"{advisory.package} has no floor"
    assert max(floors) not in advisory.affected
    assert not any(version >= max(floors) for version in _named(advisory)), "a later version is affected"


@BY_ID
def test_no_affected_version_is_pinned(advisory: Advisory) -> None:
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line):
            assert canonicalize_name(match[1]) != advisory.package or match[2] not in advisory.affected


@BY_ID
def test_no_affected_version_is_installed(advisory: Advisory) -> None:
    for found in distributions():
        assert canonicalize_name(found.name) != advisory.package or found.version not in advisory.affected


def _named(advisory: Advisory) -> list[Version]:
    """The last versions of the range, where it names them."""
    return [Version(one.version) for one in advisory.affected if one.operator in ("==", "<=")]
