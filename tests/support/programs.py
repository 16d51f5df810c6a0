"""Programs that some tests need and a fresh machine does not have."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

DEBIAN_PACKAGES = {
    "cc": "gcc libc6-dev",
    "chromium": "chromium",
    "nginx": "nginx",
    "node": "nodejs npm",
    "redis-server": "redis-server",
}


def need(program: str) -> str:
    """The path of `program`; where it is missing the test is skipped, or fails where CI=true promises it."""
    path = shutil.which(program)
    if path is None:
        go_without(f"{program} is not installed; on Debian: apt install {DEBIAN_PACKAGES[program]}")
    return path


def go_without(reason: str) -> NoReturn:
    """Skip the test, or fail it where CI=true promises that nothing is missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
