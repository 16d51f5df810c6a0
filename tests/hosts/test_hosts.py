"""Every pair passes its checks, and the page has its results."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import pytest

from ..project.layout import ROOT
from .matrix import committed, row, table
from .pairs import CONCURRENT, PAIRS, Pair
from .probe import Report, examine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

_TRACEBACK: Final = re.compile(r"^Traceback .*\n(?:[ +|].*\n)+", re.MULTILINE)
_OURS: Final = (f'"{ROOT / "analytics_hub"}', f'"{ROOT / "transports"}')


class Examinations:
    """Reports on pairs. While a test waits for one, the next pairs are examined."""

    def __init__(self, pool: ThreadPoolExecutor, wanted: list[Pair]) -> None:
        self._pool = pool
        self._wanted = wanted
        self._started: dict[Pair, Future[Report]] = {}

    def report(self, pair: Pair) -> Report:
        place = self._wanted.index(pair)
        for next_pair in self._wanted[place : place + CONCURRENT]:
            if next_pair not in self._started:
                self._started[next_pair] = self._pool.submit(examine, next_pair)
        return self._started[pair].result()


@pytest.fixture(scope="module")
def examinations(request: pytest.FixtureRequest) -> Iterator[Examinations]:
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    chosen = {item.callspec.params.get("pair") for item in items if hasattr(item, "callspec")}
    with ThreadPoolExecutor(CONCURRENT) as pool:
        yield Examinations(pool, [pair for pair in PAIRS if pair in chosen])
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_pair_passes_its_checks_as_the_page_shows(pair: Pair, examinations: Examinations) -> None:
    report = examinations.report(pair)

    assert report.faults == {}, report.log
    assert report.exit_code in {0, -pair.host.ended_by}, report.log  # uvicorn raises the signal again at its end
    # Some servers print tracebacks of their own at their end; none may contain our code.
    assert [trace for trace in _TRACEBACK.findall(report.log) if any(path in trace for path in _OURS)] == []
    assert row(pair, report.answers) in committed(), "to update the page: python -m tests.hosts"


def test_the_page_has_exactly_these_pairs() -> None:
    lines = committed().splitlines()

    assert lines[:2] == table({pair: {} for pair in PAIRS}).splitlines()[:2]
    assert [line.split(" | ")[:2] for line in lines[2:]] == [[f"| {pair.host.name}", pair.server] for pair in PAIRS]
