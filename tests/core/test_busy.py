"""Busy cohorts against the reference."""

from __future__ import annotations

import pytest

from .busy import BusyMachine

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

TestBusyEngine = BusyMachine.TestCase
