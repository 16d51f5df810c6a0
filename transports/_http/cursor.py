"""The positions of a stream in all of its channels as one text: the `id:` of server-sent events.

A browser sends the last one back when it reconnects, and nothing else, so it must hold everything: for each channel
the name, the position and the epoch, as in `alerts~12~k3f9.1!routing-metrics~1042~.2`. An epoch that differs from the
previous one only after its last dot is shortened to that part. The text may stand in a header and in a query without
escapes, and a hundred channels with names of 45 characters fit.
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
"""Sent instead of a cursor that would be longer; it holds no position."""
_MAX_EPOCH: Final = 128


def encode_cursor(positions: Positions) -> str:
    """The cursor of these positions; empty for a stream without channels. Never raises."""
    labels = _labels(tuple([(name, epoch) for name, (epoch, _) in positions.items()]))
    cursor = "!".join([f"{name}~{positions[name][1]}~{epoch}" for name, epoch in labels])
    return cursor if len(cursor) <= MAX_CURSOR else LOST


def decode_cursor(text: str) -> dict[str, Position] | None:
    """The position of each channel in a cursor, or None if it is invalid. Never raises."""
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
    """Each name with the text of its epoch, sorted by name. Cached, because it is the same in frame after frame."""
    labels = []
    root = ""
    for name, epoch in sorted(channels):
        previous, root = root, epoch.rpartition(".")[0]
        if root and root == previous:
            labels.append((name, _quote(epoch[len(root) :])))
        else:  # a journal may have any text; one that begins with a dot would be read as a shortened one
            labels.append((name, _quote(epoch).replace(".", "*2E", epoch.startswith("."))))
    return labels


def _quote(text: str) -> str:
    return quote(text, safe="", errors="replace").replace("%", "*").replace("~", "*7E")
