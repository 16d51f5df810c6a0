"""Proof that the machine bites: deliberate breakages of the core, each of which it must find.

    python -m tests.core.mutants [NAME ...]     some of them, or all; fails if one survives

A mutant is an exact replacement in the source. It is applied to a copy of the package in a folder of its own, where
the machine and the busy one run in turn, in a process of their own. `test_mutants.py` does a few at every test run.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

ROOT: Final = Path(__file__).resolve().parents[2]
ROUNDS: Final = 8
EXAMPLES: Final = 50
"""Of each machine in each round."""
STEPS: Final = 50
SECONDS: Final = 600.0
"""A hang, not the pace of this computer, makes a machine run so long."""
SEED: Final = 2


class Edit(NamedTuple):
    """In a file of the core: `old` becomes `new`."""

    file: str
    old: str
    new: str


class Mutant(NamedTuple):
    """A breakage with a name and a sentence."""

    name: str
    what: str
    edits: tuple[Edit, ...]


class Verdict(NamedTuple):
    """What the machines said: `error` is None if they found nothing in as many `examples`, 0 if their time ran out.

    `seconds` are of the processor.
    """

    error: str | None
    examples: int
    seconds: float


class Outdated(Exception):
    """The source has changed so that a mutant does not fit it any more."""


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
        "A member that leaves a follower keeps the positions from before it followed.",
        "membership.py",
        "                set_positions(detached.readers, cohort.queue)\n",
        "                pass\n",
    ),
    mutant(
        "inbox-lost",
        "What a follower was handed is lost when it stops following.",
        "fanout.py",
        "    set_positions(cohort.readers, queue)\n",
        "",
    ),
    mutant(
        "carry-left-behind",
        "A member that leaves takes no copy of what was taken and not written yet.",
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
        "gap-unsaid",
        "A loss is marked as reported, and its `$gap` is not sent.",
        "limited_batch.py",
        "            self.items.insert(place, reader.report_gap(self._held_by, self._timestamp))",
        "            reader.report_gap(self._held_by, self._timestamp)",
    ),
    mutant(
        "second-loss-unsaid",
        "What is lost before an earlier loss was reported is not added to it.",
        "reader.py",
        "self.gap = Gap(self.gap.first, last, self.gap.lost + count) if self.gap else Gap(first, last, count)",
        "self.gap = self.gap or Gap(first, last, count)",
    ),
    mutant(
        "last-loss-unsaid",
        "A subscription ends without a word on what it lost.",
        "subscriptions.py",
        "        if reader.gap:\n            gaps.append",
        "        if reader.gap and not reader:\n            gaps.append",
    ),
    mutant(
        "journal-skipped",
        "What memory has no more is dropped, though the journal has it.",
        "limited_batch.py",
        "                self.behind.append(reader)\n                return ()\n",
        "                reader.drop(log.floor - reader.position)\n",
    ),
    mutant(
        "newest-overwritten",
        "A ring that is full lets go of the newest instead of the oldest.",
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
        "What a client is held back from is lost before what was taken for it and not written.",
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
        "What a stalled session may not wait for is kept.",
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
        "A table forgets a deletion and does not say so to those who are behind.",
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
        "Who joins a cohort takes over its count of conflated items.",
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
        "What a flush under way still owes a member counts as delivered to it.",
        "engine.py",
        "            owed.update({reader.log.name: count for reader, count in cohort.taken.items()})",
        "            pass",
    ),
    mutant(
        "nothing-abandoned",
        "What was pending when a subscription ended is forgotten.",
        "statistics.py",
        "self.abandoned + self.pending, 0)",
        "self.abandoned, 0)",
    ),
    mutant(
        "account-unclosed",
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
        "close-before-last-words",
        "A session is closed before what was said to it last is out.",
        "engine.py",
        "            if self._membership.outbox and isinstance(self._events[0], Close):\n                return\n",
        "",
    ),
    mutant(
        "owed-frame-forgotten",
        "Who leaves in the middle of a flush is not written the frame it is owed.",
        "membership.py",
        "self.outbox.append(Delivery(cohort.pop_owed_frame(session), (session,)))",
        "cohort.pop_owed_frame(session)",
    ),
    mutant(
        "inbox-by-channel",
        "A follower is handed new entries channel by channel instead of by age.",
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
        "A command is carried out while one before it waits for its answer.",
        "commands.py",
        "while session.commands and not session.is_waiting and not session.is_closed:",
        "while session.commands and not session.is_closed:",
    ),
    # --- who shares what
    mutant(
        "stalled-in-the-cohort",
        "A client that stalls stays with the others, and their next frame is written to it.",
        "membership.py",
        "        peer = cohort.stalled_peer\n",
        "        if cohort.size > 1:\n            return\n        peer = cohort.stalled_peer\n",
    ),
    mutant(
        "readers-shared",
        "A member that leaves its cohort shares the positions of those who stay.",
        "membership.py",
        "{name: r.copy() for name, r in cohort.readers.items()}",
        "dict(cohort.readers)",
    ),
    mutant(
        "strays-of-two-flushes",
        "Clients that stalled after different flushes share positions.",
        "membership.py",
        " and peer.is_stalled and peer.last_write == cohort.last_write:",
        " and peer.is_stalled:",
        Edit("output.py", "        cohort.stalled_peer = None\n", ""),
    ),
    mutant(
        "tokens-for-nothing",
        "A member that leaves its cohort gets a full bucket.",
        "membership.py",
        "cohort.bucket.copy())",
        "TokenBucket(self._rate, now))",
    ),
    mutant(
        "tokens-by-subscribing",
        "A session without subscriptions gets a full bucket with its next one.",
        "membership.py",
        "            session.detached = detached\n",
        "",
    ),
    mutant(
        "poor-joins-rich",
        "A session with fewer tokens joins a cohort with more.",
        "membership.py",
        "cohort.bucket.available(now) + _ROUNDING >= primary.bucket.available(now)",
        "True",
    ),
    mutant(
        "outlives-unsubscribe",
        "A reader lives on after its subscription has ended.",
        "subscriptions.py",
        "reader = detached.readers.pop(name)",
        "reader = detached.readers[name]",
    ),
    mutant(
        "outlives-close",
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
        "A flush pays for all items but one.",
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
        "wake-up-forgotten",
        "A cohort that could be given nothing is not looked at again.",
        "output.py",
        "            if cohort.dirty:\n                scheduler.request_turn(cohort, now)\n            return None",
        "            return None",
    ),
    mutant(
        "heartbeat-late",
        "A silent client gets its heartbeat after twice the time.",
        "deadlines.py",
        "if now - last >= self._tuning.heartbeat and",
        "if now - last >= 2 * self._tuning.heartbeat and",
    ),
    # --- starting and ending
    mutant(
        "head-is-the-future",
        "`since` at the head is refused as if it were above it.",
        "start.py",
        "if since.seq > log.head:",
        "if since.seq >= log.head:",
    ),
    mutant(
        "epoch-ignored",
        "A resume from another epoch is taken for one from this.",
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
        "Deleted keys are never told of.",
        "log.py",
        "            found.append(entry)\n",
        "            if not entry.deleted:\n                found.append(entry)\n",
    ),
    mutant(
        "fresh-for-ever",
        "A reader that began with a snapshot never learns of a deletion.",
        "reader.py",
        "            self.is_fresh = False\n",
        "",
    ),
    mutant(
        "role-unchecked",
        "A channel is open to roles that may not see it.",
        "subscriptions.py",
        "        if not channel.admits(session.identity, name):",
        "        if not channel.admits(session.identity, name) and not name:",
    ),
    mutant(
        "revocation-forgotten",
        "Who may see less from now on loses no subscription.",
        "commands.py",
        "        if lost:\n",
        "        if lost and not session:\n",
    ),
    mutant(
        "roles-deferred",
        "Who is given other roles keeps what it has until it sends a token.",
        "commands.py",
        "        session.identity = identity\n        self.forbid(session,",
        "        session.identity = identity\n        self.forbid(session, () and",
    ),
    mutant(
        "one-taken-back",
        "Of several channels that are taken back one stays.",
        "commands.py",
        "        lost = [name for name in session.subscriptions if name in names]\n",
        "        lost = [name for name in session.subscriptions if name in names][:1]\n",
    ),
    mutant(
        "unasked-allowed",
        "What was taken back while the application was asked about something else is held again.",
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
        "members-for-ever",
        "A member of a pattern that nobody watches is never forgotten.",
        "registry.py",
        "        self.members.at(log, ceil(now + pattern.keep_seconds))\n",
        "",
    ),
    # --- fine points
    mutant(
        "late-answer",
        "A journal's answer counts for a reader that has moved on meanwhile.",
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
        "The gap of a client that was congested says `rate`.",
        "membership.py",
        'cohort.held_by = "buffer" if session.is_stalled else detached.held_by',
        "cohort.held_by = detached.held_by",
    ),
    mutant(
        "drain-in-one-slot",
        "`$drain` sends all clients back at the same moment.",
        "engine.py",
        "round(index * slot, 3)",
        "round(slot, 3)",
    ),
    mutant(
        "stalled-for-ever",
        "A session that stays unwritable is never closed.",
        "deadlines.py",
        "session.stalled_since + allowed,",
        "session.stalled_since + allowed + 1e6,",
    ),
    mutant(
        "unwritable-too-early",
        "A session that is unwritable is closed after half the time.",
        "deadlines.py",
        "session.stalled_since + allowed,",
        "session.stalled_since + allowed / 2,",
    ),
    mutant(
        "silence-too-early",
        "A client that pings is closed after half the silence it may keep.",
        "deadlines.py",
        "session.last_heard + tuning.silence_timeout,",
        "session.last_heard + tuning.silence_timeout / 2,",
    ),
    mutant(
        "silence-for-ever",
        "A client that has pinged once may be silent for ever.",
        "deadlines.py",
        "session.last_heard + tuning.silence_timeout,",
        "session.last_heard + tuning.silence_timeout + 1e6,",
    ),
    mutant(
        "expiring-unsaid",
        "`$expiring` is never sent.",
        "deadlines.py",
        "        session.expiry_warned = expires\n",
        "        session.expiry_warned = expires\n        return []\n",
    ),
    mutant(
        "one-token-free-ration",
        "A rationed flush pays for all items but one.",
        "limited_batch.py",
        "        self.spent = len(chosen)\n",
        "        self.spent = max(0, len(chosen) - 1)\n",
    ),
    mutant(
        "inbox-free",
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
            f"mutant {name!r} has to be renewed: analytics_hub/core/{edit.file} has its text {found} times, not once:\n"
            f"{edit.old}"
        )
    return source.replace(edit.old, edit.new)


def apply(mutant: Mutant, core: Path) -> None:
    """Break the files in the folder `core`."""
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
    """Run the machines here in turn, until one finds something."""
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
    """What the machine found, and how many examples that took."""
    runs = 0

    def count() -> RuleBasedStateMachine:
        nonlocal runs
        runs += 1
        return machine()

    factory: Any = seeded(seed)(count)  # any callable will do
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
    except Exception as failure:  # noqa: BLE001 - whatever it is, it was found
        return describe(failure), runs
    return None, runs


def describe(failure: BaseException) -> str:
    """The function that noticed, and the first line of what failed."""
    while isinstance(failure, BaseExceptionGroup):  # hypothesis says so if it came out differently when repeated
        failure = failure.exceptions[0]
    where = [frame for frame in traceback.extract_tb(failure.__traceback__) if str(ROOT) in frame.filename]
    lines = str(failure).splitlines()
    place = f"{Path(where[-1].filename).stem}.{where[-1].name}: " if where else ""
    return f"{place}{type(failure).__name__}{': ' + lines[0] if lines else ''}"


# --- the command


def rows(chosen: Sequence[Mutant], seed: int, jobs: int) -> int:
    """Try each and print a table; how many survived."""
    survivors = 0
    print("| mutant | what is broken | found after | by |\n|---|---|---|---|")
    with ThreadPoolExecutor(jobs) as pool:
        for each, verdict in zip(chosen, pool.map(partial(find_in_copy, seed=seed), chosen), strict=True):
            survivors += verdict.error is None
            after = f"{verdict.examples} examples, {verdict.seconds:.1f} s" if verdict.error else "**survives**"
            by = f"`{verdict.error.partition(': ')[0]}`" if verdict.error else f"{verdict.examples} examples"
            print(f"| `{each.name}` | {each.what} | {after} | {by} |", flush=True)
    return survivors


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the core on purpose; the machine must find every breakage.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--hunt", action="store_true", help="run the machines against the core as it is")
    options = parser.parse_args()
    if options.hunt:
        print(json.dumps(hunt(options.seed)))
        return 0
    known = {each.name: each for each in MUTANTS}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}; there are {', '.join(known)}")
    unbroken = find_in_copy(None, options.seed)
    if unbroken.error is not None or not unbroken.examples:
        print(f"The machine fails without any mutant: {unbroken.error or 'out of time'}", file=sys.stderr)
        return 2
    print(f"Unbroken: {unbroken.examples} examples in {unbroken.seconds:.0f} s without a failure.\n", flush=True)
    return 1 if rows([known[name] for name in options.names] or MUTANTS, options.seed, options.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
