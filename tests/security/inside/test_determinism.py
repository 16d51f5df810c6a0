"""C11: the same calls give the same bytes, to the same clients, in the same order, for any seed of the hashes."""

from __future__ import annotations

import os
import subprocess
import sys

from ...project.layout import ROOT


def trace(seed: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", f"{__package__}.trace"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return ran.stdout


def test_c11_the_seed_of_hashes_changes_nothing() -> None:
    traces = {trace(seed) for seed in ("1", "4711")}

    assert len(traces) == 1
    assert int(traces.pop().split()[1]) > 10_000
