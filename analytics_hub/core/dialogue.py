"""Carries out what clients command, strictly in order for each of them, and answers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, Literal, assert_never

from ..exceptions import ChannelLimitReached, InvalidChannel, UnknownChannel
from ..identity import Identity
from ..protocol import (
    Auth,
    CloseCode,
    CommandId,
    ErrorCode,
    Parsed,
    Ping,
    Refused,
    Selection,
    Subscribe,
    Unsubscribe,
    control,
    name_in_error,
)
from ..tuning import Tuning
from .cohort import Reader
from .events import AskAuthorize, CheckToken, Event, Interest, Pause
from .ledger import Ledger, Subscription
from .log import ChannelLog
from .placement import Placement, Standing
from .registry import SubscriptionRegistry
from .session import Session, SessionState
from .start import BadStart, acknowledge, begin

Refusal = Literal["missing", "invalid", "expired", "forbidden", "unavailable"]
"""Why a token was refused; a client is told nothing finer."""

MALFORMED_IN_A_ROW: Final = 10
REFUSED_IN_A_ROW: Final = 1000
"""Commands over the rate that are answered before the client is closed: a second's worth at the default rate."""


class Outside:
    """What a dialogue needs of the engine: ways to speak, to end a session, to ask the driver, and the time of day."""

    def __init__(
        self,
        say: Callable[..., None],
        end: Callable[[Session, int, str], None],
        ask: Callable[[Event], None],
        timestamp: Callable[[], str],
        wall: Callable[[], float],
    ) -> None:
        self.say = say
        self.end = end
        self.ask = ask
        self.timestamp = timestamp
        self.wall = wall


class Dialogue:
    """The commands of all sessions. A transition has no await in it: an answer from outside comes back as a call."""

    def __init__(
        self,
        registry: SubscriptionRegistry,
        placement: Placement,
        tuning: Tuning,
        outside: Outside,
        hello: dict[str, Any],
        *,
        asks_to_authorize: bool,
    ) -> None:
        self._registry = registry
        self._placement = placement
        self._tuning = tuning
        self._outside = outside
        self._hello = hello
        self._asks_to_authorize = asks_to_authorize
        self._waiting: dict[Session, Subscribe] = {}

    # --- in order

    def receive(self, session: Session, commands: list[Parsed], size: int, now: float) -> None:
        """Carry out commands that came in one frame of `size` bytes, or let them wait behind one that waits."""
        share = size // max(1, len(commands)) + 1
        session.commands.extend((command, share) for command in commands)
        session.commands_bytes += share * len(commands)
        self.proceed(session, now)

    def proceed(self, session: Session, now: float) -> None:
        """Carry out what waits, up to the next command that needs an answer from outside."""
        while session.commands and not session.is_waiting and not session.is_closed:
            command, share = session.commands.popleft()
            session.commands_bytes -= share
            self._carry_out(session, command, now)
        if session.is_closed:
            session.commands.clear()
            return
        is_over = session.commands_bytes > self._tuning.pending_bytes
        if is_over != session.is_paused and (is_over or not session.commands):
            session.is_paused = is_over
            self._outside.ask(Pause(session, is_over))

    def _carry_out(self, session: Session, command: Parsed, now: float) -> None:
        if not session.bucket.take(now):
            self._refuse_for_rate(session, command.id, now)
            return
        session.refused = 0
        if isinstance(command, Refused):
            self._refuse_malformed(session, command)
            return
        session.malformed = 0
        if isinstance(command, Auth):
            session.is_waiting = True
            session.pending_id = command.id
            self._outside.ask(CheckToken(session, command.token))
        elif not session.is_open:
            self.error(session, command.id, "unauthenticated", "the first command must be auth with a token")
        elif isinstance(command, Subscribe):
            self._subscribe(session, command, now)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(session, command, now)
        elif isinstance(command, Ping):
            session.is_pinging = True
            self._outside.say(session, control("$pong", self._outside.timestamp(), id=command.id))
        else:
            assert_never(command)

    def error(self, session: Session, id: CommandId, code: ErrorCode, message: str, after: float | None = None) -> None:
        """Answer with an `$error`; with `after` the client may try again in so many seconds."""
        fields: dict[str, Any] = {} if id is None else {"id": id}
        fields |= {"code": code, "message": message, "retry": "never" if after is None else "later"}
        if after is not None:
            fields["after"] = round(after, 3)
        self._outside.say(session, control("$error", self._outside.timestamp(), **fields))

    def _refuse_for_rate(self, session: Session, id: CommandId, now: float) -> None:
        session.refused += 1
        after = session.bucket.when(now) - now
        rate = self._tuning.command_rate
        self.error(session, id, "rate-limited", f"more than {rate:g} commands a second", after=after)
        if session.refused >= REFUSED_IN_A_ROW:
            self._outside.end(session, CloseCode.TOO_MANY_COMMANDS, "too many commands")

    def _refuse_malformed(self, session: Session, refused: Refused) -> None:
        session.malformed += 1
        self.error(session, refused.id, refused.code, refused.message)
        if session.malformed >= MALFORMED_IN_A_ROW:
            self._outside.end(session, CloseCode.MALFORMED, f"{MALFORMED_IN_A_ROW} malformed commands in a row")

    # --- auth

    def welcome(self, session: Session) -> None:
        """The first item of a connection that has an identity."""
        session.state = SessionState.OPEN
        fields = {"session": session.id, **self._hello, "expires": self._expires(session.identity)}
        self._outside.say(session, control("$hello", self._outside.timestamp(), **fields))

    @staticmethod
    def _expires(identity: Identity | None) -> float | None:
        return identity.expires if identity is not None else None

    def authenticated(self, session: Session, result: Identity | Refusal, now: float) -> None:
        """The answer to `CheckToken`."""
        if session.is_closed or not session.is_waiting:
            return
        asked, session.pending_id = session.pending_id, None
        if isinstance(result, Identity) and result.expires is not None and result.expires <= self._outside.wall():
            result = "expired"
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
            self._revoke_lost(session, result, now)
        session.is_waiting = False
        self.proceed(session, now)

    def _confirm(self, session: Session, id: CommandId) -> None:
        fields = {"expires": self._expires(session.identity)} | ({} if id is None else {"id": id})
        self._outside.say(session, control("$authenticated", self._outside.timestamp(), **fields))

    def _refuse_token(self, session: Session, id: CommandId, refusal: Refusal) -> None:
        message = f"{refusal} token"
        if refusal == "unavailable":
            message = "tokens cannot be checked now"
        after = self._tuning.reconnect_min if refusal == "unavailable" else None
        code: ErrorCode = "forbidden" if refusal == "forbidden" else "unauthenticated"
        self.error(session, id, code, message, after)
        if session.identity is None:
            closing = {"forbidden": CloseCode.FORBIDDEN, "unavailable": CloseCode.INTERNAL_ERROR}
            self._outside.end(session, closing.get(refusal, CloseCode.UNAUTHENTICATED), message)

    def _revoke_lost(self, session: Session, identity: Identity, now: float) -> None:
        lost = [name for name in session.subscriptions if not self._registry.logs[name].channel.admits(identity, name)]
        if lost:
            self._end_subscriptions(session, lost, now, reason="forbidden")

    # --- subscribe

    def _subscribe(self, session: Session, command: Subscribe, now: float) -> None:
        if self._is_too_long(session, command):
            return
        if self._asks_to_authorize:
            assert session.identity is not None
            unasked = [
                selection.channel
                for selection in map(_selection, command.channels)
                if selection.channel not in session.subscriptions and not self._judge(session, selection.channel)
            ]
            if unasked:
                session.is_waiting = True
                self._waiting[session] = command
                self._outside.ask(AskAuthorize(session, session.identity, tuple(dict.fromkeys(unasked))))
                return
        self._carry_out_subscribe(session, command, now, forbidden=())

    def _is_too_long(self, session: Session, command: Subscribe | Unsubscribe) -> bool:
        limit = self._tuning.max_subscriptions
        if len(command.channels) <= limit:
            return False
        message = f"{len(command.channels)} channels in one command; at most {limit} are right"
        self.error(session, command.id, "bad-request", message)
        return True

    def authorized(self, session: Session, allowed: Collection[str], asked: Collection[str], now: float) -> None:
        """The answer to `AskAuthorize`: which of the channels `asked` about the application allows."""
        command = self._waiting.pop(session, None)
        if command is None or session.is_closed:
            return
        session.is_waiting = False
        self._carry_out_subscribe(session, command, now, forbidden=set(asked) - set(allowed))
        self.proceed(session, now)

    def forget(self, session: Session) -> None:
        """Nobody waits any more for an answer about this session."""
        self._waiting.pop(session, None)

    def _judge(self, session: Session, name: str) -> tuple[ErrorCode, str] | None:
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

    def _carry_out_subscribe(
        self, session: Session, command: Subscribe, now: float, forbidden: Collection[str]
    ) -> None:
        self._placement.propagate(now)
        standing = self._placement.detach(session, now)
        answers: list[dict[str, Any]] = []
        ended: list[bytes] = []
        notices: list[bytes] = []
        for selection in map(_selection, command.channels):
            name = selection.channel
            refusal = self._judge(session, name)
            if refusal is None and name in forbidden:
                refusal = "forbidden", f"channel {name!r} was refused by the application"
            if refusal is None:
                refusal = self._start(session, selection, standing, answers, ended, notices)
            if refusal is not None:
                code, message = refusal
                answers.append({"channel": name_in_error(name), "ok": False, "code": code, "message": message})
        self._placement.attach(session, standing, now)
        fields: dict[str, Any] = {} if command.id is None else {"id": command.id}
        answer = control("$subscribed", self._outside.timestamp(), **fields, channels=answers)
        self._outside.say(session, *ended, answer, *notices)

    def _start(
        self,
        session: Session,
        selection: Selection,
        standing: Standing,
        answers: list[dict[str, Any]],
        ended: list[bytes],
        notices: list[bytes],
    ) -> tuple[ErrorCode, str] | None:
        """Begin, restart or pace one subscription; returns why not."""
        name = selection.channel
        held = session.subscriptions.get(name)
        if held is None and len(session.subscriptions) >= self._tuning.max_subscriptions:
            return "too-many-subscriptions", f"a session may hold {self._tuning.max_subscriptions} subscriptions"
        if held is not None and not selection.start_options:
            reader = standing.readers[name]
            held.max_hz = selection.max_hz
            reader.every = 1 / selection.max_hz if selection.max_hz else 0.0
            reader.next_at = 0.0
            reader.update_plain()
            answers.append(acknowledge(reader.log, _settled(reader)))
            return None
        try:
            log = self._registry.resolve(name)
            start = begin(log, selection, self._outside.timestamp())
        except BadStart as error:
            return "bad-request", str(error)
        except ChannelLimitReached as error:
            return "unknown-channel", str(error)
        if held is not None:
            account = self._end_one(session, name, standing, ended)
            ended.append(control("$unsubscribed", self._outside.timestamp(), channels=[account], reason="restarted"))
        standing.readers[name] = start.reader
        session.subscriptions[name] = Subscription(start.position, selection.max_hz)
        answers.append(start.answer)
        notices.extend(start.notices)
        log.watchers += 1
        if log.watchers == 1:
            self._outside.ask(Interest(name, gained=True))
        return None

    # --- unsubscribe

    def _unsubscribe(self, session: Session, command: Unsubscribe, now: float) -> None:
        if self._is_too_long(session, command):
            return
        self._end_subscriptions(session, list(dict.fromkeys(command.channels)), now, id=command.id)

    def _end_subscriptions(
        self, session: Session, names: list[str], now: float, *, id: CommandId = None, reason: str = "asked"
    ) -> None:
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
        item = control("$unsubscribed", self._outside.timestamp(), **fields, channels=accounts, reason=reason)
        self._outside.say(session, *gaps, item)

    def _end_one(self, session: Session, name: str, standing: Standing, gaps: list[bytes]) -> dict[str, Any]:
        """Close one account. A loss that was not reported yet is reported in `gaps`."""
        reader = standing.readers.pop(name)
        if not reader.log.conflates:
            reader.settle()
        if reader.gap:
            first, last, count = reader.gap
            span = {"from": first, "to": last}
            reason = "retention" if reader.log.channel.mode == "durable" else standing.held_by
            gaps.append(control("$gap", self._outside.timestamp(), channel=name, **span, count=count, reason=reason))
        ledger = session.subscriptions.pop(name).ledger(reader).close()
        self.close_ledger(session, reader.log, ledger)
        return {"channel": name, "seq": _settled(reader), "abandoned": ledger.abandoned}

    def close_ledger(self, session: Session, log: ChannelLog, ledger: Ledger) -> None:
        """Keep what became of a subscription that has ended, for the channel's totals and the session's own account."""
        session.final[log.name] = ledger
        log.closed.published += ledger.published
        log.closed.delivered += ledger.delivered
        log.closed.conflated += ledger.conflated
        log.closed.dropped += ledger.dropped
        log.closed.abandoned += ledger.abandoned
        log.watchers -= 1
        if not log.watchers:
            self._outside.ask(Interest(log.name, gained=False))


def _selection(wanted: str | Selection) -> Selection:
    return Selection(wanted) if isinstance(wanted, str) else wanted


def _settled(reader: Reader) -> int:
    """The number up to which everything is delivered or accounted for."""
    return reader.carry[0].seq - 1 if reader.carry else reader.position
