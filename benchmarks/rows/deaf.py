"""Clients that never read: their effect on the others, and whether the ledger has their losses."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from ..contest import Contestant, Effort, Running, Window, calmest, median, median_ratio, noise
from ..table import Row
from .contestants import ours
from .fanout import sizes

RATE = 1000.0
DEAF = 10


@dataclass(frozen=True, slots=True)
class Accounts:
    """The sums of the hub, and the counts of its clients after the deaf ones have read."""

    published: int
    hub_delivered: int
    hub_dropped: int
    received: tuple[int, ...]
    lost: tuple[int, ...]

    @property
    def is_exact(self) -> bool:
        """Items and `$gap`s of each client add up to the published items, and the sums of the hub are equal."""
        each = all(got + lost == self.published for got, lost in zip(self.received, self.lost, strict=True))
        return each and self.hub_delivered == sum(self.received) and self.hub_dropped == sum(self.lost)


def deaf(effort: Effort) -> list[Row]:
    """Ten clients that never read: p99 of the others, and the ledger."""
    loop = effort.loops[0]
    all_read = ours(effort, RATE, name="all read", loop=loop)
    some_deaf = ours(effort, RATE, name="some deaf", loop=loop, deaf=DEAF)

    def play() -> list[tuple[Window, Accounts]]:
        return [_run(one, effort) for one in (some_deaf, all_read)]

    rounds = calmest(play, lambda one: noise([window for window, _ in one]), effort.rounds)
    mine, others = ([one[which][0] for one in rounds] for which in (0, 1))
    ratio = median_ratio(mine, others, lambda window: window.mark.p99)
    return [
        Row(
            name="deaf p99",
            what=f"p99 of the others, {DEAF} of {effort.clients} clients never read",
            value=median(mine, lambda window: window.mark.p99),
            unit="ms p99",
            against="all read",
            against_value=median(others, lambda window: window.mark.p99),
            ratio=ratio,
            bar="<= 1.2 x",
            met=ratio <= 1.2,
            note=sizes(mine),
        ),
        _ledger_row([one[0][1] for one in rounds]),
    ]


def _run(contestant: Contestant, effort: Effort) -> tuple[Window, Accounts]:
    """On a new server, so that no client is unread for longer than `write_timeout`."""
    with ExitStack() as stack:
        running = Running(contestant, stack)
        window = running.measure(None, effort)
        running.load.send("listen")
        running.wait_until_quiet()
        clients = running.load.request("clients")["clients"]
        channel = running.server.request("statistics")["channels"]["bench"]
    received, lost = zip(*clients, strict=True)
    ledger = channel["ledger"]
    return window, Accounts(running.answer["published"], ledger["delivered"], ledger["dropped"], received, lost)


def _ledger_row(accounts: list[Accounts]) -> Row:
    last = accounts[-1]
    exact = sum(account.is_exact for account in accounts)
    return Row(
        name="deaf ledger",
        what=f"rounds in which every item of the {DEAF} is accounted for, on both sides",
        value=exact,
        against="rounds",
        against_value=len(accounts),
        bar="all",
        met=exact == len(accounts),
        note=(
            f"last round: {last.published} published; the {DEAF} deaf got {sum(last.received[:DEAF])} once they read, "
            f"their $gaps name {sum(last.lost)}; hub: {last.hub_delivered} delivered to all, {last.hub_dropped} dropped"
        ),
    )
