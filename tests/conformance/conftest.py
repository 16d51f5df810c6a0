"""Runs every test of this folder for each transport."""

from __future__ import annotations

import pytest

from .client import Door
from .doors import DOORS


@pytest.fixture(params=[pytest.param(door, id=door.name) for door in DOORS])
def door(request: pytest.FixtureRequest) -> Door:
    chosen: Door = request.param
    return chosen
