"""Carries out what clients command, strictly in order for each of them, and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final, assert_never

from ..exceptions import AuthenticationError, HubError, TooManyRequests
from ..identity import Identity
from ..protocol import (
    Auth,
    CloseCode,
    CommandId,
    Parsed,
    Ping,
    Refused,
    Seen,
    Selection,
    Subscribe,
    Unsubscribe,
    control_item,
)
from ..tuning import Tuning
from .current_time import CurrentTime
from .events import AskAuthorize, CheckToken, Confirmed, Event, Pause
from .session import Session, SessionState
from .subscriptions import Subscriptions

MALFORMED_IN_A_ROW: Final = 10
MAX_REFUSED: Final = 1000
"""Commands over the rate that are answered before the client is closed: a second's worth at the default rate. Each that
is served makes up for one refused and no more, because in any flood some fall due."""

TURN: Final = 64
"""Commands, and channels that they name, that are carried out in one go for one session, before others have theirs.
Each takes 5 to 70 µs."""
HELD: Final = 16
"""Subscriptions that a session holds and that cost as much to move to another cohort as one to begin."""


class CommandHandler:
    """The commands of all sessions. A transition has no await in it: an answer from outside comes back as a call."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        moment: CurrentTime,
        tuning: Tuning,
        hello: dict[str, Any],
        *,
        say: Callable[..., None],
        end: Callable[[Session, int, str], None],
        ask: Callable[[Event], None],
        counters: Counter[str],
        asks_to_authorize: bool,
    ) -> None:
        self._subscriptions = subscriptions
        self._moment = moment
        self._tuning = tuning
        self._hello = hello
        self._say = say
        self._end = end
        self._ask = ask
        self._counters = counters
        self._asks_to_authorize = asks_to_authorize
        self._waiting: dict[Session, Subscribe] = {}
        self._unfinished: dict[Session, None] = {}

    # --- in order

    @property
    def is_unfinished(self) -> bool:
        """Whether somebody has commands left that wait for nothing but their turn."""
        return bool(self._unfinished)

    def go_on(self, now: float) -> list[Session]:
        """Carry out what did not fit into the turn before, one session after the other, but no more than in a turn.

        Returns the sessions that had one.
        """
        sessions = []
        left = TURN
        while self._unfinished and left > 0:
            session = next(iter(self._unfinished))
            del self._unfinished[session]
            left = self.proceed(session, now, left)
            sessions.append(session)
        return sessions

    def receive(self, session: Session, commands: list[Parsed], size: int, now: float) -> None:
        """Carry out commands that came in one frame of `size` bytes, or let them wait behind one that waits."""
        share = size // max(1, len(commands)) + 1
        session.commands.extend((command, share) for command in commands)
        session.commands_bytes += share * len(commands)
        self.proceed(session, now)

    def proceed(self, session: Session, now: float, left: int = TURN) -> int:
        """Carry out what waits, up to the next command that needs an answer from outside, or the end of the turn.

        So much may be `left` of the turn; returns what then is.
        """
        while session.commands and not session.is_waiting and not session.is_closed:
            if left <= 0:
                self._unfinished[session] = None
                break
            command, share = session.commands.pop(0)
            session.commands_bytes -= share
            if not session.bucket.take(now):
                self._refuse_for_rate(session, command.id, now)
                continue  # it costs little, and more than `MAX_REFUSED` are the end
            weight = self._weight(session, command)
            session.bucket.spend(weight - 1)  # which may be a debt, or a low rate would never allow some
            left -= weight
            self._carry_out(session, command)
        if session.is_closed:
            session.commands.clear()
            return left
        is_over = session.commands_bytes > self._tuning.pending_bytes
        if is_over != session.is_paused and (is_over or not session.commands):
            session.is_paused = is_over
            if is_over:
                self._counters["paused"] += 1
            self._ask(Pause(session, is_over))
        return left

    def _carry_out(self, session: Session, command: Parsed) -> None:
        session.refused = max(0, session.refused - 1)
        if isinstance(command, Refused):
            self._refuse_malformed(session, command)
            return
        session.malformed = 0
        if isinstance(command, Auth):
            session.is_waiting = True
            session.pending_id = command.id
            self._ask(CheckToken(session, command.token))
        elif not session.is_open:
            self.error(session, command.id, "unauthenticated", "the first command must be auth with a token")
        elif isinstance(command, Subscribe):
            self._subscribe(session, command)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(session, command)
        elif isinstance(command, Ping):
            session.is_pinging = True
            self._say(session, control_item("$pong", self._moment.stamp(), id=command.id))
        elif isinstance(command, Seen):
            session.is_pinging = True  # who confirms has begun to say something, and its silence means something too
            self._ask(Confirmed(session, command.frames))
        else:
            assert_never(command)

    def _weight(self, session: Session, command: Parsed) -> int:
        """What a command counts: one, or one for each channel that it names and for each `HELD` that must be moved."""
        if not isinstance(command, Subscribe | Unsubscribe):
            return 1
        return min(len(command.channels), self._tuning.max_subscriptions) + len(session.subscriptions) // HELD

    def error(self, session: Session, id: CommandId, code: str, message: str, after: float | None = None) -> None:
        """Answer with an `$error`; with `after` the client may try again in so many seconds."""
        self._counters[f"error-{code}"] += 1
        fields: dict[str, Any] = {} if id is None else {"id": id}
        fields |= {"code": code, "message": message, "retry": "never" if after is None else "later"}
        if after is not None:
            fields["after"] = round(after, 3)
        self._say(session, control_item("$error", self._moment.stamp(), **fields))

    def _refuse_for_rate(self, session: Session, id: CommandId, now: float) -> None:
        session.refused += 1
        after = session.bucket.when(now) - now
        rate = self._tuning.command_rate
        self.error(session, id, "rate-limited", f"more than {rate:g} commands a second", after=after)
        if session.refused >= MAX_REFUSED:
            self._end(session, CloseCode.TOO_MANY_COMMANDS, "too many commands")

    def _refuse_malformed(self, session: Session, refused: Refused) -> None:
        session.malformed += 1
        self.error(session, refused.id, refused.code, refused.message)
        if session.malformed >= MALFORMED_IN_A_ROW:
            self._end(session, CloseCode.MALFORMED, f"{MALFORMED_IN_A_ROW} malformed commands in a row")

    # --- auth

    def welcome(self, session: Session) -> None:
        """The first item of a connection that has an identity."""
        session.state = SessionState.OPEN
        limits = {**self._hello["limits"], "message": session.max_message}
        fields = {"session": session.id, **self._hello, "limits": limits, "expires": self._expires(session.identity)}
        self._say(session, control_item("$hello", self._moment.stamp(), **fields))

    @staticmethod
    def _expires(identity: Identity | None) -> float | None:
        return identity.expires if identity is not None else None

    def authenticated(
        self,
        session: Session,
        result: Identity | HubError,
        now: float,
    ) -> None:
        """The answer to `CheckToken`."""
        if session.is_closed or not session.is_waiting:
            return
        asked, session.pending_id = session.pending_id, None
        if isinstance(result, Identity) and result.expires is not None and result.expires <= self._moment.wall:
            result = AuthenticationError("expired")
        if not isinstance(result, Identity):
            self._refuse_token(session, asked, result)
        elif session.identity is None:
            session.identity = result
            self.welcome(session)
            self._confirm(session, asked)
        elif session.identity.id != result.id:
            self.error(session, asked, "forbidden", "a refreshed token must be for the subject of the session")
        else:
            session.identity = result
            session.expiry_warned = None
            self._confirm(session, asked)
            self.forbid(session, self._subscriptions.lost(session))
        session.is_waiting = False
        self.proceed(session, now)

    def identify(self, session: Session, identity: Identity) -> None:
        """Somebody has decided that an open session has this identity now; what it may not see ends."""
        session.identity = identity
        self.forbid(session, self._subscriptions.lost(session))

    def forbid(self, session: Session, names: Collection[str]) -> None:
        """End those of these subscriptions that there are."""
        lost = [name for name in session.subscriptions if name in names]
        if lost:
            self._say(session, *self._subscriptions.end(session, lost, None, "forbidden"))

    def _confirm(self, session: Session, id: CommandId) -> None:
        fields = {"expires": self._expires(session.identity)} | ({} if id is None else {"id": id})
        self._say(session, control_item("$authenticated", self._moment.stamp(), **fields))

    def _refuse_token(self, session: Session, id: CommandId, error: HubError) -> None:
        after = error.retry_after
        if after is not None and not isinstance(error, TooManyRequests):
            after = self._tuning.reconnect_min
        self.error(session, id, error.error_code, str(error), after)
        if session.identity is None:
            self._end(session, error.close_code, str(error))

    # --- subscriptions

    def _subscribe(self, session: Session, command: Subscribe) -> None:
        if self._is_too_long(session, command):
            return
        if self._asks_to_authorize:
            assert session.identity is not None
            unasked = [
                selection.channel
                for selection in map(_selection, command.channels)
                if selection.channel not in session.subscriptions
                and not self._subscriptions.judge(session, selection.channel)
            ]
            if unasked:
                session.is_waiting = True
                self._waiting[session] = command
                self._ask(AskAuthorize(session, session.identity, tuple(dict.fromkeys(unasked))))
                return
        self._begin(session, command, ())

    def _begin(self, session: Session, command: Subscribe, forbidden: Collection[str]) -> None:
        selections = [_selection(wanted) for wanted in command.channels]
        self._say(session, *self._subscriptions.begin(session, selections, forbidden, command.id))

    def authorized(self, session: Session, allowed: Collection[str], now: float) -> None:
        """The answer to `AskAuthorize`: which of its channels the application allows."""
        command = self._waiting.pop(session, None)
        if command is None or session.is_closed:
            return
        session.is_waiting = False
        # Also what nobody was asked about, for roles or subscriptions that have changed since: it was never allowed.
        names = {_selection(wanted).channel for wanted in command.channels}
        self._begin(session, command, names.difference(allowed, session.subscriptions))
        self.proceed(session, now)

    def forget(self, session: Session) -> None:
        """Nobody waits any more for an answer about this session."""
        self._waiting.pop(session, None)
        self._unfinished.pop(session, None)
        session.commands.clear()

    def _unsubscribe(self, session: Session, command: Unsubscribe) -> None:
        if not self._is_too_long(session, command):
            names = list(dict.fromkeys(command.channels))
            self._say(session, *self._subscriptions.end(session, names, command.id, "asked"))

    def _is_too_long(self, session: Session, command: Subscribe | Unsubscribe) -> bool:
        limit = self._tuning.max_subscriptions
        if len(command.channels) <= limit:
            return False
        message = f"{len(command.channels)} channels in one command; at most {limit} are right"
        self.error(session, command.id, "bad-request", message)
        return True


def _selection(wanted: str | Selection) -> Selection:
    return Selection(wanted) if isinstance(wanted, str) else wanted
