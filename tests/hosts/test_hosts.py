"""Every pair does what it must, and the page says of each what was seen."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import pytest

from ..project.layout import ROOT
from .matrix import committed, row, table
from .pairs import AT_ONCE, PAIRS, Pair
from .probe import NO_END, Report, examine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

_TRACEBACK: Final = re.compile(r"^Traceback .*\n(?:[ +|].*\n)+", re.MULTILINE)
_OURS: Final = (f'"{ROOT / "analytics_hub"}', f'"{ROOT / "transports"}')


class Examinations:
    """Reports on pairs. While one is waited for, the next that are wanted are under way."""

    def __init__(self, pool: ThreadPoolExecutor, wanted: list[Pair]) -> None:
        self._pool = pool
        self._wanted = wanted
        self._begun: dict[Pair, Future[Report]] = {}

    def of(self, pair: Pair) -> Report:
        place = self._wanted.index(pair)
        for near in self._wanted[place : place + AT_ONCE]:
            if near not in self._begun:
                self._begun[near] = self._pool.submit(examine, near)
        return self._begun[pair].result()


@pytest.fixture(scope="module")
def examinations(request: pytest.FixtureRequest) -> Iterator[Examinations]:
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    chosen = {item.callspec.params.get("pair") for item in items if hasattr(item, "callspec")}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield Examinations(pool, [pair for pair in PAIRS if pair in chosen])
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_pair(pair: Pair, examinations: Examinations) -> None:
    report = examinations.of(pair)

    assert report.faults == {}, report.log
    assert report.exit_code in {0, -pair.host.ended_by}, report.log  # uvicorn repeats the signal when it has ended
    # Some servers print tracebacks of their own when they end; none may lead through our code.
    assert [trace for trace in _TRACEBACK.findall(report.log) if any(path in trace for path in _OURS)] == []
    # The page is made with Python 3.11.
    assert row(pair, report.answers).removesuffix(f"{NO_END} |\n") in committed(), (
        "to renew the page: python -m tests.hosts"
    )


def test_the_page_has_these_pairs_and_no_others() -> None:
    lines = committed().splitlines()

    assert lines[:2] == table({pair: {} for pair in PAIRS}).splitlines()[:2]
    assert [line.split(" | ")[:2] for line in lines[2:]] == [[f"| {pair.host.name}", pair.server] for pair in PAIRS]
