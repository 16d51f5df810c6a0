"""The native WebSocket transport under Autobahn's test suite: the quick profile, and how its reports are read."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..support.programs import go_without
from .autobahn.echo import BACKENDS
from .autobahn.report import AGENT, Report
from .autobahn.suite import QUICK, Missing, Profile, find_python, is_installed, run


@pytest.fixture
def python() -> str:
    """The interpreter that has the suite installed."""
    try:
        found = find_python()
    except Missing as missing:
        go_without(str(missing))
    if not is_installed(found):
        go_without("Autobahn's test suite is not installed; to get it: python -m tests.conformance.autobahn.suite")
    return found


def test_every_case_of_the_quick_profile_is_passed_strictly(python: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:  # the threads mostly wait
        reports = [*pool.map(lambda backend: run(python, QUICK, backend, tmp_path / backend), BACKENDS)]

    faults = {}
    for backend, report in zip(BACKENDS, reports, strict=True):
        assert report.failures == ()
        if weak := report.weak:
            # The suite waits one second for an answer, which a busy machine may exceed: run these cases again, alone.
            repeated = Profile(cases=tuple(verdict.case for verdict in weak), count=len(weak), guard=QUICK.guard)
            report = run(python, repeated, backend, tmp_path / f"{backend}-repeated")
        faults[backend] = report.faults
    assert faults == {backend: [] for backend in BACKENDS}


# --- reading reports


def write(folder: Path, **verdicts: tuple[str, str]) -> Path:
    """Write a report as the suite does; `c7_1_6` is the case 7.1.6."""
    index = {}
    for name, (behavior, closing) in verdicts.items():
        (folder / f"{name}.json").write_text(json.dumps({"result": "Said this.", "resultClose": "Closed so."}))
        entry = {"behavior": behavior, "behaviorClose": closing, "duration": 1, "reportfile": f"{name}.json"}
        index[name.removeprefix("c").replace("_", ".")] = entry
    (folder / "index.json").write_text(json.dumps({AGENT: index}))
    return folder


@pytest.mark.parametrize("behavior", ["NON-STRICT", "FAILED", "UNIMPLEMENTED", "INFORMATIONAL", "WRONG CODE"])
def test_a_verdict_that_is_not_ok_is_a_fault(tmp_path: Path, behavior: str) -> None:
    report = Report.read(write(tmp_path, c1_1_10=(behavior, "OK"), c1_1_9=("OK", behavior), c1_1_2=("OK", "OK")), 3)

    assert report.faults == [
        f"1.1.9: OK, closing {behavior}: Said this. Closed so.",
        f"1.1.10: {behavior}, closing OK: Said this. Closed so.",
    ]


def test_an_informational_case_must_be_informational(tmp_path: Path) -> None:
    report = Report.read(write(tmp_path, c7_1_6=("INFORMATIONAL", "INFORMATIONAL"), c7_13_1=("FAILED", "OK")), 2)

    assert report.faults == ["7.13.1: FAILED, closing OK: Said this. Closed so."]


def test_a_missing_verdict_and_a_failure_of_the_suite_are_faults(tmp_path: Path) -> None:
    assert Report.read(tmp_path, 247, ["stuck"]).faults == [
        "0 cases have a verdict; there must be 247",
        "stuck",
    ]
    assert Report.read(write(tmp_path, c2_1=("OK", "OK")), 2).faults == ["1 cases have a verdict; there must be 2"]


def test_the_table_counts_by_section(tmp_path: Path) -> None:
    report = Report.read(write(tmp_path, c1_1_1=("OK", "OK"), c1_1_2=("NON-STRICT", "OK"), c12_1_1=("OK", "OK")), 3)

    assert report.table().splitlines()[2:] == [
        "| 1 | Framing | 2 | 1 |",
        "| 12 | Compression: payloads | 1 | 1 |",
        "| | | 3 | 2 |",
    ]
