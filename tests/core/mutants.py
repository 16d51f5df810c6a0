"""Mutants of the core: deliberate faults, each of which the machine must find.

    python -m tests.core.mutants [NAME ...]     some of them, or all; fails if one survives
    python -m tests.core.mutants --page         all of them, and writes the results to `tests/mutants.md`

A mutant is an exact replacement in the source. It is applied to a copy of the core in a folder of its own, where both
machines run in turn, in a process of their own. `test_mutants.py` tries a few of them in every test run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "tests" / "mutants.md"
ROUNDS: Final = 8
EXAMPLES: Final = 50
"""Of each machine in each round."""
STEPS: Final = 50
SECONDS: Final = 600.0
"""Only a hang takes that long, on any computer."""
SEED: Final = 2


PAGE_INTRODUCTION: Final = f"""\
Each mutant is a deliberate fault in the core, which the state machines of `tests/core` must find.
They get at most {ROUNDS} rounds of {EXAMPLES} examples with {STEPS} steps, of the plain machine and of the busy one each, seeds {SEED} to {SEED + ROUNDS - 1}, without shrinking.
"""  # noqa: E501 - one sentence per line
TABLE_HEAD: Final = "| mutant | fault | found after | by |\n|---|---|---|---|"


class Edit(NamedTuple):
    """In a file of the core: `old` becomes `new`."""

    file: str
    old: str
    new: str


class Mutant(NamedTuple):
    """A fault with a name and a description."""

    name: str
    what: str
    edits: tuple[Edit, ...]


class Verdict(NamedTuple):
    """The result of the machines. `error` is None if they found nothing in `examples`, which is 0 after a timeout.

    `seconds` are CPU time.
    """

    error: str | None
    examples: int
    seconds: float


class Outdated(Exception):
    """The source has changed, and a mutant no longer fits it."""


def mutant(name: str, what: str, file: str, old: str, new: str, *more: Edit) -> Mutant:
    return Mutant(name, what, (Edit(file, old, new), *more))


MUTANTS: Final = (
    # --- positions
    mutant(
        "position-one-short",
        "A flush leaves its readers one item before the head.",
        "batcher.py",
        "                reader.position = log.head\n        cohort.dirty = []",
        "                reader.position = log.head - 1\n        cohort.dirty = []",
    ),
    mutant(
        "last-one-more",
        "`last: N` starts N + 1 items back.",
        "log.py",
        "return max(self.oldest_position(), self.head - count)",
        "return max(self.oldest_position(), self.head - count - 1)",
    ),
    mutant(
        "stale-positions",
        "A member that leaves a follower keeps the positions from before its cohort followed.",
        "membership.py",
        "                set_positions(detached.readers, cohort.queue)\n",
        "                pass\n",
    ),
    mutant(
        "queue-lost",
        "The queue of a follower is lost when it stops following.",
        "fanout.py",
        "    set_positions(cohort.readers, queue)\n",
        "",
    ),
    mutant(
        "carry-left-behind",
        "A member that leaves gets no copy of what was taken and not written yet.",
        "reader.py",
        "        twin.carry = self.carry\n",
        "",
    ),
    mutant(
        "chunk-read-twice",
        "A chunk from the journal does not move the position.",
        "journal.py",
        "            reader.position = entries[-1].seq if entries else log.floor\n",
        "",
    ),
    # --- losses
    mutant(
        "gap-not-sent",
        "A loss is marked as reported, but its `$gap` is not sent.",
        "limited_batch.py",
        "            self.items.insert(place, reader.report_gap(self._held_by, self._timestamp))",
        "            reader.report_gap(self._held_by, self._timestamp)",
    ),
    mutant(
        "second-loss-not-reported",
        "A second loss is not added to an earlier one that was not reported yet.",
        "reader.py",
        "self.gaps = (Gap(first, self.position),)",
        "self.gaps = self.gaps or (Gap(first, self.position),)",
    ),
    mutant(
        "final-loss-not-reported",
        "A subscription ends without a report of what it lost.",
        "subscriptions.py",
        "        while reader.gaps:\n            gaps.append",
        "        while reader.gaps and not reader:\n            gaps.append",
    ),
    mutant(
        "journal-skipped",
        "Items that memory no longer has are dropped, although the journal has them.",
        "limited_batch.py",
        "                self.behind.append(reader)\n                return ()\n",
        "                reader.drop(log.floor - reader.position)\n",
    ),
    mutant(
        "newest-overwritten",
        "A full ring drops its newest entries instead of the oldest.",
        "ring.py",
        "del self._entries[:gone]",
        "del self._entries[-gone:]",
    ),
    mutant(
        "trim-one-more",
        "The buffer of a session that is held back is cut to one item too few.",
        "batcher.py",
        "reader.drop(excess)",
        "reader.drop(min(excess + 1, log.head - reader.position))",
    ),
    mutant(
        "newer-lost-first",
        "Trimming drops newer items before older ones that were taken and not written.",
        "reader.py",
        "            self.position = self.written_position\n            self.carry = ()\n",
        "            pass\n",
    ),
    mutant(
        "trim-by-channel",
        "The buffer is cut channel by channel instead of by age.",
        "batcher.py",
        "        newest.sort(key=by_order)\n        del newest",
        "        del newest",
    ),
    mutant(
        "no-trim",
        "A stalled session keeps what exceeds its buffer.",
        "membership.py",
        "            self._batcher.trim(list(detached.readers.values()))",
        "            pass",
    ),
    mutant(
        "buffer-without-bytes",
        "The buffer has no bound in bytes.",
        "batcher.py",
        "            if room < 0:\n                break\n            first",
        "            first",
    ),
    mutant(
        "forgotten-deletion",
        "A table forgets a deletion, and readers that are behind are not told.",
        "log.py",
        "self.floor = live.pop(oldest).seq",
        "live.pop(oldest)",
    ),
    # --- counters
    mutant(
        "conflated-as-dropped",
        "A superseded item is counted as dropped.",
        "reader.py",
        "self.conflated += log.head - self.position - len(entries) - lost",
        "self.dropped += log.head - self.position - len(entries) - lost",
    ),
    mutant(
        "uncounted-in-a-join",
        "A session that joins a cohort takes over its count of conflated items.",
        "session.py",
        "        self.conflated += old.conflated - new.conflated\n",
        "",
    ),
    mutant(
        "uncounted-in-a-resume",
        "What is lost before a resume is not counted.",
        "start.py",
        "        reader.dropped = lost\n",
        "",
    ),
    mutant(
        "owed-as-delivered",
        "A frame that a flush under way still owes a member counts as delivered.",
        "engine.py",
        "            owed.update({reader.log.name: count for reader, count in cohort.taken.items()})",
        "            pass",
    ),
    mutant(
        "nothing-abandoned",
        "Items pending at the end of a subscription are not counted.",
        "statistics.py",
        "self.abandoned + self.pending, 0)",
        "self.abandoned, 0)",
    ),
    mutant(
        "account-not-closed",
        "The account of a subscription that has ended is missing from the channel's totals.",
        "subscriptions.py",
        "        log.closed_accounts = log.closed_accounts + ledger\n",
        "",
    ),
    # --- order
    mutant(
        "data-before-answer",
        "An item is sent before the acknowledgement of its subscription.",
        "output.py",
        "        if self._with_control:\n",
        "        if self._with_control and not self._due:\n",
    ),
    mutant(
        "close-before-control-items",
        "A session is closed before its last control items are written.",
        "engine.py",
        "            if self._membership.outbox and isinstance(self._events[0], Close):\n                return\n",
        "",
    ),
    mutant(
        "owed-frame-not-sent",
        "A member that leaves in the middle of a flush does not get the frame that it is owed.",
        "membership.py",
        "self.outbox.append(Delivery(cohort.pop_owed_frame(session), (session,)))",
        "cohort.pop_owed_frame(session)",
    ),
    mutant(
        "queue-by-channel",
        "Followers are handed new entries channel by channel instead of in publish order.",
        "fanout.py",
        "    entries.sort(key=_by_first)\n",
        "",
    ),
    mutant(
        "before-the-commit",
        "An item of a durable channel is delivered before its journal has it.",
        "journal.py",
        "            self._emit(Append(log.name, log.head + 1, items, log.batch))",
        "            self._emit(Append(log.name, log.head + 1, items, log.batch))\n"
        "            for item in items:\n"
        "                log.append(Entry(0, log.head + 1, item, log.name))\n"
        "            self._scheduler.mark(log)",
        Edit("journal.py", "            log.append(Entry(order, log.head + 1, item, name))", "            pass"),
    ),
    mutant(
        "written-while-stalled",
        "A second write goes to a session that the first has stalled.",
        "output.py",
        "            return None if one.recipients[0].is_stalled else one\n",
        "            return one\n",
    ),
    mutant(
        "overtaking-commands",
        "A command is executed while an earlier one waits for its answer.",
        "commands.py",
        "while session.commands and not session.is_waiting and not session.is_closed:",
        "while session.commands and not session.is_closed:",
    ),
    # --- sharing
    mutant(
        "stalled-in-the-cohort",
        "A client that stalls stays in its cohort, and gets its next frame.",
        "membership.py",
        "        peer = cohort.stalled_peer\n",
        "        if cohort.size > 1:\n            return\n        peer = cohort.stalled_peer\n",
    ),
    mutant(
        "readers-shared",
        "A member that leaves its cohort shares the positions of those that stay.",
        "membership.py",
        "{name: r.copy() for name, r in cohort.readers.items()}",
        "dict(cohort.readers)",
    ),
    mutant(
        "stalled-in-two-flushes",
        "Clients that stalled after different flushes share positions.",
        "membership.py",
        " and peer.is_stalled and peer.last_write == cohort.last_write:",
        " and peer.is_stalled:",
        Edit("output.py", "        cohort.stalled_peer = None\n", ""),
    ),
    mutant(
        "full-bucket-on-leaving",
        "A member that leaves its cohort gets a full bucket.",
        "membership.py",
        "cohort.bucket.copy())",
        "TokenBucket(self._rate, now))",
    ),
    mutant(
        "full-bucket-on-subscribing",
        "A session without subscriptions gets a full bucket with its next one.",
        "membership.py",
        "            session.detached = detached\n",
        "",
    ),
    mutant(
        "joined-with-fewer-tokens",
        "A session with fewer tokens joins a cohort with more.",
        "membership.py",
        "cohort.bucket.available(now) + _ROUNDING >= primary.bucket.available(now)",
        "True",
    ),
    mutant(
        "reader-outlives-subscription",
        "A reader remains after its subscription has ended.",
        "subscriptions.py",
        "reader = detached.readers.pop(name)",
        "reader = detached.readers[name]",
    ),
    mutant(
        "member-outlives-session",
        "A session that has ended stays in its cohort.",
        "subscriptions.py",
        "        self._membership.remove(session)\n",
        "",
    ),
    # --- pace
    mutant(
        "batch-too-long",
        "A frame holds one item more than `max_batch`.",
        "batcher.py",
        "        if len(items) <= size:",
        "        if len(items) <= size + 1:",
    ),
    mutant(
        "one-token-free",
        "A flush pays for all items except one.",
        "batcher.py",
        "        bucket.spend(count)\n        taken",
        "        bucket.spend(count - 1)\n        taken",
    ),
    mutant(
        "interval-ignored",
        "A cohort may be flushed again at once.",
        "batcher.py",
        '        cohort.dirty = []\n        cohort.held_by = "rate"\n        cohort.not_before = now + self._interval',
        '        cohort.dirty = []\n        cohort.held_by = "rate"\n        cohort.not_before = now',
    ),
    mutant(
        "three-intervals",
        "A cohort waits three intervals for its next flush.",
        "batcher.py",
        '        cohort.dirty = []\n        cohort.held_by = "rate"\n        cohort.not_before = now + self._interval',
        '        cohort.dirty = []\n        cohort.held_by = "rate"\n'
        "        cohort.not_before = now + 3 * self._interval",
    ),
    mutant(
        "max-hz-ignored",
        "`max_hz` holds nothing back.",
        "batcher.py",
        "reader.next_at = now + reader.period",
        "reader.next_at = now",
    ),
    mutant(
        "no-wake-up",
        "A cohort for which nothing could be taken gets no further turn.",
        "output.py",
        "            if cohort.dirty:\n                scheduler.request_turn(cohort, now)\n            return None",
        "            return None",
    ),
    mutant(
        "heartbeat-late",
        "The heartbeat is sent after twice the time.",
        "deadlines.py",
        "if now - last >= self._tuning.heartbeat and",
        "if now - last >= 2 * self._tuning.heartbeat and",
    ),
    # --- starting and ending
    mutant(
        "head-is-above-head",
        "`since` at the head is refused as if it were above.",
        "start.py",
        "if since.seq > log.head:",
        "if since.seq >= log.head:",
    ),
    mutant(
        "epoch-ignored",
        "A resume from another epoch is treated as one from this epoch.",
        "start.py",
        "    if since.epoch != log.epoch:\n        return _start_over(log, selection, timestamp)\n",
        "",
    ),
    mutant(
        "always-recovered",
        "A resume that has lost items says `recovered`.",
        "start.py",
        "recovered=not lost",
        "recovered=True",
    ),
    mutant(
        "deletions-skipped",
        "Deletions are never delivered.",
        "log.py",
        "            found.append(entry)\n",
        "            if not entry.deleted:\n                found.append(entry)\n",
    ),
    mutant(
        "fresh-forever",
        "A reader that began with a snapshot never learns of a deletion.",
        "reader.py",
        "            self.is_fresh = False\n",
        "",
    ),
    mutant(
        "role-unchecked",
        "A channel is open to roles that may not subscribe to it.",
        "subscriptions.py",
        "        if not channel.admits(session.identity, name):",
        "        if not channel.admits(session.identity, name) and not name:",
    ),
    mutant(
        "refresh-keeps-subscriptions",
        "A refreshed token that allows less ends no subscription.",
        "commands.py",
        "        if lost:\n",
        "        if lost and not session:\n",
    ),
    mutant(
        "new-roles-ignored",
        "New roles end no subscription until the client sends a token.",
        "commands.py",
        "        session.identity = identity\n        self.forbid(session,",
        "        session.identity = identity\n        self.forbid(session, () and",
    ),
    mutant(
        "one-withdrawn-of-several",
        "Of several channels that are withdrawn only one ends.",
        "commands.py",
        "        lost = [name for name in session.subscriptions if name in names]\n",
        "        lost = [name for name in session.subscriptions if name in names][:1]\n",
    ),
    mutant(
        "withdrawn-while-asking",
        "A channel withdrawn while the application was asked about others is subscribed again.",
        "commands.py",
        "names.difference(allowed, session.subscriptions)",
        "names.difference(allowed, session.subscriptions, session.final)",
    ),
    mutant(
        "expiry-ignored",
        "A session outlives its token by a minute.",
        "deadlines.py",
        "endings.append((self._current_time.now + left, CloseCode.UNAUTHENTICATED",
        "endings.append((self._current_time.now + left + 60, CloseCode.UNAUTHENTICATED",
    ),
    mutant(
        "members-kept-forever",
        "A member of a pattern without watchers is never removed.",
        "registry.py",
        "        self.members.at(log, ceil(now + pattern.member_seconds))\n",
        "",
    ),
    # --- fine points
    mutant(
        "late-answer-used",
        "An answer of the journal is used for a reader that has moved on.",
        "journal.py",
        "if cohort is None or reader.position != after or reader.carry:",
        "if cohort is None:",
    ),
    mutant(
        "bucket-shared",
        "A member that leaves its cohort shares its bucket.",
        "membership.py",
        "cohort.bucket.copy())",
        "cohort.bucket)",
    ),
    mutant(
        "gap-reason",
        "The gap of a client that was stalled has the reason `rate`.",
        "membership.py",
        'cohort.held_by = "buffer" if session.is_stalled else detached.held_by',
        "cohort.held_by = detached.held_by",
    ),
    mutant(
        "drain-in-one-slot",
        "`$drain` tells all clients to reconnect at the same moment.",
        "engine.py",
        "round(index * slot, 3)",
        "round(slot, 3)",
    ),
    mutant(
        "stalled-forever",
        "A session that remains stalled is never closed.",
        "deadlines.py",
        "session.stalled_since + allowed,",
        "session.stalled_since + allowed + 1e6,",
    ),
    mutant(
        "unwritable-too-early",
        "A stalled session is closed after half the time.",
        "deadlines.py",
        "session.stalled_since + allowed,",
        "session.stalled_since + allowed / 2,",
    ),
    mutant(
        "silence-too-early",
        "A client that pings is closed after half the allowed silence.",
        "deadlines.py",
        "session.last_heard + tuning.silence_timeout,",
        "session.last_heard + tuning.silence_timeout / 2,",
    ),
    mutant(
        "silence-forever",
        "A client that has pinged once may be silent forever.",
        "deadlines.py",
        "session.last_heard + tuning.silence_timeout,",
        "session.last_heard + tuning.silence_timeout + 1e6,",
    ),
    mutant(
        "expiring-not-sent",
        "`$expiring` is never sent.",
        "deadlines.py",
        "        session.expiry_warned = expires\n",
        "        session.expiry_warned = expires\n        return []\n",
    ),
    mutant(
        "one-token-free-when-limited",
        "A limited flush pays for all items except one.",
        "limited_batch.py",
        "        self.spent = len(chosen)\n",
        "        self.spent = max(0, len(chosen) - 1)\n",
    ),
    mutant(
        "queue-free",
        "A follower pays nothing.",
        "batcher.py",
        "        cohort.bucket.spend(count)\n",
        "",
    ),
)


# --- applying


def mutated(edit: Edit, source: str, name: str) -> str:
    """The source with the replacement made."""
    found = source.count(edit.old)
    if found != 1:
        raise Outdated(
            f"mutant {name!r} is outdated: analytics_hub/core/{edit.file} has its text {found} times, not once:\n"
            f"{edit.old}"
        )
    return source.replace(edit.old, edit.new)


def apply(mutant: Mutant, core: Path) -> None:
    """Change the files in the folder `core`."""
    for edit in mutant.edits:
        path = core / edit.file
        path.write_text(mutated(edit, path.read_text(encoding="utf-8"), mutant.name), encoding="utf-8")


def find_in_copy(mutant: Mutant | None, seed: int = SEED) -> Verdict:
    """Run the machines against a copy of the core with `mutant` applied, or none."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        top = Path(folder)
        skip = shutil.ignore_patterns("__pycache__")
        for part in ("analytics_hub/core", "analytics_hub/protocol", "tests/core"):
            shutil.copytree(ROOT / part, top / part, ignore=skip)
        for path in (ROOT / "analytics_hub").glob("*.py"):
            shutil.copy(path, top / "analytics_hub")
        for package in ("analytics_hub", "tests"):  # the core needs no more of the package
            (top / package / "__init__.py").write_text("")
        if mutant is not None:
            apply(mutant, top / "analytics_hub" / "core")
        environment = os.environ | {"PYTHONPATH": folder, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "tests.core.mutants", "--hunt", "--seed", str(seed)]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=True
            )
        except subprocess.TimeoutExpired:
            return Verdict(None, 0, SECONDS)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"the machine did not run:\n{error.stderr}") from None
        return Verdict(*json.loads(done.stdout.splitlines()[-1]))


# --- in the copy


def hunt(seed: int) -> Verdict:
    """Run both machines here in turn, until one finds something."""
    from analytics_hub.core import engine

    from .busy import BusyMachine
    from .machine import EngineMachine

    assert Path(str(engine.__file__)).resolve().is_relative_to(ROOT), f"the engine comes from {engine.__file__}"
    start = time.process_time()
    runs = 0
    for turn in range(ROUNDS):
        for machine in (EngineMachine, BusyMachine):
            error, more = run(machine, EXAMPLES, seed + turn)
            runs += more
            if error is not None:
                return Verdict(error, runs, time.process_time() - start)
    return Verdict(None, runs, time.process_time() - start)


def run(machine: type[RuleBasedStateMachine], examples: int, seed: int) -> tuple[str | None, int]:
    """What the machine found, and after how many examples."""
    runs = 0

    def count() -> RuleBasedStateMachine:
        nonlocal runs
        runs += 1
        return machine()

    factory: Any = seeded(seed)(count)  # any callable is accepted
    quick = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    try:
        run_state_machine_as_test(factory, settings=quick)
    except Exception as failure:  # noqa: BLE001 - any exception is a find
        return describe(failure), runs
    return None, runs


def describe(failure: BaseException) -> str:
    """The function that failed, and the first line of its message."""
    while isinstance(failure, BaseExceptionGroup):  # hypothesis reports a failure that differs when repeated
        failure = failure.exceptions[0]
    where = [frame for frame in traceback.extract_tb(failure.__traceback__) if str(ROOT) in frame.filename]
    lines = str(failure).splitlines()
    place = f"{Path(where[-1].filename).stem}.{where[-1].name}: " if where else ""
    return f"{place}{type(failure).__name__}{': ' + lines[0] if lines else ''}"


# --- the command


def try_all(mutants: Sequence[Mutant], seed: int, jobs: int) -> Iterator[tuple[Mutant, Verdict]]:
    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(mutants, pool.map(partial(find_in_copy, seed=seed), mutants), strict=True)


def row(mutant: Mutant, verdict: Verdict) -> str:
    if verdict.error is None:
        return f"| `{mutant.name}` | {mutant.what} | **survives** | {verdict.examples} examples |"
    found_by = verdict.error.partition(": ")[0]
    return f"| `{mutant.name}` | {mutant.what} | {verdict.examples} examples, {verdict.seconds:.1f} s | `{found_by}` |"


def page(rows: Sequence[str], unbroken: Verdict) -> str:
    return f"""\
<!-- Generated by `python -m tests.core.mutants --page`; do not edit. -->

# Mutants

{PAGE_INTRODUCTION}
Without any mutant the machines pass all {unbroken.examples} examples, in {unbroken.seconds:.0f} s of CPU time.

{TABLE_HEAD}
""" + "".join(f"{each}\n" for each in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="Try deliberate faults in the core; the machines must find each.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--page", action="store_true", help=f"write the results to {PAGE.relative_to(ROOT)}")
    parser.add_argument("--hunt", action="store_true", help="run the machines on the core as it is")
    options = parser.parse_args()
    if options.hunt:
        print(json.dumps(hunt(options.seed)))
        return 0
    known = {each.name: each for each in MUTANTS}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}; there are {', '.join(known)}")
    if options.page and options.names:
        parser.error("the page is about all mutants; give no names")
    unbroken = find_in_copy(None, options.seed)
    if unbroken.error is not None or not unbroken.examples:
        print(f"The machines fail without any mutant: {unbroken.error or 'out of time'}", file=sys.stderr)
        return 2
    print(f"Without any mutant: {unbroken.examples} examples in {unbroken.seconds:.0f} s.\n\n{TABLE_HEAD}", flush=True)
    rows = []
    survivors = 0
    for mutant, verdict in try_all([known[name] for name in options.names] or MUTANTS, options.seed, options.jobs):
        survivors += verdict.error is None
        rows.append(row(mutant, verdict))
        print(rows[-1], flush=True)
    if options.page:
        PAGE.write_text(page(rows, unbroken), encoding="utf-8")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
