"""The plugin of `dev.py test`: its parts with fakes, and real runs of pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools import progress
from tools.progress import Estimate, Progress

from .layout import ROOT

SECONDS = st.floats(0.001, 1000)


# --- the time left


def at_speed(durations: list[float], *, workers: int, slower: float) -> list[tuple[float, float]]:
    """Seconds left as estimated, and as it was last time, after each test of one that takes `slower` times as long."""
    previous = {str(number): seconds for number, seconds in enumerate(durations)}
    estimate = Estimate(previous, previous, workers)
    pairs = []
    for test, done in zip(previous, accumulate(durations), strict=True):
        estimate.finish(test)
        left = estimate.seconds_left(slower * done / workers)
        assert left is not None
        pairs.append((left, (sum(durations) - done) / workers))
    return pairs


@given(st.lists(SECONDS, min_size=1), st.integers(1, 64))
def test_a_run_as_fast_as_the_last_takes_as_long(durations: list[float], workers: int) -> None:
    for left, last_time in at_speed(durations, workers=workers, slower=1):
        assert left == pytest.approx(last_time)


@given(st.lists(SECONDS, min_size=1), st.integers(1, 64), st.floats(0.1, 10))
def test_the_estimate_is_between_last_time_and_the_speed_of_this_run(
    durations: list[float], workers: int, slower: float
) -> None:
    for left, last_time in at_speed(durations, workers=workers, slower=slower):
        least, most = sorted((last_time, slower * last_time))
        assert left == pytest.approx(min(max(left, least), most))


@given(st.integers(1, 100), st.integers(1, 100), SECONDS)
def test_where_most_are_new_each_test_counts_the_same(done: int, left: int, elapsed: float) -> None:
    tests = [str(number) for number in range(done + left)]
    estimate = Estimate(tests, dict.fromkeys(tests[: len(tests) // 2], 5.0 * done), 2)

    assert estimate.seconds_left(elapsed) is None
    for test in tests[:done]:
        estimate.finish(test)

    if elapsed < progress.FIRST:
        assert estimate.seconds_left(elapsed) is None
    else:
        assert estimate.seconds_left(elapsed) == pytest.approx(elapsed * left / done)


@given(st.sets(st.integers(0, 20), min_size=1), st.dictionaries(st.integers(0, 20), SECONDS), SECONDS)
def test_at_the_end_nothing_is_left(tests: set[int], previous: dict[int, float], elapsed: float) -> None:
    """Also where some tests are new, and some of the previous ones are gone."""
    estimate = Estimate([str(test) for test in tests], {str(test): seconds for test, seconds in previous.items()}, 2)

    for test in tests:
        estimate.finish(str(test))

    assert estimate.finished == estimate.total == len(tests)
    assert estimate.seconds_left(elapsed + progress.FIRST) == 0


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (130, "2 min 10 s")])
def test_durations_in_words(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said


# --- what a terminal shows


class Screen:
    """Stands in for pytest's terminal reporter, and does what a terminal does with its output."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self.finished: list[str] = []
        self.current = ""
        self._column = 0

    def isatty(self) -> bool:
        return self._is_terminal

    def flush(self) -> None:
        pass

    def write_raw(self, text: str, *, flush: bool) -> None:
        for character in text:
            if character == "\r":
                self._column = 0
            else:
                self.current = self.current[: self._column] + character + self.current[self._column + 1 :]
                self._column += 1

    def write_line(self, text: str, **markup: bool) -> None:
        self.write_raw(text, flush=False)
        self.finished.append(self.current)
        self.current, self._column = "", 0


class Session:
    """A run of tests as the plugin sees it, on a clock that is set by hand."""

    def __init__(self, tests: list[str], *, is_terminal: bool = True) -> None:
        self.now = 0.0
        self.screen = Screen(is_terminal=is_terminal)
        config: Any = SimpleNamespace(
            getoption={"capture": "fd", "setupshow": False}.__getitem__,
            get_verbosity=lambda _: 0,
            option=SimpleNamespace(tx=["popen"] * 2),
        )
        reporter: Any = self.screen
        self.progress = Progress(config, reporter, lambda: self.now)
        self.progress.pytest_xdist_node_collection_finished(tests)
        self._loop = self.progress.pytest_runtestloop()
        next(self._loop)

    def finish(self, test: str, *, seconds: float, fails: bool = False) -> None:
        self.progress.pytest_runtest_logstart()
        self.now += seconds
        report: Any = SimpleNamespace(nodeid=test, duration=seconds, failed=fails, when="call")
        self.progress.pytest_runtest_logreport(report)
        self.progress.pytest_runtest_logfinish(test)

    def end(self) -> None:
        with pytest.raises(StopIteration):
            self._loop.send(True)


RESULTS = st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=30)


@given(RESULTS, st.integers(20, 100))
def test_a_terminal_shows_one_line_and_the_failures_above(results: list[tuple[float, bool]], width: int) -> None:
    tests = [f"test_{number}" for number in range(len(results))]
    session = Session(tests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        for done, (test, (seconds, fails)) in enumerate(zip(tests, results, strict=True), 1):
            session.finish(test, seconds=seconds, fails=fails)
            if seconds >= progress.REWRITE:
                assert session.screen.current.startswith(f"{done} of {len(tests)}, "[: width - 1])
            assert len(session.screen.current.rstrip()) < width
        session.end()

    assert session.screen.current.strip() == ""
    expected = [f"FAILED {test}" for test, (_, fails) in zip(tests, results, strict=True) if fails]
    assert [line.rstrip() for line in session.screen.finished] == expected


@given(RESULTS)
def test_a_file_gets_a_line_every_ten_seconds(results: list[tuple[float, bool]]) -> None:
    tests = [f"test_{number}" for number in range(len(results))]
    session = Session(tests, is_terminal=False)
    due = progress.REPEAT

    for done, (test, (seconds, _)) in enumerate(zip(tests, results, strict=True), 1):
        before = len(session.screen.finished)
        session.finish(test, seconds=seconds)
        new = session.screen.finished[before:]
        assert len(new) == (session.now >= due)
        if new:
            due = session.now + progress.REPEAT
            assert new[0].startswith(f"{done} of {len(tests)}, {100 * done // len(tests)} %")
    session.end()

    assert session.screen.current == ""


def test_a_test_fails_once_though_two_of_its_subtests_do() -> None:
    session = Session(["test"])

    session.finish("test", seconds=1, fails=True)
    session.finish("test", seconds=1, fails=True)

    assert session.screen.finished == ["FAILED test"]


def test_a_worker_that_is_replaced_changes_no_count() -> None:
    session = Session(["one", "two", "three"])
    session.finish("one", seconds=1)

    session.progress.pytest_xdist_node_collection_finished(["one", "two", "three"])
    session.finish("two", seconds=1)

    assert session.screen.current.startswith("2 of 3, 66 %")


# --- how tests are distributed


def workers(*arguments: str, has_coverage: bool = False, **options: Any) -> int | None:
    """What `-n auto` becomes; None leaves it to pytest-xdist."""
    defaults = {"capture": "fd", "setupshow": False} | dict.fromkeys(progress.UNSUPPORTED, False)
    config: Any = SimpleNamespace(
        args=list(arguments),
        getoption=(defaults | options).__getitem__,
        pluginmanager=SimpleNamespace(hasplugin=lambda name: has_coverage and name == "_cov"),
    )
    return progress.pytest_xdist_auto_num_workers(config)


HERE = str(Path(__file__))


def test_a_single_file_needs_no_workers() -> None:
    assert workers(HERE) == 0
    assert workers(f"{HERE}::{test_a_single_file_needs_no_workers.__name__}") == 0
    assert workers(f"{HERE}::one", f"{HERE}::another") == 0


def test_several_files_and_folders_get_workers() -> None:
    assert workers(str(Path(__file__).parent)) is None
    assert workers(HERE, str(Path(progress.__file__))) is None


@pytest.mark.parametrize(
    "option", [{"capture": "no"}, {"setupshow": True}, *({name: True} for name in progress.UNSUPPORTED)], ids=str
)
def test_what_workers_cannot_do_needs_none(option: dict[str, Any]) -> None:
    assert workers("tests", **option) == 0


def test_coverage_keeps_the_workers_that_it_counts_on() -> None:
    assert workers(HERE, has_coverage=True) is None


FILES = st.sampled_from("abcde")


@given(st.lists(FILES), st.dictionaries(FILES, SECONDS))
def test_new_and_long_files_come_first(files: list[str], durations: dict[str, float]) -> None:
    items: list[Any] = [SimpleNamespace(nodeid=f"{file}::{number}") for number, file in enumerate(files)]
    config: Any = SimpleNamespace(workerinput={progress.WORKER_KEY: durations})
    sorted_items = list(items)

    progress.pytest_collection_modifyitems(config, sorted_items)

    keys = [
        (-durations.get(file, float("inf")), int(number))
        for file, number in (item.nodeid.split("::") for item in sorted_items)
    ]
    assert keys == sorted(keys)
    assert len(sorted_items) == len(items)


# --- real runs

SUITE: Mapping[str, str] = {
    "conftest.py": "from tools import progress\nprogress.REPEAT = progress.REWRITE = 0.0\n",
    "test_one.py": """
import pytest

@pytest.mark.parametrize("number", range(20))
def test_passes(number): pass

def test_fails(): assert False

def test_with_parts(subtests):
    for part in "ab":
        with subtests.test(part): assert False
""",
    "test_two.py": """
import pytest

@pytest.fixture
def broken(): raise ValueError

def test_breaks(broken): pass

def test_is_skipped(): pytest.skip("the reason")

@pytest.mark.xfail
def test_is_known(): assert False
""",
}
TESTS = 25


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name, text in SUITE.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@contextmanager
def started(suite: Path, *arguments: str, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "xdist",
        "-p",
        "tools.progress",
        "-ra",
        "--color=no",
        "--tb=line",
    ]
    environment = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "100"}
    with subprocess.Popen(
        [*command, *arguments],
        cwd=suite,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process


def run(suite: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    with started(suite, *arguments) as process:
        output, _ = process.communicate()
    return process.returncode, output


def run_on_terminal(suite: Path, *arguments: str) -> tuple[int, str]:
    ours, theirs = os.openpty()
    chunks = []
    with started(suite, *arguments, stdout=theirs) as process:
        os.close(theirs)
        try:
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(ours)
    return process.returncode, b"".join(chunks).decode()


def result(output: str) -> str:
    """The last line, without the time."""
    return re.sub(r" in [\d.]+s", "", output.splitlines()[-1]).strip("= ")


RESULT = "4 failed, 20 passed, 1 skipped, 1 xfailed, 1 error"
PROGRESS = re.compile(rf"^(\d+) of {TESTS}, (\d+) %(?:, (.*))?$", re.MULTILINE)
LETTERS = re.compile(r"^(?:test_\w+\.py |[.sxFEu]{3,})", re.MULTILINE)
"""How lines of pytest's own progress begin: with a file, or with letters for what passed, was skipped, and so on."""


@pytest.mark.parametrize("processes", ["--serial", "-n2"])
def test_a_run_shows_progress_then_what_pytest_says_of_it(suite: Path, processes: str) -> None:
    code, output = run(suite, processes)

    assert (code, result(output)) == (1, RESULT)
    assert not LETTERS.search(output)
    head, _, tail = output.partition("short test summary info")
    assert "SKIPPED [1] test_two.py:9: the reason" in tail
    progress = PROGRESS.findall(head)
    assert [int(number) for number, _, _ in progress] == [*range(1, TESTS + 1)]
    assert progress[-1][1] == "100"
    assert progress[-1][2].startswith("3 failed")
    assert sorted(re.findall(r"^(?:FAILED|ERROR) .*$", head, re.MULTILINE)) == [
        "ERROR test_two.py::test_breaks",
        "FAILED test_one.py::test_fails",
        "FAILED test_one.py::test_with_parts",
    ]


@pytest.mark.parametrize("option", ["-q", "-v", "-s", "--co"])
def test_the_result_is_that_of_pytest(suite: Path, option: str) -> None:
    code, output = run(suite, option)

    assert (code, result(output)) == ((0, f"{TESTS} tests collected") if option == "--co" else (1, RESULT))
    assert bool(PROGRESS.search(output)) == (option == "-q")


def test_the_second_run_knows_from_its_first_test_how_long_it_takes(suite: Path) -> None:
    first, second = (PROGRESS.findall(run(suite)[1])[0][2] for _ in range(2))

    assert first == ""
    assert re.fullmatch(r"\d+ s left", second)


def test_the_file_that_took_longest_is_first(suite: Path) -> None:
    cache = suite / ".pytest_cache" / "v" / progress.CACHE_KEY
    cache.parent.mkdir(parents=True)
    cache.write_text('{"test_one.py::test_fails": 2, "test_two.py::test_breaks": 1, "test_two.py::test_is_known": 1.5}')

    _, output = run(suite, "-n1", "--dist", "loadfile", "--no-loadscope-reorder")

    assert re.findall(r"^(?:FAILED|ERROR) (\S+)::", output, re.MULTILINE)[:2] == ["test_two.py", "test_one.py"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_is_left_with_what_pytest_says(suite: Path) -> None:
    code, output = run_on_terminal(suite)

    assert f"\r{TESTS} of {TESTS}, 100 %, 3 failed" in output
    assert (code, result(output)) == (1, RESULT)
