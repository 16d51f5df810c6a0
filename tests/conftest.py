"""What every test shares: the event loops that async tests run on, and how hard the property tests search."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How fast the machine is says nothing about the code: no deadlines, no complaint about slow generation.
_CALM: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=100, **_CALM)
# The same examples at every run, and a failure prints the line that reproduces it.
settings.register_profile("ci", max_examples=100, derandomize=True, print_blob=True, **_CALM)
# For a night: `HYPOTHESIS_PROFILE=long python3 dev.py test -k machine`.
settings.register_profile("long", max_examples=20_000, stateful_step_count=200, print_blob=True, **_CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev"))

# A shell starts what is to run in the background with SIGINT ignored, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Backend = tuple[str, dict[str, Any]]
BACKENDS: dict[str, Backend] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "asyncio+uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
if sys.platform == "win32":
    del BACKENDS["asyncio+uvloop"]


# Module scope, as in anyio's own fixture: a narrower one could not serve async fixtures of a module.
@pytest.fixture(scope="module", params=[pytest.param(backend, id=name) for name, backend in BACKENDS.items()])
def anyio_backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend
