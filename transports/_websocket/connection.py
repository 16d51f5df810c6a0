"""One WebSocket client: frames in, the hub's bytes out, pings, and how RFC 6455 ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...protocol import CloseCode
from .._sockets.client import Client
from .._sockets.connection import LINGER
from .._sockets.decoder import Decodes, Message, ProtocolFault
from .._sockets.writer import OPEN, Link
from .frames import Close, Decoder, FrameWire, Ping, encode_close, encode_ping, encode_pong

if TYPE_CHECKING:
    from .server import Server

_PING: Final = encode_ping()


class WebSocketClient(Client["Server"]):
    """The hub's `Transport` for one upgraded connection."""

    __slots__ = ("_controls", "_inflates", "_pongs")

    def __init__(self, server: Server, link: Link, wire: FrameWire, answer: bytes) -> None:
        super().__init__(server, link, wire)
        self._inflates = wire.is_compressed
        self._controls = 0
        """Pings and pongs since the last deadline."""
        self._pongs = b""
        """The answers to the pings among the frames that are being decoded, or to the last one while something waits
        for the peer: there one is enough (RFC 6455 §5.5.3), and bounds a flood of them."""
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
            super().expired()
            return
        limits, now = self._server.limits, self.loop.now
        if self._is_paused:  # we do not listen, so silence means nothing
            self._heard = now
        silence = now - self._heard
        if silence >= limits.silence_timeout:
            self.give_up("closed-silent", f"no sign of life for {limits.silence_timeout:g} s")
        elif self._decoder is not None and not self._is_paused and now - self._decoder.started > limits.message_timeout:
            reason = f"a message was begun and not finished within {limits.message_timeout:g} s"
            self.give_up("closed-unfinished", reason)
        else:
            self._controls = 0
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
        if isinstance(event, Close):
            self.decoded()
            self._say_goodbye(event)
            return
        assert isinstance(event, Ping)
        pong = encode_pong(event.payload)
        self._pongs = self._pongs + pong if self._tail is None else pong

    def _deliver(self, message: Message) -> None:
        self.decoded()  # a ping that came before is answered before
        super()._deliver(message)

    def decoded(self) -> None:
        """Answer pings, but only while nothing waits: pongs of a peer that does not read would pile up."""
        decoder = self._decoder
        if isinstance(decoder, Decoder) and decoder.controls:
            self._count(decoder)
        if self._pongs and self._tail is None:
            pongs, self._pongs = self._pongs, b""
            self.write(pongs)

    def _count(self, decoder: Decoder) -> None:
        self._controls += decoder.controls
        decoder.controls = 0
        limits = self._server.limits
        if self._controls > limits.max_control_frames and self._phase == OPEN:
            reason = f"more than {limits.max_control_frames} control frames in {limits.ping_interval:g} s"
            self.violate(ProtocolFault(CloseCode.TOO_MANY_COMMANDS, reason))

    def _say_goodbye(self, close: Close) -> None:
        """The peer ends, or answers our end."""
        self._forget_session()
        if self._phase == OPEN:
            self.seal(encode_close(close.code))
            self.finish(self._server.limits.close_timeout)
        else:
            self.finish(LINGER)
