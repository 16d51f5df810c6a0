"""Overload: more items than a core can send, the rate limit, and a separate subscription set for each client."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace

from ..contest import Contestant, Effort, Window, compete, median, median_ratio
from ..table import Row
from .contestants import INTERVAL_S, floor, ours
from .fanout import CPU, sizes

RATE, FLOOD_RATE = 1000.0, 10_000.0
FLOOD_TUNING: Mapping[str, object] = {"rate": None, "buffer_items": 4096, "buffer_bytes": 4 * 1024 * 1024}
SET_SIZE, SET_CHANNELS, SETS_PUBLISHED = 20, 500, 25_000.0


def flood_contestant(effort: Effort, profile: str = "") -> Contestant:
    loop = effort.loops[0]
    return ours(effort, FLOOD_RATE, loop=loop, tuning=FLOOD_TUNING, sample=64, profile=profile)


def limited_contestant(effort: Effort, profile: str = "") -> Contestant:
    return ours(effort, RATE, published=2 * RATE, loop=effort.loops[0], profile=profile)


def sets_contestant(effort: Effort, profile: str = "") -> Contestant:
    rng = random.Random(effort.seed)
    commands = [_subscribe(rng) for _ in range(effort.clients)]
    return ours(
        effort,
        SETS_PUBLISHED * SET_SIZE / SET_CHANNELS,
        loop=effort.loops[0],
        scenario="sets",
        commands=commands,
        published=SETS_PUBLISHED,
        profile=profile,
    )


def flood(effort: Effort) -> list[Row]:
    """Ten times the usual rate, without a rate limit."""
    windows = compete(
        [
            flood_contestant(effort),
            floor(effort, FLOOD_RATE, "joined", name="joined", interval=INTERVAL_S),
            floor(effort, FLOOD_RATE, "each", name="each", interval=INTERVAL_S),
        ],
        effort,
    )
    mine = windows["ours"]
    part = median(mine, lambda window: window.delivered)
    p99 = median(mine, lambda window: window.mark.p99)
    what = f"{effort.clients} clients x {FLOOD_RATE:g} msg/s"
    settings = ", ".join(f"{name}={value}" for name, value in FLOOD_TUNING.items())
    c = {name: median(windows[name], lambda window: window.delivered) for name in ("joined", "each")}
    return [
        Row(
            name="flood delivered",
            what=what,
            value=part * 100,
            unit="%",
            against="C, all frames of a tick in one send",
            against_value=c["joined"] * 100,
            ratio=part / c["joined"],
            bar=">= 99 %",
            met=part >= 0.99,
            note=f"{settings}; {sizes(mine)}; C with a send for each frame delivered {c['each']:.1%}",
        ),
        Row(
            name="flood p99",
            what=what,
            value=p99,
            unit="ms p99",
            against="C",
            against_value=median(windows["joined"], lambda window: window.mark.p99),
            ratio=median_ratio(mine, windows["joined"], lambda window: window.mark.p99),
            bar="<= 32 ms",
            met=p99 <= 32,
        ),
        _cost("flood CPU", what, windows, "joined", None),
    ]


def limited(effort: Effort) -> list[Row]:
    """Twice the default rate limit: the cost of dropped items is part of the cost of delivered ones."""
    patient = replace(effort, warm=max(effort.warm, 1.5))  # until the burst of one second is used up
    windows = compete([limited_contestant(effort), floor(effort, RATE)], patient)
    what = f"{effort.clients} clients x {2 * RATE:g} msg/s, rate {RATE:g}/s"
    return [_cost("rate-limited", what, windows, "floor", 1.25)]


def sets(effort: Effort) -> list[Row]:
    """A subscription set of its own for every client, so that nothing is shared."""
    mine = sets_contestant(effort)
    windows = compete([mine, floor(effort, mine.rate, "distinct")], effort)
    what = f"{effort.clients} clients, {SET_SIZE} of {SET_CHANNELS} channels each, {SETS_PUBLISHED:g} msg/s"
    return [_cost("own sets", what, windows, "floor", 1.6)]


def _subscribe(rng: random.Random) -> str:
    names = [f"bench-{number}" for number in rng.sample(range(SET_CHANNELS), SET_SIZE)]
    return json.dumps({"action": "subscribe", "channels": names})


def _cost(name: str, what: str, windows: dict[str, list[Window]], against: str, bar: float | None) -> Row:
    mine, c = windows["ours"], windows[against]
    ratio = median_ratio(mine, c, lambda window: window.cpu_per_million)
    return Row(
        name=name,
        what=what,
        value=median(mine, lambda window: window.cpu_per_million),
        unit=CPU,
        against="C",
        against_value=median(c, lambda window: window.cpu_per_million),
        ratio=ratio,
        bar=f"<= {bar:g} x" if bar else "report",
        met=ratio <= bar if bar else None,
        note=sizes(mine) if bar else "",
    )
