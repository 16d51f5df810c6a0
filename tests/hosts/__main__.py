"""`python -m tests.hosts` writes the table of `docs/hosts.md`; with names, as `... Starlette`, it prints their rows."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from .matrix import rewrite, row, table
from .pairs import CONCURRENT, PAIRS
from .probe import examine

wanted = [pair for pair in PAIRS if not sys.argv[1:] or any(name in str(pair) for name in sys.argv[1:])]
with ThreadPoolExecutor(CONCURRENT) as pool:
    reports = dict(zip(wanted, pool.map(examine, wanted), strict=True))
for pair, report in reports.items():
    print(row(pair, report.answers), f"  exit code {report.exit_code}", sep="")
    for column, fault in report.faults.items():
        print(f"  {column}: {fault}")
    if sys.argv[1:]:
        print(report.log)
if not sys.argv[1:]:
    rewrite(table({pair: report.answers for pair, report in reports.items()}))
