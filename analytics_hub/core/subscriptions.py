"""Begins, paces and ends subscriptions, and closes their accounts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from ..exceptions import HubError, InvalidChannel, PermissionDenied, UnknownChannel
from ..protocol import CommandId, Selection, name_in_error
from .context import Context
from .cursor import keep_announced
from .events import DemandChanged
from .log import ChannelLog
from .membership import Membership
from .reader import Detached
from .scheduler import Scheduler
from .session import Session, Subscription
from .start import BadStart, acknowledgement, period, start
from .statistics import Ledger

MAX_CLOSED: Final = 512
"""Closed accounts that a session keeps, or as many as it may have subscriptions; then the oldest are dropped. A client
that goes through the members of a pattern closes a thousand a second."""


class TooManySubscriptions(HubError):
    """The session has its maximum number of subscriptions already."""

    error_code = "too-many-subscriptions"


class _Reply(NamedTuple):
    """The answer to `subscribe` in the making: what it says of each channel, and the control items around it."""

    before: list[bytes]
    channels: list[dict[str, Any]]
    after: list[bytes]


class Subscriptions:
    """The subscriptions of all sessions. Every change returns the control items that tell the client about it."""

    def __init__(self, context: Context, scheduler: Scheduler, membership: Membership) -> None:
        self._context = context
        self._registry = context.registry
        self._current_time = context.current_time
        self._counters = context.counters
        self._most = context.tuning.max_subscriptions
        self._scheduler = scheduler
        self._membership = membership

    def check_allowed(self, session: Session, name: str) -> None:
        """Raise `InvalidChannel`, `UnknownChannel` or `PermissionDenied` if `session` may not subscribe to `name`.

        The messages are for the client. Creates no channel.
        """
        if name.endswith("*"):
            shown = name_in_error(name)
            raise InvalidChannel(f"{shown!r} is a pattern; subscribe to its members, each by its whole name")
        try:
            channel = self._registry.declaration(name)
        except UnknownChannel:  # its message names other channels
            raise UnknownChannel(f"channel {name_in_error(name)!r} is not declared") from None
        assert session.identity is not None
        if not channel.admits(session.identity, name):
            raise PermissionDenied(f"channel {name_in_error(name)!r} is not open to the roles of this token")

    def is_allowed(self, session: Session, name: str) -> bool:
        try:
            self.check_allowed(session, name)
        except HubError:
            return False
        return True

    # --- beginning

    def subscribe(
        self, session: Session, selections: Sequence[Selection], forbidden: Collection[str], id: CommandId
    ) -> list[bytes]:
        """Subscribe to each of `selections`, if allowed; the answer says of each whether it was."""
        now = self._current_time.now
        keep_announced(session)
        self._scheduler.propagate(now)
        detached = self._membership.detach(session, now)
        reply = _Reply([], [], [])
        named: set[str] = set()
        for selection in selections:
            name = selection.channel
            try:
                self.check_allowed(session, name)
                if name in forbidden:
                    raise PermissionDenied(f"channel {name!r} was refused by the application")
                if name in named and selection.start_options:
                    raise BadStart(f"channel {name!r} is to start twice in one command")
                self._subscribe_one(session, selection, detached, reply)
            except HubError as error:
                code = error.error_code
                self._counters[f"error-{code}"] += 1
                answer = {"channel": name_in_error(name), "ok": False, "code": code, "message": str(error)}
                reply.channels.append(answer)
            named.add(name)
        self._membership.attach(session, detached, now)
        return [*reply.before, self._context.answer("$subscribed", id, channels=reply.channels), *reply.after]

    def _subscribe_one(self, session: Session, selection: Selection, detached: Detached, reply: _Reply) -> None:
        """Begin, restart or pace one subscription; raises `HubError`."""
        name = selection.channel
        held = session.subscriptions.get(name)
        if held is None and len(session.subscriptions) >= self._most:
            raise TooManySubscriptions(f"a session may hold {self._most} subscriptions")
        if held is not None and not selection.start_options:
            reader = detached.readers[name]
            held.max_hz = selection.max_hz
            reader.set_pace(period(selection))
            self._demand_changed(reader.log)
            reply.channels.append(acknowledgement(reader.log, reader.written_position))
            return
        log = self._registry.resolve(name, self._current_time.now)
        log.expire(self._current_time.now)
        started = start(log, selection, self._current_time.stamp())
        if held is not None:
            account = self._unsubscribe_one(session, name, detached, reply.before)
            reply.before.append(self._context.control_item("$unsubscribed", channels=[account], reason="restarted"))
        detached.readers[name] = started.reader
        session.subscriptions[name] = Subscription(started.position, selection.max_hz)
        reply.channels.append(started.answer)
        reply.after.extend(started.notices)
        log.watchers += 1
        self._demand_changed(log)

    # --- ending

    def no_longer_allowed(self, session: Session) -> list[str]:
        """The subscriptions that the identity of a session may not have any more."""
        assert session.identity is not None
        return [
            name
            for name in session.subscriptions
            if not self._registry.logs[name].channel.admits(session.identity, name)
        ]

    def unsubscribe(self, session: Session, names: Sequence[str], id: CommandId, reason: str) -> list[bytes]:
        """End the subscriptions to `names`; no item of these channels follows."""
        now = self._current_time.now
        keep_announced(session)
        detached = self._membership.detach(session, now)
        gaps: list[bytes] = []
        accounts = [
            self._unsubscribe_one(session, name, detached, gaps)
            if name in session.subscriptions
            else {"channel": name_in_error(name), "seq": None, "abandoned": 0}
            for name in names
        ]
        self._membership.attach(session, detached, now)
        return [*gaps, self._context.answer("$unsubscribed", id, channels=accounts, reason=reason)]

    def _unsubscribe_one(self, session: Session, name: str, detached: Detached, gaps: list[bytes]) -> dict[str, Any]:
        """Close one account. A loss that was not reported yet is reported in `gaps`."""
        reader = detached.readers.pop(name)
        reader.put_back()
        ledger = session.subscriptions.pop(name).ledger(reader).close()
        reader.count_final_loss()
        while reader.gaps:
            gaps.append(reader.report_gap(detached.held_by, self._current_time.stamp()).data)
        self._close_account(session, reader.log, ledger)
        return {"channel": name, "seq": reader.written_position, "abandoned": ledger.abandoned}

    def _close_account(self, session: Session, log: ChannelLog, ledger: Ledger) -> None:
        """Keep the ledger of a subscription that has ended, for the totals of the channel and for the session."""
        final = session.final
        final.pop(log.name, None)
        final[log.name] = ledger
        if len(final) > max(MAX_CLOSED, self._most):
            del final[next(iter(final))]
        log.closed_accounts = log.closed_accounts + ledger
        log.watchers -= 1
        self._demand_changed(log)
        if not log.watchers:
            self._registry.unwatched(log)

    def _demand_changed(self, log: ChannelLog) -> None:
        if log.channel.name in self._registry.observed:
            self._context.emit(DemandChanged(log.channel.name))

    def end_all(self, session: Session, ledgers: dict[str, Ledger]) -> None:
        """The session has ended, with these ledgers."""
        for name, ledger in ledgers.items():
            self._close_account(session, self._registry.logs[name], ledger.close())
        self._membership.remove(session)
        session.subscriptions.clear()
