"""The engine against the reference: see `README.md` in the folder above."""

from __future__ import annotations

from .machine import EngineMachine

TestEngine = EngineMachine.TestCase
