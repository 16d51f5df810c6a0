"""Where a subscription starts: at the end, some items back, at a snapshot, or after a known position."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..codes import CloseCode
from ..exceptions import HubError
from ..protocol import Selection, control_item
from .log import ChannelLog
from .reader import Reader


class BadStart(HubError, ValueError):
    """The options of a subscription contradict each other or the log."""

    http_code = error_code = "bad-request"
    close_code = CloseCode.MALFORMED


class Start(NamedTuple):
    """A reader at its start position, and what the client must be told about it.

    `position` is where the ledger begins; it is below that of the reader if a resume has lost items.
    """

    reader: Reader
    position: int
    answer: dict[str, Any]
    notices: list[bytes]


def start(log: ChannelLog, selection: Selection, timestamp: str) -> Start:
    """A reader for `selection` in `log`; raises `BadStart`."""
    if selection.start_options > 1:
        raise BadStart("snapshot, since and last exclude each other; give at most one")
    if selection.since is not None:
        return _resume(log, selection, timestamp)
    if selection.last is not None:
        position = log.position_back(selection.last)
    elif selection.snapshot or log.conflates:
        position = log.oldest_position()
    else:
        position = log.head
    return Start(_reader(log, selection, position), position, acknowledgement(log, position), [])


def _resume(log: ChannelLog, selection: Selection, timestamp: str) -> Start:
    since = selection.since
    assert since is not None
    if since.epoch != log.epoch:
        return _start_over(log, selection, timestamp)
    if since.seq > log.head:
        raise BadStart(f"since.seq {since.seq} is above {log.head}, the newest of channel {log.name!r} in this epoch")
    lost = log.count_lost(since.seq) if log.conflates else max(0, log.oldest_position() - since.seq)
    if lost and log.conflates:
        return _start_over(log, selection, timestamp)
    reader = _reader(log, selection, since.seq)
    notices = []
    if lost:
        reader.position += lost
        reader.dropped = lost
        span = {"from": since.seq + 1, "to": reader.position}
        notices.append(control_item("$gap", timestamp, channel=log.name, **span, count=lost, reason="retention"))
    return Start(reader, since.seq, acknowledgement(log, reader.position, recovered=not lost), notices)


def _start_over(log: ChannelLog, selection: Selection, timestamp: str) -> Start:
    """Deliver everything that is kept, after a `$gap` without numbers; the ledger begins here. A hole that cannot be
    counted is never presented as a recovery."""
    assert selection.since is not None
    position = log.oldest_position()
    notice = control_item(
        "$gap",
        timestamp,
        channel=log.name,
        **{"from": None, "to": None},
        count=None,
        reason="retention",
        epoch={"old": selection.since.epoch, "new": log.epoch},
    )
    answer = acknowledgement(log, position, recovered=False)
    return Start(_reader(log, selection, position), position, answer, [notice])


def _reader(log: ChannelLog, selection: Selection, position: int) -> Reader:
    """A reader that does not resume knows no key yet, so it needs no deletions of earlier ones."""
    resumes = selection.since is not None and selection.since.epoch == log.epoch and position == selection.since.seq
    return Reader(
        log,
        position,
        period(selection),
        is_fresh=log.channel.mode == "table" and not resumes and position < log.head,
    )


def period(selection: Selection) -> float:
    """Seconds between two flushes of a subscription with `max_hz`; 0 without."""
    return 1 / selection.max_hz if selection.max_hz else 0.0


def acknowledgement(log: ChannelLog, position: int, **recovered: bool) -> dict[str, Any]:
    """What `$subscribed` says about a channel: every item that follows is above `position`.

    A member of a pattern exists as soon as a client has asked for it, a misspelt one too, so the client is told of it.
    """
    notes = {"pattern": log.channel.name} if log.is_member else {}
    if notes and not log.head:
        notes["message"] = f"nothing was published to this member of {log.channel.name!r} yet"
    return {
        "channel": log.name,
        "ok": True,
        "mode": log.channel.mode,
        "epoch": log.epoch,
        "seq": position,
        **recovered,
        "keeps": log.keeps,
        **notes,
    }
