"""What a session must do, or be told, by a certain time."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor
from typing import Final

from ..protocol import CloseCode
from .context import Context
from .output import Output
from .schedule import Schedule
from .session import Session, SessionState

_GRAIN: Final = 4  # deadlines are rounded up to a quarter of a second, to share their places in the heap

Ending = tuple[float, CloseCode, str]


class Deadlines:
    """Tokens that do not arrive or expire, clients that are stalled or silent for too long, and the heartbeat."""

    def __init__(self, context: Context, output: Output, end: Callable[[Session, int, str], None]) -> None:
        self._context = context
        self._current_time = context.current_time
        self._tuning = context.tuning
        self._registry = context.registry
        self._output = output
        self._end = end
        self.schedule: Schedule[Session] = Schedule()

    def handle_timer(self, now: float) -> None:
        for session in self.schedule.due(now):
            self.update(session)

    def update(self, session: Session) -> None:
        """Do what is due for a session, and schedule the next look at it."""
        if session.is_closed:
            return
        now = self._current_time.now
        times = []
        for at, code, reason in self._endings(session):
            if now >= at:
                self._end(session, code, reason)
                return
            times.append(at)
        if session.is_open:
            times += self._warn_of_expiry(session)
            if not session.is_stalled:
                times.append(self._keep_alive(session))
        # Never empty: a session that is not open must send a token, and a stalled one must become writable.
        at = ceil(min(times) * _GRAIN) / _GRAIN
        if at <= now:  # a sum of floats was rounded down to a moment that is not reached yet
            at = (floor(now * _GRAIN) + 1) / _GRAIN
        if session.wake_at is None or at < session.wake_at:
            self.schedule.at(session, at)

    def forget(self, session: Session) -> None:
        """A session has ended: nothing refers to it any longer."""
        self.schedule.cancel(session)

    def _endings(self, session: Session) -> list[Ending]:
        """When and why this session ends if nothing changes."""
        tuning = self._tuning
        endings: list[Ending] = []
        if session.state is SessionState.NEW:
            reason = f"no token within {tuning.auth_timeout:g} s"
            endings.append((session.started + tuning.auth_timeout, CloseCode.TIMEOUT, reason))
        if session.stalled_since is not None:
            is_durable = any(self._registry.logs[n].channel.mode == "durable" for n in session.subscriptions)
            allowed = tuning.durable_write_timeout if is_durable else tuning.write_timeout
            reason = f"nothing could be written for {allowed:g} s"
            endings.append((session.stalled_since + allowed, CloseCode.UNWRITABLE, reason))
        if session.is_pinging:
            reason = f"no sign of life for {tuning.silence_timeout:g} s"
            endings.append((session.last_heard + tuning.silence_timeout, CloseCode.TIMEOUT, reason))
        if session.identity is not None and session.identity.expires is not None:
            left = session.identity.expires - self._current_time.wall
            endings.append((self._current_time.now + left, CloseCode.UNAUTHENTICATED, "expired token"))
        return endings

    def _warn_of_expiry(self, session: Session) -> list[float]:
        """Tell the client once that its token expires soon; returns when to look again."""
        expires = session.identity.expires if session.identity is not None else None
        if expires is None or session.expiry_warned == expires:
            return []
        left = expires - self._current_time.wall
        if left > self._tuning.expiry_warning:
            return [self._current_time.now + left - self._tuning.expiry_warning]
        session.expiry_warned = expires
        self._output.send_control(session, self._context.control_item("$expiring", **{"in": round(left, 3)}))
        return []

    def _keep_alive(self, session: Session) -> float:
        """Send a heartbeat if nothing was written for `heartbeat` seconds; returns when to look again."""
        now = self._current_time.now
        last = session.written_at
        if now - last >= self._tuning.heartbeat and not session.control_queue:
            self._output.send_heartbeat(session)
            last = now
        return max(last, now - self._tuning.heartbeat) + self._tuning.heartbeat
