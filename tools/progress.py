"""The pytest plugin of `python3 dev.py test`: how the tests are distributed over processes, and how far they are.

Progress is one line that is rewritten in place on a terminal, and a new line every ten seconds elsewhere. Failed tests
are named at once. With `-v`, `-s` or `--setup-show` the output is pytest's own.

The durations of the previous run, which pytest's cache keeps, say which files are started first and, together with the
speed of this run, how much time is left. Where most of the tests have not run yet, each counts the same.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Mapping
from math import inf
from pathlib import Path
from typing import Any, Final

import pytest

CACHE_KEY: Final = "analytics-hub/durations"
WORKER_KEY: Final = "analytics_hub_file_durations"
UNSUPPORTED: Final = ("trace", "setuponly", "setupplan", "showfixtures", "show_fixtures_per_test")
"""Options that do not work in workers; pytest-xdist itself takes care of `--pdb`."""
PRIOR: Final = 10.0
"""Seconds for which the speed of the previous run is taken as observed in this one."""
FIRST: Final = 2.0
"""Seconds after which the speed of this run alone is good enough for an estimate."""
REWRITE: Final = 0.2
"""Seconds between two states of the line on a terminal."""
REPEAT: Final = 10.0
"""Seconds between two lines elsewhere: the log stays short, and shows that the run is alive."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--serial",
        action="store_const",
        const=0,
        dest="numprocesses",  # of pytest-xdist
        help="Run all tests in this process, where a debugger works; the same as -n 0.",
    )


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """With `-n auto`: no workers for a single file or test, nor for what a worker cannot do; otherwise all cores."""
    if config.pluginmanager.hasplugin("_cov"):  # by now pytest-cov counts on workers
        return None
    if any(config.getoption(option) for option in UNSUPPORTED) or _shows_what_tests_print(config):
        return 0
    files = {_file(argument) for argument in config.args}
    return 0 if len(files) == 1 and Path(*files).is_file() else None


@pytest.hookimpl(trylast=True)  # after the terminal reporter
def pytest_configure(config: pytest.Config) -> None:
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    if reporter:  # not in a worker
        config.pluginmanager.register(Progress(config, reporter), "progress")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker: the longest files first, so that none of them is still running when all others are finished.

    All workers must agree on the order, therefore the controller tells them the durations. New files come first.
    """
    files: dict[str, float] = getattr(config, "workerinput", {}).get(WORKER_KEY, {})
    items.sort(key=lambda item: files.get(_file(item.nodeid), inf), reverse=True)


def _file(test: str) -> str:
    return test.partition("::")[0]


def _shows_what_tests_print(config: pytest.Config) -> bool:
    return bool(config.getoption("capture") == "no" or config.getoption("setupshow"))


class Estimate:
    """How many tests are finished, and how long the others will take."""

    def __init__(self, tests: Collection[str], previous: Mapping[str, float], workers: int) -> None:
        known = [previous[test] for test in tests if test in previous]
        self._has_previous = len(known) > len(tests) / 2 and sum(known) > 0
        typical = sum(known) / len(known) if self._has_previous else 1.0
        self._left = {test: previous.get(test, typical) if self._has_previous else typical for test in tests}
        self._done = 0.0
        self._workers = workers
        self.total = len(tests)

    @property
    def finished(self) -> int:
        return self.total - len(self._left)

    def finish(self, test: str) -> None:
        self._done += self._left.pop(test, 0.0)

    def seconds_left(self, elapsed: float) -> float | None:
        """None while there is nothing to base it on. O(unfinished tests)."""
        if self._has_previous:
            speed = (self._done + PRIOR * self._workers) / (elapsed + PRIOR)
        elif self._done and elapsed >= FIRST:
            speed = self._done / elapsed
        else:
            return None
        return sum(self._left.values()) / speed


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


class Progress:
    """Replaces the letters that pytest prints for the tests, and records how long each takes."""

    def __init__(
        self, config: pytest.Config, reporter: pytest.TerminalReporter, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._config = config
        self._reporter = reporter
        self._clock = clock
        is_verbose = config.get_verbosity(pytest.Config.VERBOSITY_TEST_CASES) > 0
        self._is_shown = not is_verbose and not _shows_what_tests_print(config)
        if self._is_shown:
            self._reporter.showfspath = False
        self._is_line = self._is_shown and self._reporter.isatty()
        self._line_length = 0
        self._pause = REWRITE if self._is_line else REPEAT
        self._due = 0.0
        self._is_running = False
        self._began: float | None = None
        self._cache: Any = getattr(config, "cache", None)  # none with `-p no:cacheprovider`
        self._previous: dict[str, float] = self._cache.get(CACHE_KEY, {}) if self._cache else {}
        self._durations: dict[str, float] = {}
        self._estimate = Estimate((), {}, 1)
        self._failed: set[str] = set()

    # --- what will run

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        files: defaultdict[str, float] = defaultdict(float)
        for test, seconds in self._previous.items():
            files[_file(test)] += seconds
        node.workerinput[WORKER_KEY] = dict(files)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._expect([item.nodeid for item in session.items], 1)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        if not self._estimate.total:  # each worker collects all tests
            self._expect(ids, len(self._config.option.tx))

    def _expect(self, tests: list[str], workers: int) -> None:
        self._estimate = Estimate(tests, self._previous, workers)

    # --- what happens

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        self._is_running = self._is_shown
        try:
            return (yield)
        finally:
            self._erase()
            self._is_running = False

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        """Counts the test under its category, and prints nothing for it."""
        category, letter, word = yield
        return (category, "", "") if self._is_running else (category, letter, word)

    def pytest_runtest_logstart(self) -> None:
        if self._began is None:
            self._began = self._clock()
            self._due = self._began + self._pause

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        self._durations[test] = self._durations.get(test, 0.0) + report.duration
        if report.failed and self._is_running and test not in self._failed:  # not again for a second subtest
            self._failed.add(test)
            self._erase()
            self._reporter.write_line(f"{'FAILED' if report.when == 'call' else 'ERROR'} {test}", red=True)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._estimate.finish(nodeid)
        if self._is_running and self._clock() >= self._due:
            self._show()

    def pytest_sessionfinish(self) -> None:
        if self._cache and self._durations:
            rounded = {test: round(seconds, 3) for test, seconds in self._durations.items()}
            self._cache.set(CACHE_KEY, self._previous | rounded)

    # --- what is seen

    def _show(self) -> None:
        now = self._clock()
        self._due = now + self._pause
        text = self._text(now)
        if self._is_line:
            text = text[: shutil.get_terminal_size().columns - 1]
            self._reporter.write_raw("\r" + text.ljust(self._line_length), flush=True)
            self._line_length = len(text)
        else:
            self._reporter.write_line(text)
            self._reporter.flush()

    def _text(self, now: float) -> str:
        estimate = self._estimate
        parts = [f"{estimate.finished} of {estimate.total}", f"{100 * estimate.finished // estimate.total} %"]
        if self._failed:
            parts.append(f"{len(self._failed)} failed")
        left = None if self._began is None else estimate.seconds_left(now - self._began)
        if left is not None:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def _erase(self) -> None:
        if self._line_length:
            self._reporter.write_raw("\r" + " " * self._line_length + "\r", flush=True)
            self._line_length = 0
