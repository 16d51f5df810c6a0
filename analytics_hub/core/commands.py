"""Executes the commands of clients, strictly in order for each client, and answers them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, assert_never

from ..exceptions import AuthenticationError, HubError, TooManyRequests
from ..identity import ANONYMOUS, Identity
from ..protocol import (
    VERSION,
    Auth,
    CloseCode,
    CommandId,
    InvalidCommand,
    Parsed,
    Ping,
    Seen,
    Selection,
    Subscribe,
    Unsubscribe,
)
from ..tuning import Tuning
from .context import Context
from .events import AskAuthorize, CheckToken, Confirmed, Pause
from .output import Output
from .session import Session, SessionState
from .subscriptions import Subscriptions

MALFORMED_IN_A_ROW: Final = 10
MAX_OVER_RATE: Final = 1000
"""Commands over the rate that are answered before the client is closed: a second's worth at the default rate. Each
command that is executed makes up for one of them and no more, because in any flood some are within the rate."""

TURN: Final = 64
"""Commands, and channels that they name, that are executed for one session before others have their turn. Each takes 5
to 70 µs."""
HELD: Final = 16
"""Subscriptions of a session that cost as much to move to another cohort as one costs to begin."""
_SELECTION_BYTES: Final = 24
"""The size of a selection beside its name, for those that did not come as text."""


class CommandHandler:
    """The commands of all sessions. Nothing here awaits: an answer from outside comes back as a call."""

    def __init__(
        self,
        context: Context,
        subscriptions: Subscriptions,
        output: Output,
        end: Callable[[Session, int, str], None],
        *,
        node: str,
        asks_to_authorize: bool,
    ) -> None:
        self._context = context
        self._tuning = context.tuning
        self._current_time = context.current_time
        self._counters = context.counters
        self._emit = context.emit
        self._subscriptions = subscriptions
        self._send = output.send_control
        self._end = end
        self._hello = _hello(context.tuning, node)
        self._asks_to_authorize = asks_to_authorize
        self._authorizing: dict[Session, Subscribe] = {}
        self._unfinished: dict[Session, None] = {}

    # --- in order

    @property
    def has_unfinished(self) -> bool:
        """Whether there are commands that wait for nothing except their turn."""
        return bool(self._unfinished)

    def continue_unfinished(self, now: float) -> list[Session]:
        """Execute what did not fit into the previous turn, session by session, but no more than fits into one turn.

        Returns the sessions concerned.
        """
        sessions = []
        left = TURN
        while self._unfinished and left > 0:
            session = next(iter(self._unfinished))
            del self._unfinished[session]
            left = self.proceed(session, now, left)
            sessions.append(session)
        return sessions

    def receive(self, session: Session, commands: Sequence[Parsed], size: int, now: float) -> None:
        """Execute commands that came in one frame of `size` bytes, or queue them behind one that waits."""
        share = size // max(1, len(commands)) + 1
        session.commands.extend((command, share) for command in commands)
        session.commands_bytes += share * len(commands)
        self.proceed(session, now)

    def receive_selections(self, session: Session, selections: Sequence[Selection], now: float) -> None:
        """The same for selections that did not come in a frame: as few `subscribe` commands as their bound allows."""
        most = self._tuning.max_subscriptions
        commands = [Subscribe(channels=list(selections[at : at + most])) for at in range(0, len(selections), most)]
        size = sum(len(selection.channel) + _SELECTION_BYTES for selection in selections)
        self.receive(session, commands, size, now)

    def proceed(self, session: Session, now: float, left: int = TURN) -> int:
        """Execute what is queued, up to the next command that needs an answer from outside, or the end of the turn.

        `left` is what is left of the turn; returns what is left of it then.
        """
        while session.commands and not session.is_waiting and not session.is_closed:
            if left <= 0:
                self._unfinished[session] = None
                break
            command, share = session.commands.pop(0)
            session.commands_bytes -= share
            if not session.bucket.take(now):
                self._answer_over_rate(session, command.id, now)
                continue  # it costs little, and more than `MAX_OVER_RATE` of them end the session
            cost = self._cost(session, command)
            session.bucket.spend(cost - 1)  # into debt if need be: a low rate would never allow some commands otherwise
            left -= cost
            self._execute(session, command)
        if session.is_closed:
            session.commands.clear()
            return left
        is_over = session.commands_bytes > self._tuning.pending_bytes
        if is_over != session.is_paused and (is_over or not session.commands):
            session.is_paused = is_over
            if is_over:
                self._counters["paused"] += 1
            self._emit(Pause(session, is_over))
        return left

    def _execute(self, session: Session, command: Parsed) -> None:
        session.over_rate = max(0, session.over_rate - 1)
        if isinstance(command, InvalidCommand):
            self._answer_invalid(session, command)
            return
        session.malformed = 0
        if isinstance(command, Auth):
            session.is_waiting = True
            session.pending_id = command.id
            self._emit(CheckToken(session, command.token))
        elif not session.is_open:
            self._send_error(session, command.id, "unauthenticated", "the first command must be auth with a token")
        elif isinstance(command, Subscribe):
            self._subscribe(session, command)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(session, command)
        elif isinstance(command, Ping):
            session.is_pinging = True
            self._send(session, self._context.control_item("$pong", id=command.id))
        elif isinstance(command, Seen):
            session.is_pinging = True  # from the first confirmation on, silence means that the client is gone
            self._emit(Confirmed(session, command.frames))
        else:
            assert_never(command)

    def _cost(self, session: Session, command: Parsed) -> int:
        """How many commands it counts as: one, or one for each channel named and for each `HELD` that must be moved."""
        if not isinstance(command, Subscribe | Unsubscribe):
            return 1
        return min(len(command.channels), self._tuning.max_subscriptions) + len(session.subscriptions) // HELD

    # --- errors

    def _send_error(self, session: Session, id: CommandId, code: str, message: str, after: float | None = None) -> None:
        """Answer with an `$error`; with `after` the client may try again in that many seconds."""
        self._counters[f"error-{code}"] += 1
        retry = {"retry": "never"} if after is None else {"retry": "later", "after": round(after, 3)}
        self._send(session, self._context.answer("$error", id, code=code, message=message, **retry))

    def _answer_over_rate(self, session: Session, id: CommandId, now: float) -> None:
        session.over_rate += 1
        after = session.bucket.when(now) - now
        rate = self._tuning.command_rate
        self._send_error(session, id, "rate-limited", f"more than {rate:g} commands a second", after=after)
        if session.over_rate >= MAX_OVER_RATE:
            self._end(session, CloseCode.TOO_MANY_COMMANDS, "too many commands")

    def _answer_invalid(self, session: Session, command: InvalidCommand) -> None:
        session.malformed += 1
        self._send_error(session, command.id, command.code, command.message)
        if session.malformed >= MALFORMED_IN_A_ROW:
            self._end(session, CloseCode.MALFORMED, f"{MALFORMED_IN_A_ROW} malformed commands in a row")

    # --- identity

    def open(self, session: Session) -> None:
        """The session has an identity: `$hello` is its first item."""
        session.state = SessionState.OPEN
        limits = {**self._hello["limits"], "message": session.max_message}
        fields = {"session": session.id, **self._hello, "limits": limits, "expires": _expires(session.identity)}
        self._send(session, self._context.control_item("$hello", **fields))

    def authenticated(self, session: Session, result: Identity | HubError, now: float) -> None:
        """The answer to `CheckToken`."""
        if session.is_closed or not session.is_waiting:
            return
        id, session.pending_id = session.pending_id, None
        if isinstance(result, Identity) and result.expires is not None and result.expires <= self._current_time.wall:
            result = AuthenticationError("expired")
        if not isinstance(result, Identity):
            self._answer_bad_token(session, id, result)
        elif session.identity is None:
            session.identity = result
            self.open(session)
            self._send_authenticated(session, id)
        elif session.identity.id != result.id and session.identity is not ANONYMOUS:
            self._send_error(session, id, "forbidden", "a refreshed token must be for the subject of the session")
        else:
            session.expiry_warned = None
            session.identity = result
            self._send_authenticated(session, id)
            self.forbid(session, self._subscriptions.no_longer_allowed(session))
        session.is_waiting = False
        self.proceed(session, now)

    def identify(self, session: Session, identity: Identity) -> None:
        """An open session has this identity from now on; subscriptions that it does not allow end."""
        session.identity = identity
        self.forbid(session, self._subscriptions.no_longer_allowed(session))

    def forbid(self, session: Session, names: Collection[str]) -> None:
        """End the subscriptions to these channels, if there are any."""
        lost = [name for name in session.subscriptions if name in names]
        if lost:
            self._send(session, *self._subscriptions.unsubscribe(session, lost, None, "forbidden"))

    def _send_authenticated(self, session: Session, id: CommandId) -> None:
        self._send(session, self._context.answer("$authenticated", id, expires=_expires(session.identity)))

    def _answer_bad_token(self, session: Session, id: CommandId, error: HubError) -> None:
        after = error.retry_after
        if after is not None and not isinstance(error, TooManyRequests):
            after = self._tuning.reconnect_min
        self._send_error(session, id, error.error_code, str(error), after)
        if session.identity is None:
            self._end(session, error.close_code, str(error))

    # --- subscriptions

    def _subscribe(self, session: Session, command: Subscribe) -> None:
        if self._is_too_long(session, command):
            return
        if self._asks_to_authorize:
            assert session.identity is not None
            names = [
                selection.channel
                for selection in map(_selection, command.channels)
                if selection.channel not in session.subscriptions
                and self._subscriptions.is_allowed(session, selection.channel)
            ]
            if names:
                session.is_waiting = True
                self._authorizing[session] = command
                self._emit(AskAuthorize(session, session.identity, tuple(dict.fromkeys(names))))
                return
        self._finish_subscribe(session, command, ())

    def _finish_subscribe(self, session: Session, command: Subscribe, forbidden: Collection[str]) -> None:
        selections = [_selection(wanted) for wanted in command.channels]
        self._send(session, *self._subscriptions.subscribe(session, selections, forbidden, command.id))

    def authorized(self, session: Session, allowed: Collection[str], now: float) -> None:
        """The answer to `AskAuthorize`: those of its channels that the application allows."""
        command = self._authorizing.pop(session, None)
        if command is None or session.is_closed:
            return
        session.is_waiting = False
        # Roles or subscriptions may have changed since, so that a channel is here that the application was not asked
        # about: it was never allowed.
        names = {_selection(wanted).channel for wanted in command.channels}
        self._finish_subscribe(session, command, names.difference(allowed, session.subscriptions))
        self.proceed(session, now)

    def forget(self, session: Session) -> None:
        """A session has ended: its commands are dropped, and an answer about it is ignored."""
        self._authorizing.pop(session, None)
        self._unfinished.pop(session, None)
        session.commands.clear()

    def _unsubscribe(self, session: Session, command: Unsubscribe) -> None:
        if not self._is_too_long(session, command):
            names = list(dict.fromkeys(command.channels))
            self._send(session, *self._subscriptions.unsubscribe(session, names, command.id, "asked"))

    def _is_too_long(self, session: Session, command: Subscribe | Unsubscribe) -> bool:
        limit = self._tuning.max_subscriptions
        if len(command.channels) <= limit:
            return False
        message = f"{len(command.channels)} channels in one command; at most {limit} are allowed"
        self._send_error(session, command.id, "bad-request", message)
        return True


def _selection(wanted: str | Selection) -> Selection:
    return Selection(wanted) if isinstance(wanted, str) else wanted


def _expires(identity: Identity | None) -> float | None:
    return identity.expires if identity is not None else None


def _hello(tuning: Tuning, node: str) -> dict[str, Any]:
    """The fields of `$hello` that are the same for all sessions."""
    return {
        "protocol": VERSION,
        "node": node,
        "heartbeat": tuning.heartbeat,
        "limits": {
            "subscriptions": tuning.max_subscriptions,
            "batch": tuning.max_batch,
            "buffer": tuning.buffer_items,
            "rate": tuning.rate,
            "commands": tuning.command_rate,
            "connections": tuning.max_per_identity,
        },
        "reconnect": {"min": tuning.reconnect_min, "max": tuning.reconnect_max},
    }
