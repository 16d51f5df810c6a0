"""Where a subscription starts: at the end, some items back, at a snapshot, or after a known position."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..protocol import Selection, control_item
from .cohort import Reader
from .log import ChannelLog, KeyedLog


class BadStart(ValueError):
    """The options of a subscription contradict each other or the log."""


class Start(NamedTuple):
    """A reader at its start position `seq`, with what the acknowledgement says about it.

    `position` is where the ledger begins; it is below `seq` where a resume has already lost items.
    """

    reader: Reader
    position: int
    answer: dict[str, Any]
    notices: list[bytes]


def begin(log: ChannelLog, selection: Selection, timestamp: str) -> Start:
    """A reader for `selection` in `log`; raises `BadStart`."""
    if selection.start_options > 1:
        raise BadStart("snapshot, since and last exclude each other; give at most one")
    if selection.since is not None:
        return _resume(log, selection, timestamp)
    if selection.last is not None:
        position = log.back(selection.last)
    elif selection.snapshot or log.conflates:
        position = log.oldest()
    else:
        position = log.head
    return Start(_reader(log, selection, position), position, acknowledge(log, position), [])


def _resume(log: ChannelLog, selection: Selection, timestamp: str) -> Start:
    since = selection.since
    assert since is not None
    if since.epoch != log.epoch:
        return _anew(log, selection, timestamp)
    if since.seq > log.head:
        raise BadStart(f"since.seq {since.seq} is above {log.head}, the newest of channel {log.name!r} in this epoch")
    lost = log.is_lost(since.seq)
    if lost and log.conflates:
        return _anew(log, selection, timestamp)
    reader = _reader(log, selection, since.seq)
    notices = []
    if lost:
        reader.position += lost
        reader.dropped = lost
        span = {"from": since.seq + 1, "to": reader.position}
        notices.append(control_item("$gap", timestamp, channel=log.name, **span, count=lost, reason="retention"))
    return Start(reader, since.seq, acknowledge(log, reader.position, recovered=not lost), notices)


def _anew(log: ChannelLog, selection: Selection, timestamp: str) -> Start:
    """A hole that cannot be counted is never passed off as a recovery: what is kept follows, the ledger begins here."""
    assert selection.since is not None
    position = log.oldest()
    notice = control_item(
        "$gap",
        timestamp,
        channel=log.name,
        **{"from": None, "to": None},
        count=None,
        reason="retention",
        epoch={"old": selection.since.epoch, "new": log.epoch},
    )
    answer = acknowledge(log, position, recovered=False)
    return Start(_reader(log, selection, position), position, answer, [notice])


def _reader(log: ChannelLog, selection: Selection, position: int) -> Reader:
    """A reader that does not resume has seen no key yet, so it needs no deletions of what came before."""
    resumes = selection.since is not None and selection.since.epoch == log.epoch and position == selection.since.seq
    has_deletions = isinstance(log, KeyedLog) and (log.has_tombstones or position < log.floor)
    return Reader(
        log,
        position,
        1 / selection.max_hz if selection.max_hz else 0.0,
        is_fresh=has_deletions and not resumes and position < log.head,
    )


def acknowledge(log: ChannelLog, position: int, **recovered: bool) -> dict[str, Any]:
    """What `$subscribed` says of a channel: every item that follows is above `position`."""
    return {
        "channel": log.name,
        "ok": True,
        "mode": log.channel.mode,
        "epoch": log.epoch,
        "seq": position,
        **recovered,
        "keeps": log.keeps,
    }
