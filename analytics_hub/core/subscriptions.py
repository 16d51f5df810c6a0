"""Begins, paces and ends subscriptions, and closes their accounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from ..exceptions import ChannelLimitReached, InvalidChannel, UnknownChannel
from ..protocol import CommandId, ErrorCode, Selection, control_item, name_in_error
from .current_time import CurrentTime
from .cursor import remember
from .events import Event, Interest
from .ledger import Ledger
from .log import ChannelLog
from .membership import Detached, Membership
from .registry import ChannelRegistry
from .session import Session
from .start import BadStart, acknowledge, begin
from .subscription import Subscription

Refused = tuple[ErrorCode, str]

MAX_CLOSED: Final = 512
"""Closed accounts that a session keeps, or as many as it may have subscriptions; beyond it the oldest go. Who goes
through the members of a pattern closes a thousand a second."""


class Subscriptions:
    """What sessions are subscribed to. Every change returns the control items that tell the client of it."""

    def __init__(
        self,
        registry: ChannelRegistry,
        placement: Membership,
        moment: CurrentTime,
        most: int,
        ask: Callable[[Event], None],
        counters: Counter[str],
    ) -> None:
        self._registry = registry
        self._placement = placement
        self._moment = moment
        self._most = most
        self._ask = ask
        self._counters = counters

    def judge(self, session: Session, name: str) -> Refused | None:
        """Why `session` may not subscribe to `name`, or None; costs nothing that stays."""
        try:
            channel = self._registry.declaration(name)
        except InvalidChannel as error:
            return "bad-request", str(error)
        except UnknownChannel:
            return "unknown-channel", f"channel {name_in_error(name)!r} is not declared"
        assert session.identity is not None
        if not channel.admits(session.identity, name):
            return "forbidden", f"channel {name_in_error(name)!r} is not open to the roles of this token"
        return None

    # --- beginning

    def begin(
        self, session: Session, selections: Sequence[Selection], forbidden: Collection[str], id: CommandId
    ) -> list[bytes]:
        """Subscribe to each of `selections` that may be; the answer names those that may not."""
        now = self._moment.now
        remember(session)
        self._placement.propagate(now)
        standing = self._placement.detach(session, now)
        answers: list[dict[str, Any]] = []
        before: list[bytes] = []
        after: list[bytes] = []
        named: set[str] = set()
        for selection in selections:
            name = selection.channel
            refusal = self.judge(session, name)
            if refusal is None and name in forbidden:
                refusal = "forbidden", f"channel {name!r} was refused by the application"
            if refusal is None and name in named and selection.start_options:
                refusal = "bad-request", f"channel {name!r} is to start twice in one command"
            named.add(name)
            if refusal is None:
                refusal = self._begin_one(session, selection, standing, answers, before, after)
            if refusal is not None:
                code, message = refusal
                self._counters[f"error-{code}"] += 1
                answers.append({"channel": name_in_error(name), "ok": False, "code": code, "message": message})
        self._placement.attach(session, standing, now)
        fields: dict[str, Any] = {} if id is None else {"id": id}
        return [*before, control_item("$subscribed", self._moment.stamp(), **fields, channels=answers), *after]

    def _begin_one(
        self,
        session: Session,
        selection: Selection,
        standing: Detached,
        answers: list[dict[str, Any]],
        before: list[bytes],
        after: list[bytes],
    ) -> Refused | None:
        """Begin, restart or pace one subscription; returns why not."""
        name = selection.channel
        held = session.subscriptions.get(name)
        if held is None and len(session.subscriptions) >= self._most:
            return "too-many-subscriptions", f"a session may hold {self._most} subscriptions"
        if held is not None and not selection.start_options:
            reader = standing.readers[name]
            held.max_hz = selection.max_hz
            reader.pace(1 / selection.max_hz if selection.max_hz else 0.0)
            answers.append(acknowledge(reader.log, reader.settled))
            return None
        try:
            log = self._registry.resolve(name, self._moment.now)
            start = begin(log, selection, self._moment.stamp())
        except BadStart as error:
            return "bad-request", str(error)
        except ChannelLimitReached as error:
            return "unknown-channel", str(error)
        if held is not None:
            account = self._end_one(session, name, standing, before)
            before.append(control_item("$unsubscribed", self._moment.stamp(), channels=[account], reason="restarted"))
        standing.readers[name] = start.reader
        session.subscriptions[name] = Subscription(start.position, selection.max_hz)
        answers.append(start.answer)
        after.extend(start.notices)
        log.watchers += 1
        if log.watchers == 1:
            self._ask(Interest(name, gained=True))
        return None

    # --- ending

    def lost(self, session: Session) -> list[str]:
        """What the identity of a session may not see any more."""
        assert session.identity is not None
        return [
            name
            for name in session.subscriptions
            if not self._registry.logs[name].channel.admits(session.identity, name)
        ]

    def end(self, session: Session, names: Sequence[str], id: CommandId, reason: str) -> list[bytes]:
        """End the subscriptions to `names`; nothing of these channels follows."""
        now = self._moment.now
        remember(session)
        standing = self._placement.detach(session, now)
        gaps: list[bytes] = []
        accounts = [
            self._end_one(session, name, standing, gaps)
            if name in session.subscriptions
            else {"channel": name_in_error(name), "seq": None, "abandoned": 0}
            for name in names
        ]
        self._placement.attach(session, standing, now)
        fields: dict[str, Any] = {} if id is None else {"id": id}
        return [*gaps, control_item("$unsubscribed", self._moment.stamp(), **fields, channels=accounts, reason=reason)]

    def _end_one(self, session: Session, name: str, standing: Detached, gaps: list[bytes]) -> dict[str, Any]:
        """Close one account. A loss that was not reported yet is reported in `gaps`."""
        reader = standing.readers.pop(name)
        reader.put_back()
        ledger = session.subscriptions.pop(name).ledger(reader).close()
        reader.conclude()
        if reader.gap:
            gaps.append(reader.notice(standing.held_by, self._moment.stamp()).data)
        self.close_account(session, reader.log, ledger)
        return {"channel": name, "seq": reader.settled, "abandoned": ledger.abandoned}

    def close_account(self, session: Session, log: ChannelLog, ledger: Ledger) -> None:
        """Keep what became of a subscription that has ended, for the channel's totals and the session's own."""
        final = session.final
        final.pop(log.name, None)
        final[log.name] = ledger
        if len(final) > max(MAX_CLOSED, self._most):
            del final[next(iter(final))]
        log.closed = log.closed + ledger
        log.watchers -= 1
        if not log.watchers:
            self._registry.unwatch(log)
            self._ask(Interest(log.name, gained=False))

    def end_all(self, session: Session, accounts: dict[str, Ledger]) -> None:
        """The session has ended, with these accounts."""
        for name, ledger in accounts.items():
            self.close_account(session, self._registry.logs[name], ledger.close())
        self._placement.remove(session)
        session.subscriptions.clear()
