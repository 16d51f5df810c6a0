"""The client as an application holds it."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, overload

import anyio
from anyio.abc import TaskGroup

from ..exceptions import HubError
from ..protocol import Position
from ..protocol.formats import JSON, MSGPACK
from .connections import Connections
from .exceptions import ClientClosed
from .feed import ROOM, Feed, Options
from .protocol import ClientProtocol
from .subscription import Subscription
from .target import Target, is_header
from .tokens import Token, TokenSource
from .values import Event

T = TypeVar("T")

State = Literal["new", "connecting", "open", "waiting", "closed"]

TIMEOUT: Final = 10.0
"""Seconds for connecting, and again for the answer to the handshake."""

_SUBPROTOCOLS: Final = {
    "json": (JSON.subprotocol,),
    "msgpack": (MSGPACK.subprotocol, JSON.subprotocol),  # an older server knows the second one only
}


class HubClient:
    """A client of one hub, for as many channels as wanted, on asyncio or Trio.

    `async with HubClient(url, token=...) as client, client.subscribe("alerts") as items: async for item in items: ...`

    Entering it waits until the server has let it in, however often that takes; it raises at once what would not change
    by itself: `TokenRefused`, `PermissionDenied`, `HandshakeRefused`, `ConnectFailed`, `NotAHub`. From then on it
    reconnects by itself, and resumes every subscription where it was. When there is no point in going on, all
    subscriptions raise why, `ConnectionClosed` included.

    `token` is a text, or a function, async or not, that returns a fresh one: it is asked before each connection and
    when the token is about to expire. What it raises before the first connection comes out of `async with`; later a
    `HubError` ends the client, and anything else is taken for a failure that passes. `token_in="message"` sends it as
    the first message, for proxies that take the `Authorization` header away.

    `encoding="msgpack"` is worth it where numbers prevail. `timeout` is in seconds, for connecting and again for the
    handshake. `on_event` is called with what happens to the connection (`analytics_hub.client.Event`); without it
    disconnects are logged as warnings.
    """

    def __init__(
        self,
        url: str,
        token: Token = None,
        *,
        token_in: Literal["header", "message"] = "header",
        encoding: Literal["json", "msgpack"] = "json",
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT,
        on_event: Callable[[Event], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        target = Target.parse(url)
        for name, value in (headers or {}).items():
            if not is_header(name, value):
                raise ValueError(f"the header {name!r} cannot be sent: its name or its value is none of HTTP")
        self._tokens = TokenSource(token if token is not None else target.token)
        self._protocol = ClientProtocol(jitter)
        self._news = anyio.Event()
        self._connections = Connections(
            self._protocol,
            target,
            self._tokens,
            token_in=token_in,
            subprotocols=_SUBPROTOCOLS[encoding],
            headers=dict(headers or {}),
            ssl_context=ssl_context,
            timeout=timeout,
            on_event=on_event,
            opened=self._news.set,
        )
        self._is_entered = False
        self._is_closed = False
        self._error: HubError | None = None
        self._tasks: TaskGroup | None = None

    @property
    def state(self) -> State:
        """`waiting` is between two attempts."""
        if self._is_closed:
            return "closed"
        return self._connections.state if self._is_entered else "new"

    # --- life

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise ClientClosed("a client is entered once; make a new HubClient")
        self._is_entered = True
        token = await self._tokens.ask()
        tasks = self._tasks = anyio.create_task_group()
        await tasks.__aenter__()
        tasks.start_soon(self._run, token)
        try:
            await self._news.wait()
            if self._error is not None:
                raise self._error
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        if isinstance(exc, anyio.get_cancelled_exc_class()):
            return await self._tasks.__aexit__(exc_type, exc, traceback)
        # The application's own: in the group of a task group that it never saw, nobody would expect it.
        try:
            await self._tasks.__aexit__(None, None, None)
        except anyio.get_cancelled_exc_class():
            if exc is None:
                raise
        return None

    # --- for users

    @overload
    def subscribe(
        self,
        channel: str,
        *,
        since: Position | None = None,
        last: int | None = None,
        snapshot: bool = False,
        max_hz: float | None = None,
        buffer: int = ROOM,
    ) -> Subscription[Any]: ...

    @overload
    def subscribe(
        self,
        channel: str,
        *,
        type: type[T],
        since: Position | None = None,
        last: int | None = None,
        snapshot: bool = False,
        max_hz: float | None = None,
        buffer: int = ROOM,
    ) -> Subscription[T]: ...

    def subscribe(
        self,
        channel: str,
        *,
        type: Any = Any,
        since: Position | None = None,
        last: int | None = None,
        snapshot: bool = False,
        max_hz: float | None = None,
        buffer: int = ROOM,
    ) -> Subscription[Any]:
        """A subscription to one channel, to be entered with `async with`; one at a time for each channel.

        It starts where the server starts it (`docs/protocol.md` §4), or as one of `since`, `last` and `snapshot` says.
        `max_hz` caps how often it is sent something. `data` is decoded as `type`, whatever msgspec can decode to.

        `buffer` items wait here for a reader that is slow. When they are full, this channel alone is stopped at the
        server until half of them are taken, and then goes on where it stopped: a channel that keeps enough loses
        nothing, and for what it does not keep there is a `Gap`.
        """
        if (since is not None) + (last is not None) + snapshot > 1:
            raise ValueError("snapshot, since and last exclude each other; give at most one")
        if buffer < 1:
            raise ValueError(f"buffer is {buffer!r}; at least 1 is right")
        options = Options(since=since, last=last, snapshot=snapshot, max_hz=max_hz)

        def begin() -> Feed:
            if self._error is not None:
                raise self._error.with_traceback(None)
            if not self._is_entered:
                raise ClientClosed("enter the client first: async with HubClient(...) as client")
            return self._protocol.subscribe(channel, options, anyio.current_time(), type=type, room=buffer)

        return Subscription(self._protocol, begin, anyio.current_time, self._connections.nudge)

    async def refresh(self) -> None:
        """Ask `token` for a fresh one now, and return when the server has accepted it; raises its refusal.

        The client does so by itself when a token expires. This is for roles that have changed.
        """
        if not self._tokens.is_renewable:
            raise ValueError("there is nothing to ask for a fresh token; give HubClient a function as token")
        token = await self._tokens.ask()
        if token is None or not self._protocol.is_open:
            return  # there is no fresher one, or the next connection asks again
        answered = anyio.Event()
        outcome: HubError | None = None

        def done(error: HubError | None) -> None:
            nonlocal outcome
            outcome = error
            answered.set()

        self._tokens.used = token
        self._protocol.refresh(token, anyio.current_time(), done)
        self._connections.nudge()
        await answered.wait()
        if outcome is not None:
            raise outcome

    # --- inside

    async def _run(self, token: str | None) -> None:
        error: HubError = ClientClosed("the client has been left")
        try:
            error = await self._connections.keep(token)
        finally:
            self._is_closed = True
            self._error = error
            self._protocol.give_up(error, anyio.current_time())
            self._news.set()
