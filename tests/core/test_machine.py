"""The engine against the reference: see `README.md` in the folder above."""

from __future__ import annotations

import pytest

from .machine import EngineMachine

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

TestEngine = EngineMachine.TestCase
