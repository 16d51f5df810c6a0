"""One WebSocket client: frames in, the hub's bytes out, pings, and every way to end."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from ..contracts import Handshake
from ..core.session import Session
from ..exceptions import HubClosed
from ..identity import Identity
from ..protocol import CloseCode
from ._frames import Close, Decoder, Event, Message, Ping, ProtocolFault, encode_close, encode_ping, encode_pong
from ._stream import LOST, OPEN, SEALED, Stream

if TYPE_CHECKING:
    from ._server import Server

LINGER: Final = 1.0
"""Seconds that a peer has to read why it was cut off, or to hang up after both have said goodbye."""
_PING: Final = encode_ping()


class WebSocketClient(Stream):
    """The hub's `Transport` for one upgraded connection.

    `write`, `pause_reading` and `resume_reading` are those of `Stream`.
    """

    __slots__ = ("_decoder", "_heard", "_pong", "_server", "_session")

    def __init__(self, server: Server, sock: socket.socket, answer: bytes) -> None:
        super().__init__(server.loop, sock)
        self._server = server
        self._session: Session | None = None
        self._decoder: Decoder | None = None
        """Only while a message is under way: an idle connection needs none, and most are idle."""
        self._pong: bytes | None = None
        """The last ping that waits for its answer. One is enough (RFC 6455 §5.5.3), and bounds a flood of them."""
        self._heard = self.loop.now
        server.streams.add(self)
        server.clients += 1
        self.set_deadline(server.limits.ping_interval)
        self.write(answer)

    def open(self, identity: Identity | None, handshake: Handshake, trailing: bytes) -> None:
        """Tell the hub, then hand it what came in the same packet as the handshake. Never raises."""
        try:
            self._session = self._server.hub.connect(self, self._server.wire, identity, handshake)
            # A client that subscribes together with its handshake sends nothing more, and would wait for ever.
            if trailing and self._phase == OPEN:
                self.received(trailing)
        except HubClosed:
            self.end(CloseCode.SERVICE_RESTART, "the hub is shutting down")
        except Exception as error:  # noqa: BLE001  # the boundary, where it is not the loop that calls
            self.fail(error)

    # --- ending ---

    def close(self, code: int, reason: str) -> None:
        """Called by the hub: the close frame goes after what was written, then the peer has its time to answer."""
        if self._phase != OPEN:
            return
        self.seal(encode_close(code, reason))
        self._is_paused = False  # its answer is behind what it said before
        self._watch()
        self.set_deadline(self._server.limits.close_timeout)

    def end(self, code: int, reason: str) -> None:
        """Called by the transport: say why, decode nothing more, hang up."""
        self._forget_session()
        self.seal(encode_close(code, reason))
        self.finish(LINGER)

    def fail(self, error: Exception) -> None:
        self._server.fault("connection-fault", error)
        self.end(CloseCode.INTERNAL_ERROR, "internal error")

    def leave(self) -> None:
        if self._tail is None:
            self.seal(encode_close(CloseCode.GOING_AWAY, "the server is going away"))
        self.hang_up()

    def closed(self) -> None:
        self._server.streams.discard(self)
        self._server.clients -= 1
        self._decoder = None
        self._forget_session()

    def _forget_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._server.hub.disconnect(session)

    def expired(self) -> None:
        if self._phase != OPEN:
            self.hang_up(reset=True)
            return
        limits, now = self._server.limits, self.loop.now
        if self._is_paused:  # we do not listen, so silence means nothing
            self._heard = now
        silence = now - self._heard
        if silence >= limits.silence_timeout:
            self._server.hub.count("closed-silent")
            self.end(CloseCode.TIMEOUT, "no sign of life")
        elif self._decoder is not None and not self._is_paused and now - self._decoder.started > limits.message_timeout:
            self._server.hub.count("closed-unfinished")
            self.end(CloseCode.TIMEOUT, "a message was begun and not finished")
        else:
            if self._tail is None:
                self.write(_PING)
            self.set_deadline(min(limits.ping_interval, limits.silence_timeout - silence))

    def drained(self) -> None:
        if self._phase != OPEN:
            return
        was_full, self._is_full = self._is_full, False
        self._answer_ping()
        if was_full and self._session is not None:
            self._server.hub.resumed(self._session)

    def _answer_ping(self) -> None:
        """Only while nothing waits: pongs of a peer that does not read would pile up."""
        if self._pong is not None and self._tail is None:
            pong, self._pong = self._pong, None
            self.write(encode_pong(pong))

    # --- reading ---

    def _read(self) -> None:
        if self._decoder is not None and self._phase <= SEALED:
            self._decode()  # what a pause, or the turn of another client, has left behind
        if (self._decoder is None or self._decoder.is_dry) and not self._is_paused and self._phase < LOST:
            super()._read()

    def received(self, data: bytes) -> None:
        self._heard = self.loop.now
        if self._phase == SEALED and not self._has_patience(len(data)):
            return
        if self._decoder is None:
            self._decoder = self._server.lend_decoder()
            self._decoder.started = self._heard
        self._decoder.feed(data)
        self._decode()

    def _decode(self) -> None:
        decoder = self._decoder
        assert decoder is not None
        try:
            for event in decoder.events():
                self._take(event, decoder)
                if self._is_paused or self._phase > SEALED:
                    break
        except ProtocolFault as fault:
            self._server.hub.count("protocol-fault")
            self.end(fault.code, str(fault))
        self._answer_ping()
        if self._phase > SEALED:
            self._decoder = None
        elif decoder.is_idle:
            self._decoder = None
            self._server.return_decoder(decoder)
        elif not decoder.is_dry and not self._is_paused:
            self.loop.call_soon(self)

    def _take(self, event: Event, decoder: Decoder) -> None:
        if isinstance(event, Message):
            decoder.started = self._heard
            if self._phase == OPEN and self._session is not None:
                self._server.hub.receive_data(self._session, event.data)
        elif isinstance(event, Ping):
            self._pong = event.payload
        else:
            self._say_goodbye(event)

    def _say_goodbye(self, close: Close) -> None:
        """The peer ends, or answers our end."""
        self._forget_session()
        if self._phase == OPEN:
            self.seal(encode_close(close.code))
            self.finish(self._server.limits.close_timeout)
        else:
            self.finish(LINGER)
