"""One text for where a stream stands in all of its channels: the `id:` of server-sent events.

A browser sends the last one back when it reconnects, and nothing else, so it must hold everything: for each channel
the name, the position and the epoch, as in `alerts~12~k3f9.1!routing-metrics~1042~.2`. An epoch that differs from the
one before only after its last dot is cut to that. All of it may stand in a header and in a query as it is, and a
hundred channels with names of 45 characters fit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from ...channels import check_name
from ...core.wire import Positions
from ...exceptions import InvalidChannel
from ...protocol import MAX_SEQ, Position

MAX_CURSOR: Final = 7 * 1024
"""Bytes. Servers and proxies take headers of 8 KiB, as we do."""
LOST: Final = "-"
"""Stands for a cursor that would be longer: nobody can read a position in it."""
_MAX_EPOCH: Final = 128


def encode_cursor(positions: Positions) -> str:
    """The cursor of a stream that stands at these epochs and numbers; empty for one without channels. Never raises."""
    labels = _labels(tuple([(name, epoch) for name, (epoch, _) in positions.items()]))
    cursor = "!".join([f"{name}~{positions[name][1]}~{epoch}" for name, epoch in labels])
    return cursor if len(cursor) <= MAX_CURSOR else LOST


def decode_cursor(text: str) -> dict[str, Position] | None:
    """Where a client that was told this cursor stands in each channel; None if nobody can tell. Never raises."""
    positions: dict[str, Position] = {}
    root = ""
    try:
        for entry in text.split("!"):
            name, seq, label = entry.split("~")
            epoch = unquote(label.replace("*", "%"), errors="strict")
            if label.startswith("."):
                epoch = root + epoch
            root = epoch.rpartition(".")[0]
            if not (seq.isascii() and seq.isdigit() and int(seq) <= MAX_SEQ and len(epoch) <= _MAX_EPOCH):
                return None
            positions[check_name(name)] = Position(epoch, int(seq))
    except (ValueError, InvalidChannel):
        return None
    return positions


@lru_cache(maxsize=256)
def _labels(channels: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Each name with the text of its epoch, in the order of the names: the same frame after frame."""
    labels = []
    root = ""
    for name, epoch in sorted(channels):
        before, root = root, epoch.rpartition(".")[0]
        if root and root == before:
            labels.append((name, _quote(epoch[len(root) :])))
        else:  # a journal may have any text; one that begins with a dot would be taken for the rest of one
            labels.append((name, _quote(epoch).replace(".", "*2E", epoch.startswith("."))))
    return labels


def _quote(text: str) -> str:
    return quote(text, safe="", errors="replace").replace("%", "*").replace("~", "*7E")
