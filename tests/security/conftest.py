"""`target`: what a test attacks, with everything checked that has to hold afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..transports.conftest import certificate
from .target import House, Target
from .watch import Street, watching

__all__ = ["certificate"]


@pytest.fixture(scope="session")
def street(certificate: Path) -> Iterator[Street]:
    if sys.platform != "linux":
        pytest.skip("what a server holds is read from /proc, which only Linux has")
    opened = Street(certificate)
    yield opened
    opened.close()


@pytest.fixture
def target(house: House) -> Iterator[Target]:
    """The server of the file's `house`, see `targets`. After the test nothing of the attack may be left."""
    with watching(house) as attacked:
        yield attacked
