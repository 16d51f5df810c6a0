"""The long run, over all targets or some, on one core or several."""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from types import FrameType

from .runner import BLOCK, Finding, examine, run_block, shares
from .target import Target
from .targets import TARGETS

LONG = 50_000_000
HANGS = 30
"""Seconds of one input after which it is a finding; with others on the machine it may take long."""
REPORT_EVERY = 30.0

Job = tuple[str, int, int, int]
"""A target, a seed, a block, and how many of its inputs."""


class Hang(Exception):
    """An input takes too long."""


def work(job: Job) -> tuple[Job, Finding | None, float]:
    name, seed, block, most = job
    start = time.process_time()
    return job, run_block(guarded(TARGETS[name]), seed, block, most), time.process_time() - start


def guarded(target: Target) -> Target:
    """The same, but an input that hangs breaks something."""
    if not hasattr(signal, "setitimer"):
        return target
    check = target.check

    def guarded_check(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_REAL, HANGS)
        check(data)

    return Target(target.name, guarded_check, target.samples, target.words, target.trees, target.longest, target.share)


def jobs(targets: list[Target], total: int, seed: int) -> Iterator[Job]:
    """Blocks of all targets by turns, so that each has its part of whatever is run."""
    left = shares(targets, total)
    done: Counter[str] = Counter()
    while left:
        # Whose share is least used up comes next.
        name = min(left, key=lambda name: done[name] / (done[name] + left[name]))
        most = min(BLOCK, left[name])
        yield name, seed, done[name] // BLOCK, most
        done[name] += most
        left[name] -= most
        if not left[name]:
            del left[name]


def begin() -> None:
    """In each process: what a hang does, and that Ctrl-C is for the first process alone."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"an input takes more than {HANGS} s")

    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, ring)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def hunt(targets: list[Target], total: int, seed: int, processes: int) -> int:
    """Run everything and print what breaks; how many targets have broken."""
    start = reported = time.monotonic()
    inputs: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(processes, begin) as pool:
        for (name, _, block, most), finding, took in pool.imap_unordered(work, jobs(targets, total, seed)):
            inputs[name] += most
            seconds[name] += took  # type: ignore[assignment]
            if finding is not None:
                broken[name] += 1
                if broken[name] <= 3:
                    print(f"seed {seed}, block {block} of {finding}", flush=True)
            now = time.monotonic()
            if now - reported >= REPORT_EVERY:
                reported = now
                done = inputs.total()
                pace = done / (now - start)
                print(f"{done:,} of {total:,} inputs, {pace:,.0f} a second, {len(broken)} targets broken", flush=True)
    print("| target | inputs | µs each | |\n|---|---|---|---|")
    for name, number in inputs.items():
        outcome = f"**broken in {broken[name]} blocks**" if broken[name] else "holds"
        print(f"| `{name}` | {number:,} | {seconds[name] / number * 1e6:.0f} | {outcome} |")
    print(f"\n{inputs.total():,} inputs in {time.monotonic() - start:,.0f} s, seed {seed}")
    return len(broken)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feed the parsers with mutated bytes.")
    parser.add_argument("--target", action="append", choices=TARGETS, metavar="NAME", help="may be repeated; else all")
    parser.add_argument("--inputs", type=int, default=LONG, help=f"for all targets together; default {LONG:,}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TARGETS))
        return 0
    targets = [TARGETS[name] for name in options.target or TARGETS]
    for target in targets:
        for sample in target.samples:
            if (finding := examine(target, sample)) is not None:
                print(f"a sample of {finding}", file=sys.stderr)
                return 2
    return 1 if hunt(targets, options.inputs, options.seed, options.jobs) else 0
