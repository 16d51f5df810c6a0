"""Shared compression: its cost and its savings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ..contest import Effort, Window, compete, median, median_ratio
from ..table import Row
from .connections import KIB, idle_bytes
from .contestants import ours, websockets
from .fanout import CPU, RATE, sizes

FEW: Final = 5
"""`websockets` compresses for each client: it gets a fifth of the clients."""
IDLE: Final = 5
"""A fifth of the connections gives the same figure for one."""


def deflate(effort: Effort) -> list[Row]:
    """1000 clients with permessage-deflate against the same without, and against `websockets` with its defaults."""
    return [*_against_plain(effort, "bench"), *_against_plain(effort, "varied"), _against_a_peer(effort), _idle(effort)]


def _against_plain(effort: Effort, scenario: str) -> list[Row]:
    windows = compete(
        [
            ours(effort, RATE, name="deflate", scenario=scenario, deflate=True),
            ours(effort, RATE, name="plain", scenario=scenario),
        ],
        effort,
    )
    what = f"{effort.clients} clients x {RATE:g} msg/s, items {'that differ' if scenario == 'varied' else 'alike'}"
    is_claim = scenario == "bench"
    size = _row(windows, f"deflate bytes {scenario}", lambda window: window.mark.bytes / max(window.mark.items, 1))
    cost = _row(windows, f"deflate CPU {scenario}", lambda window: window.cpu_per_million)
    return [
        _with_bar(replace(size, what=what, unit="bytes / item"), 0.12 if is_claim else None),
        _with_bar(replace(cost, what=what, unit=CPU, note=sizes(windows["plain"])), 1.05 if is_claim else None),
    ]


def _row(windows: dict[str, list[Window]], name: str, measure: Callable[[Window], float]) -> Row:
    mine, plain = windows["deflate"], windows["plain"]
    return Row(
        name=name,
        what="",
        value=median(mine, measure),
        against="plain",
        against_value=median(plain, measure),
        ratio=median_ratio(mine, plain, measure),
    )


def _with_bar(row: Row, bar: float | None) -> Row:
    assert row.ratio is not None
    return row if bar is None else replace(row, bar=f"<= {bar:g} x", met=row.ratio <= bar)


def _against_a_peer(effort: Effort) -> Row:
    clients = effort.clients // FEW
    windows = compete(
        [ours(effort, RATE, clients=clients, deflate=True), websockets(clients, RATE, "compressed")], effort
    )
    mine, theirs = windows["ours"], windows["websockets-compressed"]
    size = median_ratio(mine, theirs, lambda window: window.mark.bytes / max(window.mark.items, 1))
    ratio = median_ratio(mine, theirs, lambda window: window.cpu_per_million)
    return Row(
        name="deflate websockets",
        what=f"{clients} clients x {RATE:g} msg/s, items alike",
        value=median(mine, lambda window: window.cpu_per_million),
        unit=CPU,
        against="websockets, its default compression",
        against_value=median(theirs, lambda window: window.cpu_per_million),
        ratio=ratio,
        bar="ahead (< 1 x)",
        met=ratio < 1.0,
        note=f"{size:.2f} x its bytes; websockets: {sizes(theirs)}",
    )


def _idle(effort: Effort) -> Row:
    fewer = replace(effort, connections=effort.connections // IDLE)
    mine, plain = idle_bytes(fewer, deflate=True), idle_bytes(fewer)
    return Row(
        name="deflate memory",
        what=f"resident for each of {fewer.connections} idle connections",
        value=mine / KIB,
        unit="KB",
        against="plain",
        against_value=plain / KIB,
        ratio=mine / plain,
    )
