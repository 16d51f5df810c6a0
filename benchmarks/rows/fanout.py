"""Many clients on one channel: the cost of a delivered message against C and `websockets`, and its latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..contest import Effort, Window, compete, median, median_ratio
from ..table import Row
from .contestants import floor, ours, websockets

RATE = 1000.0
SINGLES_RATE = 100.0
SPARSE_CLIENTS = 100
CPU = "CPU s / M"


def fanout(effort: Effort) -> list[Row]:
    """One channel, read by all: the cost of a delivered message, and its latency."""
    contestants = [ours(effort, RATE, name=f"ours-{loop}", loop=loop) for loop in effort.loops]
    windows = compete([*contestants, floor(effort, RATE)], effort)
    rows = [_against_the_floor(windows, f"ours-{loop}", effort) for loop in effort.loops]
    for loop in effort.loops:
        rows += _latency(windows[f"ours-{loop}"], loop, effort)
    return rows


def peers(effort: Effort) -> list[Row]:
    """Half the clients: with all of them `websockets` needs longer than 16 ms for a batch, and would send fewer, larger
    frames, which cannot be compared."""
    clients = effort.clients // 2
    windows = compete(
        [
            ours(effort, RATE, loop=effort.loops[0], clients=clients),
            websockets(clients, RATE, "batches"),
            websockets(clients, SINGLES_RATE, "singles"),
        ],
        effort,
    )
    return [
        _against_a_peer(windows, "batches", clients, RATE, bar=1.0),
        _against_a_peer(windows, "singles", clients, SINGLES_RATE, bar=0.5),
    ]


def _against_the_floor(windows: dict[str, list[Window]], name: str, effort: Effort) -> Row:
    mine, c = windows[name], windows["floor"]
    ratio = median_ratio(mine, c, lambda window: window.cpu_per_million)
    return Row(
        name=f"fanout {name.removeprefix('ours-')}",
        what=f"{effort.clients} clients x {RATE:g} msg/s",
        value=median(mine, lambda window: window.cpu_per_million),
        unit=CPU,
        against="C",
        against_value=median(c, lambda window: window.cpu_per_million),
        ratio=ratio,
        bar="<= 1.25 x",
        met=ratio <= 1.25,
        note=sizes(mine),
    )


def sizes(windows: Sequence[Window]) -> str:
    """The traffic, so that a reader knows the size of a message here."""
    return (
        f"items of {median(windows, lambda w: w.item_bytes):.0f} bytes, "
        f"{median(windows, lambda w: w.frames_per_second):.1f} frames a second to each client "
        f"of {median(windows, lambda w: w.items_per_frame):.1f} items; "
        f"{median(windows, lambda w: w.delivered):.2%} of the published items arrived in the window; "
        f"load generator {median(windows, lambda w: w.load_share):.0%} busy, "
        f"other processes had {max(window.waited for window in windows):.1%} of the cores"
    )


def _against_a_peer(windows: dict[str, list[Window]], mode: str, clients: int, rate: float, bar: float) -> Row:
    mine, theirs = windows["ours"], windows[f"websockets-{mode}"]
    ratio = median_ratio(mine, theirs, lambda window: window.cpu_per_million)
    slower = f"websockets at {rate:g} msg/s, because it does not sustain {RATE:g} single messages; "
    return Row(
        name=f"websockets {mode}",
        what=f"{clients} clients x {RATE:g} msg/s",
        value=median(mine, lambda window: window.cpu_per_million),
        unit=CPU,
        against=f"websockets.broadcast of {mode}",
        against_value=median(theirs, lambda window: window.cpu_per_million),
        ratio=ratio,
        bar="ahead (< 1 x)" if bar == 1.0 else f"far ahead (< {bar:g} x)",
        met=ratio < bar,
        note=f"{slower if rate != RATE else ''}websockets: {sizes(theirs)}",
    )


def _latency(mine: Sequence[Window], loop: str, effort: Effort) -> list[Row]:
    what = f"publish to receipt, {effort.clients} clients x {RATE:g} msg/s"
    quantiles = (("p50", 16.0), ("p99", 32.0))
    return [_quantile(mine, name, bar, f"latency {name} {loop}", what) for name, bar in quantiles]


def _quantile(windows: Sequence[Window], quantile: str, bar: float, name: str, what: str) -> Row:
    value = median(windows, lambda window: getattr(window.mark, quantile))
    return Row(name=name, what=what, value=value, unit=f"ms {quantile}", bar=f"< {bar:g} ms", met=value < bar)


def sparse(effort: Effort) -> list[Row]:
    """One item a second, written at once. Clients are served one after the other, so their number matters."""
    few = replace(effort, clients=min(SPARSE_CLIENTS, effort.clients), seconds=max(effort.seconds, 2.5))
    contestants = [ours(few, 1.0, loop=effort.loops[0], sample=1), floor(few, 1.0, interval=1.0, sample=1)]
    windows = compete(contestants, few)
    mine, c = windows["ours"], windows["floor"]
    row = _quantile(mine, "p50", 2.0, "latency sparse", f"publish to receipt, {few.clients} clients x 1 msg/s")
    ratio = median_ratio(mine, c, lambda window: window.mark.p50)
    return [replace(row, against="C", against_value=median(c, lambda window: window.mark.p50), ratio=ratio)]
