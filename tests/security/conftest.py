"""The fixture `target`: the attacked server, and the checks after each attack."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..transports.conftest import certificate
from .environment import Environments, monitored
from .target import Environment, Target

__all__ = ["certificate"]


@pytest.fixture(scope="session")
def environments(certificate: Path) -> Iterator[Environments]:
    if sys.platform != "linux":
        pytest.skip("the resources of a server are read from /proc, which only Linux has")
    opened = Environments(certificate)
    yield opened
    opened.close()


@pytest.fixture
def target(environment: Environment) -> Iterator[Target]:
    """The server of the file's `environment`, see `targets`. After the test nothing of the attack may be left."""
    with monitored(environment) as attacked:
        yield attacked
