"""`python -m benchmarks`: one command, one table. A row that cannot run states the reason, and the others continue."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Final

from . import machine
from .contest import FULL, QUICK, Effort
from .profiling import PROFILED, profile
from .rows import asgi, connections, deaf, deflate, fanout, micro, overload
from .table import Row, as_json, not_run, render

GROUPS: Final[dict[str, Callable[[Effort], list[Row]]]] = {
    "publish": micro.publish,
    "flush": micro.flush,
    "bucket": micro.bucket,
    "fanout": fanout.fanout,
    "websockets": fanout.peers,
    "asgi": asgi.asgi,
    "sparse": fanout.sparse,
    "flood": overload.flood,
    "limited": overload.limited,
    "sets": overload.sets,
    "memory": connections.memory,
    "handshakes": connections.handshake_rate,
    "deaf": deaf.deaf,
    "deflate": deflate.deflate,
}
RESULTS: Final = machine.HERE / "results"


def run_group(name: str, effort: Effort) -> list[Row]:
    """The rows of a group; one row with the reason where it cannot run or fails."""
    doc = (GROUPS[name].__doc__ or "").partition("\n")[0]
    try:
        return GROUPS[name](effort)
    except (machine.CannotRun, RuntimeError, OSError) as exc:
        return [not_run(name, doc, str(exc))]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Every claim of speed, measured.")
    add = parser.add_argument
    add("--only", action="append", choices=sorted(GROUPS), help="measure only this; may be repeated")
    add("--quick", action="store_true", help="a minute: shows that it works, its figures mean nothing")
    add("--json", action="store_true", help="print JSON instead of the table")
    add("--save", action="store_true", help="write both to benchmarks/results/")
    add("--seed", type=int, default=FULL.seed, help="of random choices (default %(default)s)")
    add("--rounds", type=int, help=f"turns of each server (default {FULL.rounds})")
    add("--seconds", type=float, help=f"of each measured window (default {FULL.seconds:g})")
    add("--loops", default="asyncio", help="of asyncio,uvloop,trio: the first for all rows, fan-out on each")
    add("--profile", choices=sorted(PROFILED), help="run the server of this row under cProfile and print it")
    return parser.parse_args(argv)


def measure(names: Sequence[str], effort: Effort) -> list[Row]:
    if machine.is_busy():
        print("other processes use this machine: expect ratios that vary", file=sys.stderr)
    rows: list[Row] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += run_group(name, effort)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    effort = replace(QUICK if options.quick else FULL, seed=options.seed, loops=tuple(options.loops.split(",")))
    if options.rounds:
        effort = replace(effort, rounds=options.rounds)
    if options.seconds:
        effort = replace(effort, seconds=options.seconds)
    with nullcontext() if options.quick else machine.alone():
        if options.profile:
            print(profile(options.profile, effort))
            return 0
        rows = measure(options.only or list(GROUPS), effort)
    if options.quick:
        rows = [replace(row, met=None) for row in rows]  # bars are for the full measure
    report = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "effort": asdict(effort),
        "rows": as_json(rows),
    }
    text = json.dumps(report, indent=1)
    print(text if options.json else render(rows))
    if options.save:
        save(text, render(rows))
    return 0


def save(text: str, table: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(text + "\n", encoding="utf-8")
    (RESULTS / "latest.md").write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
