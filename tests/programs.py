"""Programs that some tests need and a fresh machine does not have."""

from __future__ import annotations

import os
import shutil

import pytest

DEBIAN_PACKAGES = {
    "cc": "gcc libc6-dev",
    "chromium": "chromium",
    "redis-server": "redis-server",
}


def need(program: str) -> str:
    """The path of `program`; where it is missing the test is skipped, or fails where CI=true promises it."""
    path = shutil.which(program)
    if path is not None:
        return path
    sentence = f"{program} is not installed; on Debian: apt install {DEBIAN_PACKAGES[program]}"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)
