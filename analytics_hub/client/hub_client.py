"""The client as an application holds it."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, overload

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from ..exceptions import HubError
from ..protocol import Position
from ..protocol.formats import JSON, MSGPACK
from .connection_manager import ConnectionManager
from .exceptions import ClientClosed
from .protocol import ClientProtocol
from .subscription import Subscription
from .subscription_state import BUFFER, Options, SubscriptionState
from .target import Address, is_valid_header
from .tokens import Token, TokenSource
from .values import Event
from .websocket import ConnectOptions

T = TypeVar("T")

State = Literal["new", "connecting", "open", "waiting", "closed"]

TIMEOUT: Final = 10.0
"""Seconds for connecting, and again for the answer to the handshake."""

_SUBPROTOCOLS: Final = {
    "json": (JSON.subprotocol,),
    "msgpack": (MSGPACK.subprotocol, JSON.subprotocol),  # an older server supports only the second one
}


class HubClient:
    """A client of one hub, for any number of channels, on asyncio or Trio.

    `async with HubClient(url, token=...) as client, client.subscribe("alerts") as items: async for item in items: ...`

    `url` may point to the hub's mount, to its WebSocket, or just to the host, with `ws`, `wss`, `http` or `https`.

    Entering it waits until the server accepts the client, with as many attempts as that takes. It raises at once if
    another attempt would fail the same way: `TokenRefused`, `PermissionDenied`, `HandshakeRefused`, `ConnectFailed`,
    `NotAHub`. From then on it reconnects by itself and resumes every subscription at its position. When reconnecting is
    pointless, all subscriptions raise the exception that ended the client, which may also be `ConnectionClosed`.

    `token` is a text, or a function, async or not, that returns a fresh one: it is called before each connection and
    when the token is about to expire. An exception that it raises before the first connection leaves `async with`;
    later a `HubError` ends the client, and any other exception counts as a temporary failure. `token_in="message"`
    sends the token as the first message, for proxies that remove the `Authorization` header.

    `encoding="msgpack"` pays off for data that is mostly numbers. `timeout` is in seconds, for connecting and again for
    the handshake. `on_event` is called with the events of the connection (`analytics_hub.client.Event`); without it
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
        address = Address.parse(url)
        for name, value in (headers or {}).items():
            if not is_valid_header(name, value):
                raise ValueError(f"the header {name!r} cannot be sent: HTTP does not allow its name or its value")
        self._tokens = TokenSource(token if token is not None else address.token, token_in)
        self._protocol = ClientProtocol(jitter)
        self._has_started = anyio.Event()
        self._connections = ConnectionManager(
            self._protocol,
            address.sockets,
            ConnectOptions(
                headers=dict(headers or {}),
                subprotocols=_SUBPROTOCOLS[encoding],
                ssl_context=ssl_context,
                timeout=timeout,
            ),
            self._tokens,
            on_event=on_event,
            on_open=self._has_started.set,
        )
        self._is_entered = False
        self._is_closed = False
        self._error: HubError | None = None
        self._tasks: TaskGroup | None = None

    @property
    def state(self) -> State:
        """`waiting` means between two attempts."""
        if self._is_closed:
            return "closed"
        return self._connections.state if self._is_entered else "new"

    # --- lifecycle

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise ClientClosed("a HubClient can be entered only once; create a new one")
        self._is_entered = True
        token = await self._tokens.get()
        tasks = self._tasks = anyio.create_task_group()
        await tasks.__aenter__()
        tasks.start_soon(self._run, token)
        try:
            await self._has_started.wait()
            if self._error is not None:
                await checkpoint_if_cancelled()  # a cancellation may have ended the client first
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
        # An exception of the application must not leave in the exception group of an internal task group.
        try:
            await self._tasks.__aexit__(None, None, None)
        except anyio.get_cancelled_exc_class():
            if exc is None:
                raise
        return None

    # --- for applications

    @overload
    def subscribe(
        self,
        channel: str,
        *,
        since: Position | None = None,
        last: int | None = None,
        snapshot: bool = False,
        max_hz: float | None = None,
        buffer: int = BUFFER,
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
        buffer: int = BUFFER,
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
        buffer: int = BUFFER,
    ) -> Subscription[Any]:
        """A subscription to one channel, to be entered with `async with`; at most one at a time for each channel.

        It starts where the server starts it by default (`docs/protocol.md` §4), or as one of `since`, `last` and
        `snapshot` says. `max_hz` limits how often it is flushed. `data` is decoded as `type`, any type that msgspec can
        decode to.

        `buffer` items wait here for a slow reader. When the buffer is full, the server is asked to stop this channel
        alone until half of the buffer is free, and then to continue at the same position: a channel that keeps enough
        loses nothing, and items that it has not kept are reported as a `Gap`.
        """
        if (since is not None) + (last is not None) + snapshot > 1:
            raise ValueError("since, last and snapshot are mutually exclusive; give at most one")
        if buffer < 1:
            raise ValueError(f"buffer is {buffer!r}; it must be at least 1")
        options = Options(since=since, last=last, snapshot=snapshot, max_hz=max_hz)

        def subscribe() -> SubscriptionState:
            if self._error is not None:
                raise self._error.with_traceback(None)
            if not self._is_entered:
                raise ClientClosed("enter the client first: async with HubClient(...) as client")
            return self._protocol.subscribe(channel, options, anyio.current_time(), type=type, capacity=buffer)

        return Subscription(self._protocol, subscribe, anyio.current_time, self._connections.wake)

    async def refresh(self) -> None:
        """Call `token` for a fresh token now, and wait until the server accepts it.

        Raises a `HubError` if the server refuses it.
        The client does so by itself when a token expires. Call it after roles have changed.
        """
        if not self._tokens.is_renewable:
            raise ValueError("the token cannot be refreshed: pass HubClient a function that returns one")
        token = await self._tokens.get()
        if token is None or not self._protocol.is_open:
            return  # there is no newer one, or the next connection starts with a new one
        answered = anyio.Event()
        error: HubError | None = None

        def on_answer(outcome: HubError | None) -> None:
            nonlocal error
            error = outcome
            answered.set()

        self._tokens.last_sent = token
        self._protocol.refresh(token, anyio.current_time(), on_answer)
        self._connections.wake()
        await answered.wait()
        if error is not None:
            raise error

    # --- internal

    async def _run(self, token: str | None) -> None:
        error: HubError = ClientClosed("the client is closed")
        try:
            error = await self._connections.run(token)
        finally:
            self._is_closed = True
            self._error = error
            self._protocol.close(error, anyio.current_time())
            self._has_started.set()
