"""One WebSocket client: frames in, the hub's bytes out, pings, and how RFC 6455 ends."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from ...protocol import CloseCode
from .._sockets.client import LINGER, Client
from .._sockets.decoding import Decodes
from .._sockets.stream import OPEN
from .frames import Close, Decoder, FrameWire, Ping, encode_close, encode_ping, encode_pong

if TYPE_CHECKING:
    from .server import Server

_PING: Final = encode_ping()


class WebSocketClient(Client["Server"]):
    """The hub's `Transport` for one upgraded connection."""

    __slots__ = ("_inflates", "_pong")

    def __init__(self, server: Server, sock: socket.socket, wire: FrameWire, answer: bytes) -> None:
        super().__init__(server, sock, wire)
        self._inflates = wire.is_compressed
        self._pong: bytes | None = None
        """The last ping that waits for its answer. One is enough (RFC 6455 §5.5.3), and bounds a flood of them."""
        self.set_deadline(server.limits.ping_interval)
        self.write(answer)

    # --- ending ---

    def last_words(self, code: int, reason: str) -> bytes:
        return encode_close(code, reason)

    def part(self) -> None:
        self._is_paused = False  # its answer is behind what it said before
        self._watch()
        self.set_deadline(self._server.limits.close_timeout)

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

    # --- reading ---

    def lend_decoder(self) -> Decodes:
        return self._server.lend_decoder(self._inflates)

    def return_decoder(self, decoder: Decodes) -> None:
        assert isinstance(decoder, Decoder)
        self._server.keep_decoder(decoder)

    def take(self, event: object) -> None:
        if isinstance(event, Ping):
            self._pong = event.payload
        else:
            assert isinstance(event, Close)
            self._say_goodbye(event)

    def decoded(self) -> None:
        """Answer a ping, but only while nothing waits: pongs of a peer that does not read would pile up."""
        if self._pong is not None and self._tail is None:
            pong, self._pong = self._pong, None
            self.write(encode_pong(pong))

    def _say_goodbye(self, close: Close) -> None:
        """The peer ends, or answers our end."""
        self._forget_session()
        if self._phase == OPEN:
            self.seal(encode_close(close.code))
            self.finish(self._server.limits.close_timeout)
        else:
            self.finish(LINGER)
