"""The server of one row under cProfile."""

from __future__ import annotations

import io
import pstats
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from .contest import Contestant, Effort, Running
from .rows import overload
from .rows.contestants import ours

RATE: Final = 1000.0
LINES: Final = 25

PROFILED: Final[dict[str, Callable[[Effort, str], Contestant]]] = {
    "fanout": lambda effort, file: ours(effort, RATE, loop=effort.loops[0], profile=file),
    "flood": overload.flood_contestant,
    "limited": overload.limited_contestant,
    "sets": overload.sets_contestant,
}


def profile(name: str, effort: Effort) -> str:
    """The functions of the server of `name` with the longest own time.

    cProfile makes small Python functions look more expensive than they are, and system calls not.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "profile"
        with ExitStack() as stack:
            running = Running(PROFILED[name](replace(effort, rounds=1), str(file)), stack)
            window = running.measure(None, effort)
        text = io.StringIO()
        pstats.Stats(str(file), stream=text).strip_dirs().sort_stats("tottime").print_stats(LINES)
    head = f"{name}: {window.mark.items} items in {window.mark.seconds:.2f} s, {window.cpu:.2f} CPU s of the server\n"
    return head + text.getvalue()
