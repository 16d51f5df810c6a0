"""One client under ASGI: the hub's `Transport`, run by the task that the server has started for the connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import anyio

from ...contracts import Transport
from ...core.session import Session
from ...exceptions import HubClosed
from ...protocol import CloseCode
from .app_state import AppState
from .messages import MessageCache
from .scope import Message, Receive, Send
from .sender import open_sender
from .window import Window

GOODBYE: Final = 1.0
"""Seconds for the last message where the task of the connection is cancelled, as at the end of some servers."""
LULL: Final = 0.05
"""Seconds without a message after which a peer that was told to leave, and talked on, is left."""
_SUBSTITUTES: Final[dict[int, int]] = {
    CloseCode.GOING_AWAY: CloseCode.UNWRITABLE,
    CloseCode.TOO_BIG: CloseCode.MALFORMED,
    CloseCode.INTERNAL_ERROR: CloseCode.UNWRITABLE,
    CloseCode.SERVICE_RESTART: CloseCode.UNWRITABLE,
    CloseCode.TRY_AGAIN_LATER: CloseCode.UNWRITABLE,
}
"""Autobahn, and by that Daphne, raises for the standard codes; these mean the nearest to a client."""


class Client(ABC):
    """Writes at once and in order, listens all the time, and ends whatever the server does about it."""

    __slots__ = (
        "_desk", "_dry", "_envelopes", "_farewell", "_frames", "_is_full", "_is_gone", "_is_over",
        "_is_told", "_paused", "_receive", "_scope", "_send", "_sender", "_session", "_window",
    )  # fmt: skip

    def __init__(self, desk: AppState, envelopes: MessageCache, receive: Receive, send: Send) -> None:
        self._desk = desk
        self._envelopes = envelopes
        self._receive = receive
        self._send = send
        self._sender = open_sender(send, self, desk.couriers)
        self._scope = anyio.CancelScope()
        """Of the listening; cancelled by whatever ends the connection on our side."""
        self._session: Session | None = None
        self._window: Window | None = None
        self._frames = 0
        self._is_full = False
        self._is_gone = False
        """The peer has left, or the server has lost it: there is nobody to say goodbye to."""
        self._is_over = False
        self._is_told = False
        """The last message was sent, or begun; there may be only one."""
        self._farewell: tuple[int, str] | None = None
        self._paused: anyio.Event | None = None
        self._dry: anyio.Event | None = None
        """Set when nothing is unsent any more, for who waits for that."""

    # --- for subclasses to say what it means ---

    @abstractmethod
    def take(self, message: Message) -> bool:
        """Something came from the server; False if it was the end."""

    @abstractmethod
    def goodbye(self, code: int, reason: str) -> Message:
        """The last message to the server."""

    # --- as a transport ---

    def write(self, frame: bytes) -> bool:
        if self._is_over:
            return True
        envelopes = self._envelopes
        parts = envelopes.parts if frame is envelopes.frame else envelopes.open(frame)
        sender = self._sender
        waited = sender.unsent
        for part in parts:
            sender.put(part)
            if self._is_over:
                return True
            self._frames += 1
        window = self._window
        if window is not None:
            for _, size in parts:
                window.sent(size)
        # Some servers take nothing before their next turn; a large write is not held against them until the next.
        has_room = not waited or sender.unsent <= self._desk.limits.max_unsent
        if has_room and (window is None or not window.is_full):
            return True
        self._is_full = not self._is_over
        return self._is_over

    def close(self, code: int, reason: str) -> None:
        self.end(code, reason)

    def pause_reading(self) -> None:
        if self._paused is None:
            self._paused = anyio.Event()

    def resume_reading(self) -> None:
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.set()

    def confirmed(self, frames: int) -> None:
        # A client that never says `seen` may not know the command: it has no window that could fill.
        if self._window is None:
            limits = self._desk.limits
            self._window = Window(self._frames, limits.max_unconfirmed, limits.max_unconfirmed_bytes)
        self._window.confirm(frames)
        self._go_on()

    @property
    def buffered(self) -> int:
        """Bytes that wait for the server to take them."""
        return self._sender.unsent

    # --- for the sender ---

    def drained(self) -> None:
        if self._dry is not None:
            self._dry.set()
        self._go_on()

    def lost(self, error: BaseException) -> None:
        # Servers raise OSError for a peer that has left, and RuntimeError for one that they have closed themselves.
        if not isinstance(error, (OSError, RuntimeError)):
            self._desk.fault("send-fault", error)
        self._is_gone = True
        self._finish()

    def _go_on(self) -> None:
        if not self._is_full or self._is_over or self._sender.unsent:
            return
        if self._window is None or self._window.has_room:
            self._is_full = False
            assert self._session is not None
            self._desk.hub.resumed(self._session)

    # --- life ---

    def end(self, code: int, reason: str) -> None:
        """Send what was written, say why, and leave."""
        if self._farewell is None:
            self._farewell = (code, reason)
            self._finish()

    def _fail(self, error: Exception) -> None:
        self._desk.fault("connection-fault", error)
        self.end(CloseCode.INTERNAL_ERROR, "internal error")

    def _finish(self) -> None:
        self._is_over = True
        if self._dry is not None:
            self._dry.set()
        self._scope.cancel()

    def open(self, connect: Callable[[Transport], Session]) -> None:
        """Tell the hub of the client. Never raises; `serve` follows in any case."""
        try:
            self._session = connect(self)
        except HubClosed:
            self.end(CloseCode.SERVICE_RESTART, "the hub is shutting down")
        except Exception as error:  # noqa: BLE001 - the boundary: a fault stays in its connection
            self._fail(error)

    async def serve(self) -> None:
        """Be this client until it has left. Raises nothing because of the peer or the server."""
        self._desk.members.add(self)
        try:
            await self._live()
        except anyio.get_cancelled_exc_class():
            if not self._sender.unsent and not self._is_told:
                with anyio.move_on_after(GOODBYE, shield=True):
                    await self._say(*(self._farewell or (CloseCode.GOING_AWAY, "the server is going away")))
            raise
        finally:
            self._sender.stop()
            self._desk.members.discard(self)

    async def _live(self) -> None:
        try:
            with self._scope:
                while not self._is_over and await self._next():
                    pass
        except Exception as error:  # noqa: BLE001 - the boundary: a fault stays in its connection
            self._fail(error)
        finally:
            self._is_over = True
            if self._session is not None:
                self._desk.hub.disconnect(self._session)
        if self._farewell is not None:
            await self._leave(*self._farewell)

    async def _next(self) -> bool:
        """Listen for one message; False once there will be none."""
        try:
            message = await self._receive()
        except Exception as error:  # noqa: BLE001 - the server's, and whatever is around it
            self._desk.fault("receive-fault", error)
            self._is_gone = True
            return False
        # With one message in hand we do not listen: the server stops reading then, and the peer feels it. It also
        # sees no pongs meanwhile, so that must not last; what the hub waits for is bounded by its `auth_timeout`.
        while self._paused is not None and not self._is_over:
            await self._paused.wait()
        self._is_gone = not self.take(message)
        return not self._is_gone

    async def _leave(self, code: int, reason: str) -> None:
        """Send what waits, then the last message, then wait until the peer has left too."""
        with anyio.move_on_after(self._desk.limits.close_timeout) as time:
            if self._sender.unsent:
                self._dry = anyio.Event()
                await self._dry.wait()
            await self._say(code, reason)
            while not self._is_gone and await self._next():
                pass
        if time.cancelled_caught:
            self._desk.hub.count("close-timeout")
            await self._drain()

    async def _drain(self) -> None:
        """Take what a peer that goes on and on has sent: hypercorn never lets go of a socket whose queue is full."""
        is_silent = False
        while not (self._is_gone or is_silent):
            with anyio.move_on_after(LULL) as time:
                await self._next()
            is_silent = time.cancelled_caught

    async def _say(self, code: int, reason: str) -> None:
        """The last message, unless there is nobody to hear it."""
        if self._is_gone:
            return
        self._is_told = True
        try:
            await self._send(self.goodbye(code, reason))
        except (OSError, RuntimeError):
            self._is_gone = True  # it left first
        except Exception as error:  # noqa: BLE001 - the server's, and whatever is around it
            if code in _SUBSTITUTES:
                await self._say(_SUBSTITUTES[code], reason)
            else:
                self._is_gone = True
                self._desk.fault("send-fault", error)


class WebSocketClient(Client):
    """A WebSocket that was accepted."""

    __slots__ = ()

    def take(self, message: Message) -> bool:
        if message["type"] == "websocket.disconnect":  # its code is a guess of some servers, and changes nothing
            return False
        if message["type"] == "websocket.receive" and not self._is_over:
            text = message.get("text")
            self._feed(message.get("bytes") if text is None else text)
        return True

    def _feed(self, data: object) -> None:
        desk = self._desk
        if not isinstance(data, (str, bytes)):
            desk.hub.count("odd-message")
        elif _size(data) > desk.limits.max_message:
            reason = f"a message may have {desk.limits.max_message} bytes"
            desk.hub.note("protocol-fault", "a client broke the protocol: %s (%d)", reason, CloseCode.TOO_BIG)
            self.end(CloseCode.TOO_BIG, reason)
        else:
            assert self._session is not None
            desk.hub.receive_data(self._session, data)

    def goodbye(self, code: int, reason: str) -> Message:
        return {"type": "websocket.close", "code": int(code), "reason": reason}


def _size(data: str | bytes) -> int:
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode("utf-8", "replace"))
