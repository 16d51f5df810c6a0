"""What a client must be answered: a reference that executes every command on its own."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from analytics_hub.channels import MAX_NAME_LENGTH, Channel
from analytics_hub.core.session import Session
from analytics_hub.exceptions import (
    AuthenticationError,
    AuthenticationUnavailable,
    HubError,
    Overloaded,
    PermissionDenied,
    TooManyRequests,
)
from analytics_hub.identity import Identity

from .model import History, Stream
from .publishing import Publishing
from .wire import Fields

HELD: Final = 16
"""Subscriptions held that count as much as one channel named."""

TOLERANCE: Final = 1e-3
"""The rounding of sums of floats, in tokens and in seconds."""


REFUSALS: Final[tuple[tuple[HubError, Fields, int], ...]] = (
    (AuthenticationError("missing"), {"code": "unauthenticated", "message": "missing token", "retry": "never"}, 4401),
    (AuthenticationError("invalid"), {"code": "unauthenticated", "message": "invalid token", "retry": "never"}, 4401),
    (AuthenticationError("expired"), {"code": "unauthenticated", "message": "expired token", "retry": "never"}, 4401),
    (PermissionDenied("not here"), {"code": "forbidden", "message": "not here", "retry": "never"}, 4403),
    (TooManyRequests("slow down", 7.25), {"code": "rate-limited", "message": "slow down", "after": 7.25}, 4429),
    (Overloaded("full"), {"code": "rate-limited", "message": "full", "after": 0.5}, 1013),
    (
        AuthenticationUnavailable(),
        {"code": "unauthenticated", "message": "tokens cannot be checked now", "after": 0.5},
        1011,
    ),
)
"""Exceptions that may come instead of an identity, their `$error`, and the close code of a session without identity."""
EXPIRED: Final = REFUSALS[2][0]


@dataclass(frozen=True)
class Malformed:
    """An invalid command, and the code of the `$error` that must answer it."""

    text: str
    code: str = "bad-request"
    id: int | None = None


Command = dict[str, Any] | Malformed


@dataclass(frozen=True)
class Expected:
    """A control item that must come: some of its fields, and what the client does then."""

    fields: Fields
    then: Callable[[Fields], None] | None = None


class Bucket:
    """The simplest token bucket."""

    def __init__(self, rate: float | None, now: float) -> None:
        self.rate = rate
        self.capacity = max(1.0, rate or 1.0)
        self.tokens = self.capacity
        self.at = now

    def refill(self, now: float) -> float:
        if self.rate is None:
            return self.capacity
        self.tokens = min(self.capacity, self.tokens + (now - self.at) * self.rate)
        self.at = now
        return self.tokens

    def spend(self, tokens: int = 1) -> None:
        if self.rate is not None:
            self.tokens -= tokens


class ExpectedAnswers:
    """Executes commands without looking at the engine, and lists the control items that must come, in order."""

    def __init__(self, world: Publishing, session: Session, identity: Identity | None) -> None:
        self.world = world
        self.session = session
        self.identity: Identity | None = None
        self.ending: int | None = None
        """The code with which it must be closed."""
        self.expected: deque[Expected] = deque()
        self.queue: deque[Command] = deque()
        self.waits_for: str | None = None
        self.command: Fields = {}
        self.question: tuple[str, ...] = ()
        self.asked_as: Identity | None = None
        """The identity about which the application was asked."""
        self.subscribed: dict[str, Stream] = {}
        """As the engine must have them."""
        self.streams: dict[str, Stream] = {}
        """As the client knows them, from what it has read."""
        self.just_ended: dict[str, Stream] = {}
        self.commands = Bucket(world.tuning.command_rate, world.now)
        self.over_rate = 0
        self.malformed = 0
        self.has_pinged = False
        """Or has confirmed frames with `seen`."""
        self.confirmed: deque[int] = deque()
        """Frames confirmed, but not reported to the driver yet."""
        if identity is not None:
            self.welcome(identity)

    def expect(self, type_: str, then: Callable[[Fields], None] | None = None, **fields: Any) -> None:
        self.expected.append(Expected({"type": type_, **fields}, then))

    def catch_up(self) -> None:
        """After the engine has executed commands: remember the accounts that it closed."""
        for name, stream in self.just_ended.items():
            stream.final = self.session.final[name]
        self.just_ended.clear()

    def welcome(self, identity: Identity) -> None:
        self.identity = identity
        self.expect("$hello", session=self.session.id, protocol=1, expires=identity.expires)

    def error(self, code: str, **fields: Any) -> None:
        self.expect("$error", code=code, **fields)

    def proceed(self) -> None:
        while self.queue and self.waits_for is None and self.ending is None:
            self._execute(self.queue.popleft())

    def _execute(self, command: Command) -> None:
        if self.commands.refill(self.world.now) < 1 - TOLERANCE:
            self.over_rate += 1
            self.command = {"id": command.id} if isinstance(command, Malformed) else command
            self.error("rate-limited", retry="later", **self._id())
            if self.over_rate >= self.world.setup.max_over_rate:
                self.ending = 4429
            return
        names = command.get("channels", ()) if not isinstance(command, Malformed) else ()
        held = len(self.subscribed) // HELD if names else 0
        self.commands.spend(max(1, min(len(names), self.world.tuning.max_subscriptions) + held))
        self.over_rate = max(0, self.over_rate - 1)
        if isinstance(command, Malformed):
            self.malformed += 1
            self.command = {"id": command.id}
            self.error(command.code, retry="never", **self._id())
            if self.malformed >= 10:
                self.ending = 4400
            return
        self.malformed = 0
        self.command = command
        match command["action"]:
            case "auth":
                self.waits_for = "token"
            case _ if self.identity is None:
                self.error("unauthenticated", retry="never", **self._id())
            case "ping":
                self.has_pinged = True
                self.expect("$pong", id=command.get("id"))
            case "seen":
                self.has_pinged = True
                self.confirmed.append(command["frames"])
            case "subscribe":
                self._subscribe(command["channels"])
            case "unsubscribe":
                self._unsubscribe(command["channels"])

    def _id(self) -> Fields:
        return {"id": self.command["id"]} if self.command.get("id") is not None else {}

    def authenticated(self, result: Identity | HubError) -> None:
        """The result for the token that it sent."""
        if self.waits_for != "token" or self.ending is not None:
            return
        self.waits_for = None
        if isinstance(result, Identity) and result.expires is not None and result.expires <= self.world.wall:
            result = EXPIRED
        if isinstance(result, HubError):
            fields, ending = next((fields, ending) for error, fields, ending in REFUSALS if error is result)
            self.expect("$error", **fields, **self._id())
            if self.identity is None:
                self.ending = ending
        elif self.identity is None:
            self.welcome(result)
            self.expect("$authenticated", expires=result.expires, **self._id())
        elif self.identity.id != result.id:
            self.error("forbidden", retry="never", **self._id())
        else:
            self.expect("$authenticated", expires=result.expires, **self._id())
            self.identified(result)
        self.proceed()

    def identified(self, identity: Identity) -> None:
        """The identity changes."""
        self.identity = identity
        self.forbidden([name for name in self.subscribed if not self._is_allowed(self.world.declaration(name), name)])

    def forbidden(self, names: Collection[str]) -> None:
        """These channels are withdrawn."""
        lost = [name for name in self.subscribed if name in names]
        for name in lost:
            self.subscribed[name].allowed_until = self.world.order
        if lost:
            self._expect_end(lost, "forbidden")

    def authorized(self, allowed: Collection[str]) -> None:
        """The answer of the application about the channels in question."""
        if self.waits_for != "authorize" or self.ending is not None:
            return
        self.waits_for = None
        names = [as_selection(wanted)["channel"] for wanted in self.command["channels"]]
        self._start_all(
            self.command["channels"], [name for name in names if name not in allowed and name not in self.subscribed]
        )
        self.proceed()

    # --- subscriptions

    def _is_allowed(self, channel: Channel, name: str) -> bool:
        assert self.identity is not None
        if channel.roles is not None and not channel.roles & self.identity.roles:
            return False
        narrowed = self.identity.channels
        return narrowed is None or any(
            name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in narrowed
        )

    def _error_code(self, name: str) -> str | None:
        if not re.fullmatch(r"[A-Za-z0-9._:/-]{1,255}", name):
            return "bad-request"
        channel = self.world.find_declaration(name)
        if channel is None:
            return "unknown-channel"
        return None if self._is_allowed(channel, name) else "forbidden"

    def _subscribe(self, channels: list[str | Fields]) -> None:
        if len(channels) > self.world.tuning.max_subscriptions:
            self.error("bad-request", retry="never", **self._id())
            return
        if self.world.setup.asks_to_authorize:
            names = [selection["channel"] for selection in map(as_selection, channels)]
            question = [name for name in names if name not in self.subscribed and self._error_code(name) is None]
            if question:
                self.waits_for = "authorize"
                self.question = tuple(dict.fromkeys(question))
                self.asked_as = self.identity
                return
        self._start_all(channels, ())

    def _start_all(self, channels: list[str | Fields], forbidden: Collection[str]) -> None:
        answers: list[Fields] = []
        opened: list[tuple[str, Stream | None]] = []
        for selection in map(as_selection, channels):
            name = selection["channel"]
            code = self._error_code(name) or ("forbidden" if name in forbidden else None)
            if code is None and any(name == other for other, _ in opened) and start_options(selection):
                code = "bad-request"
            stream: Stream | None = None
            answer: Fields = {}
            if code is None:
                code, stream, answer = self._start(name, selection)
            answers.append(named(name) | (answer if code is None else {"ok": False, "code": code}))
            opened.append((name, stream))

        def read(fields: Fields) -> None:
            for (_, stream), answer in zip(opened, fields["channels"], strict=True):
                if stream is not None:
                    self.streams[stream.name] = stream
                    assert answer["seq"] >= stream.seen, f"{answer} starts below {stream.seen}"
                    stream.above = answer["seq"]

        self.expect("$subscribed", read, channels=answers, **self._id())

    def _start(self, name: str, selection: Fields) -> tuple[str | None, Stream | None, Fields]:
        held = self.subscribed.get(name)
        every = 1 / selection["max_hz"] if selection.get("max_hz") else 0.0
        options = start_options(selection)
        if held is None and len(self.subscribed) >= self.world.tuning.max_subscriptions:
            return "too-many-subscriptions", None, {}
        if held is not None and not options:
            held.every = every
            held.paced_since = self.world.now
            return None, held, {"ok": True, "epoch": held.history.epoch}
        if not self.world.may_exist(name):
            return "unknown-channel", None, {}
        if len(options) > 1:
            return "bad-request", None, {}
        history = self.world.histories[name]
        stream = Stream(history, history.head)
        answer: Fields = {}
        if "since" in options:
            since = selection["since"]
            if since["epoch"] == history.epoch and since["seq"] > history.head:
                return "bad-request", None, {}
            stream, answer = self._resume(history, since, self.world.now)
        elif "last" in options:
            stream = Stream(history, history.back(selection["last"], self.world.now))
        elif "snapshot" in options or history.conflates:
            stream = Stream(history, history.oldest(self.world.now))
        stream.every = every
        if held is not None:
            self._expect_end([name], "restarted")
        self.subscribed[name] = stream
        stream.paced_since = self.world.now
        answer = {"ok": True, "epoch": history.epoch, "mode": history.channel.mode, "seq": stream.start} | answer
        return None, stream, answer

    @staticmethod
    def _resume(history: History, since: Fields, now: float) -> tuple[Stream, Fields]:
        position = since["seq"]
        live = {item.seq for item in history.live()}
        lost = [seq for seq in range(position + 1, history.lost(now) + 1) if not (history.conflates and seq in live)]
        if since["epoch"] != history.epoch or (lost and history.conflates):
            return Stream(history, history.oldest(now), is_broken=True), {"recovered": False}
        return Stream(history, position, resumes=True, has_hole=bool(lost), hole_end=position + len(lost)), {
            "recovered": not lost,
            "seq": position + len(lost),
        }

    def _unsubscribe(self, channels: list[str]) -> None:
        if len(channels) > self.world.tuning.max_subscriptions:
            self.error("bad-request", retry="never", **self._id())
            return
        self._expect_end(list(dict.fromkeys(channels)), "asked", **self._id())

    def _expect_end(self, names: list[str], reason: str, **id_: Any) -> None:
        ended = [self.subscribed.pop(name, None) for name in names]
        for stream in ended:
            if stream is not None:
                stream.end = stream.history.head
                self.world.ended.append(stream)
                self.just_ended[stream.name] = stream

        def read(fields: Fields) -> None:
            for stream, account in zip(ended, fields["channels"], strict=True):
                if stream is None:
                    assert account["seq"] is None and account["abandoned"] == 0, account
                else:
                    del self.streams[stream.name]
                    stream.check_end(account)

        self.expect("$unsubscribed", read, channels=[named(name) for name in names], reason=reason, **id_)


def as_selection(wanted: str | Fields) -> Fields:
    return {"channel": wanted} if isinstance(wanted, str) else wanted


def start_options(selection: Fields) -> list[str]:
    return [option for option in ("snapshot", "since", "last") if selection.get(option, False) is not False]


def named(name: str) -> Fields:
    """How an answer names a channel; a text too long for a name is cut."""
    return {"channel": name} if len(name) <= MAX_NAME_LENGTH else {}
