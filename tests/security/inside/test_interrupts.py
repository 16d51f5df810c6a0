"""C10: Ctrl-C at any moment ends a program without a warning, a traceback or an open descriptor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ...conftest import BACKENDS
from ...project.layout import ROOT


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")  # noqa: PTH112
@pytest.mark.parametrize("backend", BACKENDS)
def test_c10_ctrl_c_at_any_moment_ends_a_program_cleanly(backend: str) -> None:
    """With all warnings of Python and asyncio enabled, each of them an error."""
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", f"{__package__}.interrupted", backend],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ran.stderr == ""
    assert ran.returncode == 0
    waits, lines = map(int, ran.stdout.split())
    assert waits > 20
    assert lines > 20
