"""Runs every test of this folder for each transport."""

from __future__ import annotations

import pytest

from .client import TransportUnderTest
from .harness import TRANSPORTS


@pytest.fixture(params=[pytest.param(transport, id=transport.name) for transport in TRANSPORTS])
def transport(request: pytest.FixtureRequest) -> TransportUnderTest:
    chosen: TransportUnderTest = request.param
    return chosen
