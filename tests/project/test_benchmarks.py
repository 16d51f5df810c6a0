"""The benchmarks run and report; their figures are not checked here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.__main__ import GROUPS, main, run_group
from benchmarks.contest import QUICK, compete
from benchmarks.rows.contestants import ours
from benchmarks.table import HEADERS, Row, not_run, render


def test_a_table_has_a_line_for_each_row_and_aligned_columns() -> None:
    rows = [
        Row(name="a", what="something long", value=12345.6, unit="us", ratio=1.2345, bar="<= 2 x", met=True),
        Row(name="b", what="short", value=0.5, met=False, note="a remark"),
    ]

    head, rule, first, second, *rest = render(rows).splitlines()

    assert len({len(head), len(rule), len(first), len(second)}) == 1
    assert [cell.strip() for cell in head.strip("|").split("|")] == list(HEADERS)
    assert "12 346 us" in first
    assert "1.234 | <= 2 x | yes" in first
    assert second.rstrip(" |").endswith("NO")
    assert rest == ["", "b: a remark"]


def test_a_row_that_cannot_run_states_the_reason() -> None:
    row = not_run("fanout", "many clients", "no C compiler")

    assert "not run" in row.cells
    assert row.met is None
    assert row.note == "not run: no C compiler"


def test_quick_rows_are_reported_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--quick", "--json", "--only", "publish", "--only", "flush", "--only", "bucket"])

    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert report["effort"]["clients"] == QUICK.clients
    assert [row["name"] for row in report["rows"]] == [
        "publish struct",
        "publish one cohort",
        "publish cohorts",
        "flush",
        "token bucket",
    ]
    assert all(row["value"] > 0 for row in report["rows"])


FEW = replace(QUICK, clients=10, seconds=0.1, warm=0.05)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_load_counts_items_of_the_hub_and_of_the_floor() -> None:
    rows = run_group("fanout", FEW)

    assert [row.name for row in rows] == ["fanout asyncio", "latency p50 asyncio", "latency p99 asyncio"]
    assert all(row.value for row in rows), [row.note for row in rows]
    assert rows[0].ratio


def test_the_load_counts_compressed_items() -> None:
    try:
        machine.build("load", "z")
    except machine.CannotRun as reason:
        pytest.skip(str(reason))

    windows = compete([ours(FEW, 1000.0, deflate=True), ours(FEW, 1000.0, name="plain")], FEW)

    (packed,), (plain,) = windows["ours"], windows["plain"]
    assert min(packed.mark.items, plain.mark.items) > 0
    assert packed.item_bytes < plain.item_bytes / 2


def test_without_a_compiler_a_row_states_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "BUILD", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)

    rows = run_group("sparse", QUICK)

    assert [row.note for row in rows] == ["not run: no C compiler (cc, gcc or clang) was found"]


def test_every_group_has_a_docstring() -> None:
    assert all(group.__doc__ for group in GROUPS.values())
