"""What a session must do, or be told, by when."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final

from ..protocol import CloseCode, control_item
from ..tuning import Tuning
from .current_time import CurrentTime
from .output import Output
from .registry import ChannelRegistry
from .schedule import Schedule
from .session import Session, SessionState

_GRAIN: Final = 4  # deadlines are rounded up to a quarter of a second, to share their places in the heap

Ending = tuple[float, CloseCode, str]


class Deadlines:
    """Tokens that do not come or run out, clients that take or say nothing, and the heartbeat."""

    def __init__(
        self,
        moment: CurrentTime,
        tuning: Tuning,
        registry: ChannelRegistry,
        output: Output,
        end: Callable[[Session, int, str], None],
    ) -> None:
        self._moment = moment
        self._tuning = tuning
        self._registry = registry
        self._output = output
        self._end = end
        self.schedule: Schedule[Session] = Schedule()

    def handle_timer(self, now: float) -> None:
        for session in self.schedule.due(now):
            self.check(session)

    def check(self, session: Session) -> None:
        """Do what is due for a session, and remember when to look again."""
        if session.is_closed:
            return
        now = self._moment.now
        times = []
        for at, code, reason in self._endings(session):
            if now >= at:
                self._end(session, code, reason)
                return
            times.append(at)
        if session.is_open:
            times += self._warn(session)
            if not session.is_stalled:
                times.append(self._beat(session))
        # There is always something: who is not open must send a token, who is stalled must take something.
        at = ceil(min(times) * _GRAIN) / _GRAIN
        if session.wake_at is None or at < session.wake_at:
            self.schedule.at(session, at)

    def _endings(self, session: Session) -> list[Ending]:
        """When this session ends if nothing changes, and why."""
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
            left = session.identity.expires - self._moment.wall
            endings.append((self._moment.now + left, CloseCode.UNAUTHENTICATED, "expired token"))
        return endings

    def _warn(self, session: Session) -> list[float]:
        """Say once that the token runs out soon; when to look again."""
        expires = session.identity.expires if session.identity is not None else None
        if expires is None or session.expiry_warned == expires:
            return []
        left = expires - self._moment.wall
        if left > self._tuning.expiry_warning:
            return [self._moment.now + left - self._tuning.expiry_warning]
        session.expiry_warned = expires
        self._output.say(session, control_item("$expiring", self._moment.stamp(), **{"in": round(left, 3)}))
        return []

    def _beat(self, session: Session) -> float:
        """Send `[]` to a session that was written nothing for `heartbeat` seconds; when to look again."""
        last = session.written_at
        if self._moment.now - last >= self._tuning.heartbeat and not session.lane:
            self._output.beat(session)
            last = self._moment.now
        return max(last, self._moment.now - self._tuning.heartbeat) + self._tuning.heartbeat
