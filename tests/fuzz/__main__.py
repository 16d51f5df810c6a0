"""The long campaign: every target for minutes, under atheris where it is installed, else under hypothesis.

    python -m tests.fuzz [--target NAME ...] [--seconds S] [--examples N] [--seed N]

A failing input is printed; fix the parser and add the input to `regressions.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
import traceback
from typing import Final

from hypothesis import Phase, given, seed, settings

from .strategies import LARGE_INPUTS
from .target import Target
from .targets import TARGETS

EXAMPLES: Final = 50_000
SECONDS: Final = 120


def run_atheris(target: Target, seconds: int, number: int) -> bool:
    """Whether `target` survives; in a process of its own, which libFuzzer ends."""
    options = (f"-max_total_time={seconds}", f"-seed={number}", "-timeout=30", "-verbosity=0")
    command = [sys.executable, "-m", "tests.fuzz.atheris_main", target.name, *options]
    return subprocess.run(command, check=False).returncode == 0


def run_hypothesis(target: Target, examples: int, number: int) -> bool:
    """Whether `target` survives; the smallest failing input is printed."""

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=LARGE_INPUTS,
    )
    @given(target.inputs)
    def check(data: bytes) -> None:
        target.check(data)

    try:
        check()
    except Exception:  # noqa: BLE001 - this is what the campaign looks for
        traceback.print_exc(limit=-4, chain=False)
        return False
    return True


def main() -> int:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", action="append", choices=TARGETS, metavar="NAME", help="may be repeated; else all")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for each target under atheris ({SECONDS})")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help=f"for each under hypothesis ({EXAMPLES:,})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TARGETS))
        return 0
    has_atheris = importlib.util.find_spec("atheris") is not None
    broken = []
    for name in options.target or TARGETS:
        started = time.monotonic()
        if has_atheris:
            survives = run_atheris(TARGETS[name], options.seconds, options.seed)
        else:
            survives = run_hypothesis(TARGETS[name], options.examples, options.seed)
        print(f"{name}: {'ok' if survives else 'BROKEN'} after {time.monotonic() - started:.0f} s", flush=True)
        broken += [] if survives else [name]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
