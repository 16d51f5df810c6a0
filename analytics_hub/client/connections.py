"""One connection after the other, for as long as there is a point in it, over WebSockets and anyio."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, NoReturn

import anyio
from anyio.abc import TaskGroup

from ..exceptions import HubError
from .backoff import Ending, gave_up
from .exceptions import Closed, Lost, NotAHub
from .protocol import ClientProtocol
from .target import Target
from .tokens import TokenSource
from .values import Disconnected, Event
from .websocket import Refused, Socket, dial, explain

logger: Final = logging.getLogger("analytics_hub.client")

_FAILURES: Final = (Closed, Refused, Lost, NotAHub, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Connections:
    """What keeps a `ClientProtocol` connected. `opened` is called when the server has let it in."""

    def __init__(
        self,
        protocol: ClientProtocol,
        target: Target,
        tokens: TokenSource,
        *,
        token_in: Literal["header", "message"],
        subprotocols: Sequence[str],
        headers: Mapping[str, str],
        ssl_context: ssl.SSLContext | None,
        timeout: float,
        on_event: Callable[[Event], None] | None,
        opened: Callable[[], None],
    ) -> None:
        self._protocol = protocol
        self._target = target
        self._tokens = tokens
        self._token_in = token_in
        self._subprotocols = subprotocols
        self._headers = headers
        self._ssl_context = ssl_context
        self._timeout = timeout
        self._on_event = on_event
        self._opened = opened
        self._work = anyio.Event()
        self._wakes_at = math.inf
        self.state: Literal["connecting", "open", "waiting"] = "connecting"

    def nudge(self) -> None:
        """There is something to send, or to do at another time."""
        self._work.set()

    def _report(self, event: Event) -> None:
        """Tell the application; its mistakes are logged."""
        if self._on_event is None:
            if isinstance(event, Disconnected):
                logger.warning("%s; again in %.1f s", event.sentence, event.delay)
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("on_event failed")

    async def keep(self, token: str | None) -> HubError:
        """Connect again and again, until there is no point in it; returns why."""
        ending = await self._connection(token)
        while ending.delay is not None:
            if ending.error is not None and not self._tokens.is_renewable:
                return ending.error
            self.state = "waiting"
            self._report(Disconnected(ending.sentence, ending.delay))
            await anyio.sleep(ending.delay)
            ending = await self._again(ending)
        assert ending.error is not None
        return ending.error

    async def _again(self, before: Ending) -> Ending:
        try:
            token = await self._tokens.ask()
        except HubError as error:
            return Ending(str(error), error=error)
        except Exception as error:  # noqa: BLE001 - whatever gives out tokens may be down for a while, too
            passing = self._protocol.lost(f"no token: {type(error).__name__}", anyio.current_time())
            return Ending(passing.sentence, passing.delay, before.error)
        if before.needs_token and token == self._tokens.opened:
            return Ending(before.sentence, error=before.error)
        return await self._connection(token)

    async def _connection(self, token: str | None) -> Ending:
        """One connection from its beginning to its end."""
        self.state = "connecting"
        self._tokens.used = self._tokens.opened = token
        headers = dict(self._headers)
        if token is not None and self._token_in == "header":
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with dial(
                self._target,
                headers=headers,
                subprotocols=self._subprotocols,
                timeout=self._timeout,
                ssl_context=self._ssl_context,
            ) as socket:
                return await self._converse(socket, token)
        except _FAILURES as error:
            return self._judge(error)

    async def _converse(self, socket: Socket, token: str | None) -> Ending:
        first = token if self._token_in == "message" else None
        self._protocol.connected(anyio.current_time(), codec=socket.codec, has_token=token is not None, token=first)
        endings: list[Ending] = []

        async def until_it_fails(job: Callable[[Socket, TaskGroup], Awaitable[NoReturn]]) -> None:
            try:
                await job(socket, tasks)
            except _FAILURES as error:
                if not endings:
                    endings.append(self._judge(error))
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_it_fails, self._read)
            tasks.start_soon(until_it_fails, self._write)
        return endings[0]

    async def _read(self, socket: Socket, tasks: TaskGroup) -> NoReturn:
        protocol = self._protocol
        while True:
            messages = await socket.receive()
            now = anyio.current_time()
            protocol.heard(now)
            for message in messages:
                protocol.receive(message, now)
            if protocol.is_open and self.state != "open":
                self.state = "open"
                self._opened()
            for event in protocol.events():
                self._report(event)
            is_early = (protocol.get_timer() or 0.0) < self._wakes_at
            if socket.has_output or protocol.has_output or protocol.wants_token or is_early:
                self.nudge()

    async def _write(self, socket: Socket, tasks: TaskGroup) -> NoReturn:
        protocol = self._protocol
        while True:
            if self._work.is_set():
                self._work = anyio.Event()
            now = anyio.current_time()
            protocol.handle_timer(now)
            if protocol.wants_token:
                protocol.wants_token = False
                tasks.start_soon(self._renew)
            for message in protocol.data_to_send():
                socket.send(message)
            await socket.flush()
            self._wakes_at = protocol.get_timer() or math.inf
            with anyio.move_on_after(self._wakes_at - anyio.current_time()):
                await self._work.wait()

    async def _renew(self) -> None:
        """The token runs out soon. What fails here is tried again with the next connection."""
        if not self._tokens.is_renewable:
            return
        try:
            token = await self._tokens.ask()
        except Exception as error:  # noqa: BLE001 - as in `_again`
            logger.warning("no fresh token: %s", type(error).__name__)
            return
        if token != self._tokens.used:
            self._tokens.used = token
            self._protocol.refresh(token, anyio.current_time())
            self.nudge()

    def _judge(self, error: Exception) -> Ending:
        """What a failure means."""
        protocol, url, now = self._protocol, self._target.url, anyio.current_time()
        if isinstance(error, Closed):
            return protocol.closed(error.code, error.reason, now)
        if isinstance(error, Refused):
            return protocol.refused(error.status, error.sentence, error.retry_after, now)
        if isinstance(error, NotAHub):
            return Ending(str(error), error=error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return gave_up(f"the certificate of {url} is not trusted: {error.verify_message}")
        if isinstance(error, Lost):
            return protocol.lost(str(error), now)
        if isinstance(error, TimeoutError) and error.errno is None:
            return protocol.lost(f"no answer from {url}", now)
        return protocol.lost(f"cannot connect to {url}: {explain(error)}", now)
