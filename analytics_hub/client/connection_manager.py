"""Keeps a client connected: one connection after another, until reconnecting is pointless."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, Literal, NoReturn

import anyio
from anyio.abc import TaskGroup

from ..exceptions import HubError
from .backoff import RetryDecision, permanent_failure
from .exceptions import ConnectionClosed, ConnectionLost, HandshakeRefused, NotAHub
from .protocol import ClientProtocol
from .target import Target
from .tokens import TokenSource
from .values import Disconnected, Event
from .websocket import ConnectOptions, WebSocket, connect, describe_error

logger: Final = logging.getLogger("analytics_hub.client")

_FAILURES: Final = (
    ConnectionClosed, HandshakeRefused, ConnectionLost, NotAHub,
    OSError, anyio.BrokenResourceError, anyio.ClosedResourceError,
)  # fmt: skip


_FOUND: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""Refusals that are those of a hub. Any other may be the answer of an application that has no hub at this path."""


class ConnectionManager:
    """Drives a `ClientProtocol` at the first of `targets` that has a WebSocket.

    `on_open` is called when the server has accepted the client.
    """

    def __init__(
        self,
        protocol: ClientProtocol,
        targets: Sequence[Target],
        options: ConnectOptions,
        tokens: TokenSource,
        *,
        on_event: Callable[[Event], None] | None,
        on_open: Callable[[], None],
    ) -> None:
        self._protocol = protocol
        self._targets = targets
        self._options = options
        self._tokens = tokens
        self._on_event = on_event
        self._on_open = on_open
        self._has_work = anyio.Event()
        self._wakes_at = math.inf
        self.state: Literal["connecting", "open", "waiting"] = "connecting"

    def wake(self) -> None:
        """There is something to send, or the timer of the protocol has changed."""
        self._has_work.set()

    def _notify(self, event: Event) -> None:
        """Call `on_event`, or log a warning if there is none. Exceptions of the application are logged."""
        if self._on_event is None:
            if isinstance(event, Disconnected):
                logger.warning("%s; reconnecting in %.1f s", event.reason, event.delay)
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("on_event failed")

    async def run(self, token: str | None) -> HubError:
        """Connect again and again until reconnecting is pointless; returns the reason."""
        decision = await self._run_connection(token)
        while decision.delay is not None:
            if decision.error is not None and not self._tokens.is_renewable:
                return decision.error
            self.state = "waiting"
            self._notify(Disconnected(decision.message, decision.delay))
            await anyio.sleep(decision.delay)
            decision = await self._reconnect(decision)
        assert decision.error is not None
        return decision.error

    async def _reconnect(self, before: RetryDecision) -> RetryDecision:
        try:
            token = await self._tokens.get()
        except HubError as error:
            return RetryDecision(str(error), error=error)
        except Exception as error:  # noqa: BLE001 - the token service may be temporarily down, too
            message = f"cannot get a token: {type(error).__name__}"
            decision = self._protocol.connection_lost(message, anyio.current_time())
            return RetryDecision(decision.message, decision.delay, before.error)
        if before.needs_new_token and token == self._tokens.opened_with:
            return RetryDecision(before.message, error=before.error)
        return await self._run_connection(token)

    async def _run_connection(self, token: str | None) -> RetryDecision:
        """One connection from its beginning to its end."""
        self.state = "connecting"
        self._tokens.last_sent = self._tokens.opened_with = token
        is_header = token is not None and self._tokens.sent_in == "header"
        authorization = {"Authorization": f"Bearer {token}"} if is_header else {}
        refusals: list[HandshakeRefused] = []
        for target in self._targets:
            try:
                async with connect(target, self._options, authorization) as websocket:
                    self._targets = (target,)
                    first = token if self._tokens.sent_in == "message" else None
                    self._protocol.connection_made(
                        anyio.current_time(), codec=websocket.codec, has_token=token is not None, token=first
                    )
                    return await self._exchange_messages(websocket)
            except HandshakeRefused as error:
                if error.status in _FOUND:
                    return self._decide(error, target)
                refusals.append(error)
            except _FAILURES as error:
                return self._decide(error, target)
        return self._decide(min(refusals, key=_likelihood), self._targets[0])

    async def _exchange_messages(self, websocket: WebSocket) -> RetryDecision:
        """Read and write until one of them fails."""
        decisions: list[RetryDecision] = []

        async def until_failure(job: Callable[[WebSocket, TaskGroup], Awaitable[NoReturn]]) -> None:
            try:
                await job(websocket, tasks)
            except _FAILURES as error:
                if not decisions:
                    decisions.append(self._decide(error, self._targets[0]))
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_failure, self._read)
            tasks.start_soon(until_failure, self._write)
        return decisions[0]

    async def _read(self, websocket: WebSocket, tasks: TaskGroup) -> NoReturn:
        protocol = self._protocol
        while True:
            messages = await websocket.receive()
            now = anyio.current_time()
            protocol.data_received(now)
            for message in messages:
                protocol.receive_message(message, now)
            if protocol.is_open and self.state != "open":
                self.state = "open"
                self._on_open()
            for event in protocol.events():
                self._notify(event)
            is_earlier = (protocol.get_timer() or 0.0) < self._wakes_at
            if websocket.has_output or protocol.has_output or protocol.needs_token or is_earlier:
                self.wake()

    async def _write(self, websocket: WebSocket, tasks: TaskGroup) -> NoReturn:
        protocol = self._protocol
        while True:
            if self._has_work.is_set():
                self._has_work = anyio.Event()
            now = anyio.current_time()
            protocol.handle_timer(now)
            if protocol.needs_token:
                protocol.needs_token = False
                tasks.start_soon(self._renew_token)
            for message in protocol.data_to_send():
                websocket.send(message)
            await websocket.flush()
            self._wakes_at = protocol.get_timer() or math.inf
            with anyio.move_on_after(self._wakes_at - anyio.current_time()):
                await self._has_work.wait()

    async def _renew_token(self) -> None:
        """Send a new token, because the current one expires soon. A failure is repeated with the next connection."""
        if not self._tokens.is_renewable:
            return
        try:
            token = await self._tokens.get()
        except Exception as error:  # noqa: BLE001 - as in `_reconnect`
            logger.warning("cannot renew the token: %s", type(error).__name__)
            return
        if token != self._tokens.last_sent:
            self._tokens.last_sent = token
            self._protocol.refresh(token, anyio.current_time())
            self.wake()

    def _decide(self, error: Exception, target: Target) -> RetryDecision:
        protocol, url, now = self._protocol, target.url, anyio.current_time()
        if isinstance(error, ConnectionClosed):
            return protocol.connection_closed(error.code, str(error), now)
        if isinstance(error, HandshakeRefused):
            return protocol.handshake_refused(error.status, str(error), error.retry_after, now)
        if isinstance(error, NotAHub):
            return RetryDecision(str(error), error=error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return permanent_failure(f"the certificate of {url} is not trusted: {error.verify_message}")
        if isinstance(error, ConnectionLost):
            return protocol.connection_lost(str(error), now)
        if isinstance(error, TimeoutError) and error.errno is None:
            return protocol.connection_lost(f"no answer from {url}", now)
        return protocol.connection_lost(f"cannot connect to {url}: {describe_error(error)}", now)


def _likelihood(refusal: HandshakeRefused) -> int:
    """Low if it is the answer of a hub, or of a proxy before one, rather than of a path where nothing is served."""
    if refusal.status >= 500:
        return 0
    return 2 if refusal.status == HTTPStatus.NOT_FOUND else 1
