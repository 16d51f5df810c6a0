"""One client under ASGI: the hub's `Transport`, run by the task that the server has started for the connection."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import anyio

from ...contracts import Transport
from ...core.session import Session
from ...exceptions import HubClosed
from ...protocol import CloseCode
from .app_state import AppState
from .host_server import abort_connection
from .messages import MessageCache
from .scope import Message, Receive, Send
from .sender import STOPPED, Sender, SenderOwner
from .sender_asyncio import DirectSender
from .window import Window

CANCELLED_CLOSE_TIMEOUT: Final = 1.0
"""Seconds for the close message where the task of the connection is cancelled, as some servers do when they stop."""
QUIET: Final = 0.05
"""Seconds without a message after which a peer that ignores its close, and goes on sending, is abandoned."""
_SUBSTITUTES: Final[dict[int, int]] = {
    CloseCode.GOING_AWAY: CloseCode.UNWRITABLE,
    CloseCode.TOO_BIG: CloseCode.MALFORMED,
    CloseCode.INTERNAL_ERROR: CloseCode.UNWRITABLE,
    CloseCode.SERVICE_RESTART: CloseCode.UNWRITABLE,
    CloseCode.TRY_AGAIN_LATER: CloseCode.UNWRITABLE,
}
"""Autobahn, and thereby Daphne, raises for the standard codes; these are the nearest in meaning to a client."""


class Client(ABC):
    """Writes at once and in order, listens all the time, and ends whatever the server does."""

    __slots__ = (
        "_all_sent", "_app", "_cache", "_close_reason", "_frames", "_is_close_sent", "_is_closing", "_is_full",
        "_is_gone", "_receive", "_resumed", "_scope", "_send", "_sender", "_session", "_window",
    )  # fmt: skip

    is_response = False
    """Whether it is served by a response, which its server waits for."""

    def __init__(self, app: AppState, cache: MessageCache, receive: Receive, send: Send) -> None:
        self._app = app
        self._cache = cache
        self._receive = receive
        self._send = send
        self._sender = _open_sender(send, self, app)
        self._scope = anyio.CancelScope()
        """Of the listening; cancelled when our side ends the connection."""
        self._session: Session | None = None
        self._window: Window | None = None
        self._frames = 0
        self._is_full = False
        self._is_closing = False
        """Nothing more is written to or read from this client."""
        self._is_gone = False
        """The peer has left, or the server has lost it: no close message can reach it."""
        self._is_close_sent = False
        """The close message was sent, or begun; there may be only one."""
        self._close_reason: tuple[int, str] | None = None
        """The code and reason for the close message."""
        self._resumed: anyio.Event | None = None
        """Set by `resume_reading`; None while reading is not paused."""
        self._all_sent: anyio.Event | None = None
        """Set when nothing is unsent; None unless that is waited for."""

    # --- the messages of a subclass

    @abstractmethod
    def handle_message(self, message: Message) -> bool:
        """Handle a message of the server; False if it was the last one."""

    @abstractmethod
    def close_message(self, code: int, reason: str) -> Message:
        """The last message to the server."""

    # --- as a transport

    def write(self, frame: bytes) -> bool:
        if self._is_closing:
            return True
        cache = self._cache
        parts = cache.parts if frame is cache.frame else cache.unpack(frame)
        sender = self._sender
        waited = sender.unsent
        for part in parts:
            sender.put(part)
            if self._is_closing:
                return True
            self._frames += 1
        window = self._window
        if window is not None:
            for _, size in parts:
                window.frame_sent(size)
        # Some servers take nothing before their next turn; one large write does not count as congestion until the next.
        has_room = not waited or sender.unsent <= self._app.limits.max_unsent
        if has_room and (window is None or not window.is_full):
            return True
        self._is_full = True
        return False

    def close(self, code: int, reason: str) -> None:
        if self._close_reason is None:
            self._close_reason = (code, reason)
            self._stop_listening()

    def pause_reading(self) -> None:
        if self._resumed is None:
            self._resumed = anyio.Event()

    def resume_reading(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.set()

    def confirmed(self, frames: int) -> None:
        # A client that never sends `seen` may not know the command: it has no window that could fill.
        if self._window is None:
            limits = self._app.limits
            self._window = Window(self._frames, limits.max_unconfirmed, limits.max_unconfirmed_bytes)
        self._window.confirm(frames)
        self._resume_if_room()

    @property
    def buffered(self) -> int:
        """Bytes that wait for the server."""
        return self._sender.unsent

    # --- as the owner of the sender

    def messages_sent(self) -> None:
        if self._all_sent is not None:
            self._all_sent.set()
        self._resume_if_room()

    def connection_lost(self, error: BaseException) -> None:
        # Servers raise OSError for a peer that has left, and RuntimeError for one that they have closed themselves.
        if not isinstance(error, (OSError, RuntimeError)):
            self._app.report_fault("send-fault", error)
        self._is_gone = True
        self._stop_listening()

    def _resume_if_room(self) -> None:
        if not self._is_full or self._is_closing or self._sender.unsent:
            return
        if self._window is None or self._window.has_room:
            self._is_full = False
            assert self._session is not None
            self._app.gateway.resumed(self._session)

    # --- life

    def connect(self, connect: Callable[[Transport], Session]) -> None:
        """Start the session. Never raises; `serve` follows in any case."""
        try:
            self._session = connect(self)
        except HubClosed:
            self.close(CloseCode.SERVICE_RESTART, "the hub is shutting down")
        except Exception as error:  # noqa: BLE001 - the boundary: a fault stays in its connection
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._app.report_fault("connection-fault", error)
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _stop_listening(self) -> None:
        self._is_closing = True
        if self._all_sent is not None:
            self._all_sent.set()
        self._scope.cancel()

    async def serve(self) -> None:
        """Serve this client until it has left. Raises nothing because of the peer or the server."""
        self._app.watch.add(self)
        try:
            await self._run()
        except anyio.get_cancelled_exc_class():
            if not self._sender.unsent and not self._is_close_sent:
                with anyio.move_on_after(CANCELLED_CLOSE_TIMEOUT, shield=True):
                    await self._send_close(*(self._close_reason or (CloseCode.GOING_AWAY, "the server is going away")))
            raise
        finally:
            self._sender.stop()
            self._app.watch.remove(self)
            # What still refers to this client, as a call of the application does, must not keep the connection.
            self._sender = STOPPED
            self._session = None
            self._receive, self._send = _receive_nothing, _send_nothing

    async def _run(self) -> None:
        try:
            with self._scope:
                while not self._is_closing and await self._listen():
                    pass
        except Exception as error:  # noqa: BLE001 - the boundary: a fault stays in its connection
            self._fail(error)
        finally:
            self._is_closing = True
            if self._session is not None:
                self._app.gateway.disconnect(self._session)
        if self._close_reason is not None:
            await self._close_connection(*self._close_reason)

    async def _listen(self) -> bool:
        """Wait for one message and handle it; False if it was the last one."""
        try:
            message = await self._receive()
        except Exception as error:  # noqa: BLE001 - of the server or a middleware
            self._app.report_fault("receive-fault", error)
            self._is_gone = True
            return False
        # With one message in hand we do not listen: the server stops reading then, and the peer is slowed down. It sees
        # no pongs meanwhile either, so that must not last; what the hub waits for is bounded by its `auth_timeout`.
        while self._resumed is not None and not self._is_closing:
            await self._resumed.wait()
        self._is_gone = not self.handle_message(message)
        return not self._is_gone

    async def _close_connection(self, code: int, reason: str) -> None:
        """Send what waits, then the close message, then wait until the peer of a WebSocket has left too."""
        with anyio.move_on_after(self._app.limits.close_timeout) as scope:
            if self._sender.unsent:
                self._all_sent = anyio.Event()
                await self._all_sent.wait()
            await self._send_close(code, reason)
            # Some servers drop the reason unless the peer of a WebSocket has answered. A response is complete.
            while not (self.is_response or self._is_gone) and await self._listen():
                pass
        if scope.cancelled_caught:
            self._app.gateway.count("close-timeout")
            await self._drain()
            if not self._is_gone:
                abort_connection()

    async def _drain(self) -> None:
        """Receive the rest of what a peer goes on sending: hypercorn never frees a socket with a full queue."""
        is_quiet = False
        while not (self._is_gone or is_quiet):
            with anyio.move_on_after(QUIET) as scope:
                await self._listen()
            is_quiet = scope.cancelled_caught

    async def _send_close(self, code: int, reason: str) -> None:
        """Send the close message, unless the peer is gone."""
        if self._is_gone:
            return
        self._is_close_sent = True
        try:
            await self._send(self.close_message(code, reason))
        except (OSError, RuntimeError):
            self._is_gone = True  # it left first
        except Exception as error:  # noqa: BLE001 - of the server or a middleware
            if code in _SUBSTITUTES:
                await self._send_close(_SUBSTITUTES[code], reason)
            else:
                self._is_gone = True
                self._app.report_fault("send-fault", error)


async def _receive_nothing() -> Message:
    """The `receive` of a client that has left."""
    raise OSError("the peer has left")


async def _send_nothing(message: Message) -> None:
    """The `send` of a client that has left."""
    raise OSError("the peer has left")


def _open_sender(send: Send, owner: SenderOwner, app: AppState) -> Sender:
    """The sender of the connection that the current task serves."""
    task = None
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop of asyncio
        pass
    if task is None:
        from .sender_trio import TrioSender  # Trio need not be installed where it does not run

        return TrioSender(send, owner)
    return DirectSender(send, owner, app.borrowed_tasks)


class WebSocketClient(Client):
    """A WebSocket that was accepted."""

    __slots__ = ()

    def handle_message(self, message: Message) -> bool:
        if message["type"] == "websocket.disconnect":  # some servers guess its code, so it is ignored
            return False
        if message["type"] == "websocket.receive" and not self._is_closing:
            text = message.get("text")
            self._receive_data(message.get("bytes") if text is None else text)
        return True

    def _receive_data(self, data: object) -> None:
        gateway, max_message = self._app.gateway, self._app.limits.max_message
        if not isinstance(data, (str, bytes)):
            gateway.count("odd-message")
        elif (size := _size(data)) > max_message:
            reason = f"the message has {size} bytes; at most {max_message} are allowed"
            gateway.note("protocol-fault", "a client broke the protocol: %s (%d)", reason, CloseCode.TOO_BIG)
            self.close(CloseCode.TOO_BIG, reason)
        else:
            assert self._session is not None
            gateway.receive_data(self._session, data)

    def close_message(self, code: int, reason: str) -> Message:
        return {"type": "websocket.close", "code": int(code), "reason": reason}


def _size(data: str | bytes) -> int:
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode("utf-8", "replace"))
