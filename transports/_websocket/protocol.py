"""One WebSocket client: frames in, the hub's frames out, pings, and the closing handshake of RFC 6455."""

from __future__ import annotations

from typing import Final

from ...protocol import CloseCode
from .._sockets.connection import LINGER, OPEN, Connection
from .._sockets.decoder import Message, MessageDecoder, ProtocolFault
from .._sockets.session import SessionProtocol
from .frames import Close, Decoder, FrameWire, Ping, encode_close, encode_ping, encode_pong
from .server import WebSocketServer

_PING: Final = encode_ping()


class WebSocketProtocol(SessionProtocol[WebSocketServer]):
    """Runs over a connection once its upgrade was accepted."""

    __slots__ = ("_controls", "_pongs", "wire")

    def __init__(self, server: WebSocketServer, connection: Connection, wire: FrameWire) -> None:
        super().__init__(server, connection)
        self.wire = wire
        self._controls = 0
        """Pings and pongs since the last deadline."""
        self._pongs = b""
        """The answers to the pings among the frames that are being decoded, or to the last one while bytes are unsent:
        one is enough then (RFC 6455 §5.5.3), and bounds what a flood of them costs."""

    def accept(self, answer: bytes) -> None:
        """Send the `answer` to the request."""
        self._connection.set_deadline(self._server.limits.ping_interval)
        self._connection.write(answer)

    def keep_headers(self, size: int) -> None:
        """The hub keeps `size` bytes of headers until there is a token."""
        if self._session is not None:
            self._server.headers_kept(self._session, size)

    # --- ending

    def _end_session(self) -> None:
        if self._session is not None:
            self._server.session_ended(self._session)
        super()._end_session()

    def encode_close(self, code: int, reason: str) -> bytes:
        return encode_close(code, reason)

    def close_written(self) -> None:
        self._connection.resume_reading()  # its close frame is behind what it sent before
        self._connection.set_deadline(self._server.limits.close_timeout)

    def deadline_passed(self) -> None:
        connection, limits, now = self._connection, self._server.limits, self._server.loop.now
        if connection.phase != OPEN:
            super().deadline_passed()
            return
        if connection.is_paused:  # nothing is read, so silence means nothing
            self._heard_at = now
        silence = now - self._heard_at
        if silence >= limits.silence_timeout:
            self.time_out("closed-silent", f"no sign of life for {limits.silence_timeout:g} s")
        elif self._is_message_late(now):
            reason = f"a message was begun and not finished within {limits.message_timeout:g} s"
            self.time_out("closed-unfinished", reason)
        else:
            self._controls = 0
            if not connection.has_unsent:
                connection.write(_PING)
            connection.set_deadline(min(limits.ping_interval, limits.silence_timeout - silence))

    def _is_message_late(self, now: float) -> bool:
        if self._decoder is None or self._connection.is_paused:
            return False
        return now - self._decoder.started > self._server.limits.message_timeout

    # --- reading

    def acquire_decoder(self) -> Decoder:
        return self._server.acquire_decoder(self.wire.is_compressed)

    def release_decoder(self, decoder: MessageDecoder) -> None:
        assert isinstance(decoder, Decoder)
        self._server.release_decoder(decoder)

    def event_received(self, event: object) -> None:
        if isinstance(event, Close):
            self.input_processed()
            self._close_received(event)
            return
        assert isinstance(event, Ping)
        pong = encode_pong(event.payload)
        self._pongs = pong if self._connection.has_unsent else self._pongs + pong

    def message_received(self, message: Message) -> None:
        self.input_processed()  # a ping that came before is answered before
        super().message_received(message)

    def input_processed(self) -> None:
        """Answer pings, but only while nothing is unsent: pongs to a peer that does not read would pile up."""
        decoder = self._decoder
        if isinstance(decoder, Decoder) and decoder.controls:
            self._count_controls(decoder)
        if self._pongs and not self._connection.has_unsent:
            pongs, self._pongs = self._pongs, b""
            self._connection.write(pongs)

    def _count_controls(self, decoder: Decoder) -> None:
        self._controls += decoder.controls
        decoder.controls = 0
        limits = self._server.limits
        if self._controls > limits.max_control_frames and self._connection.phase == OPEN:
            reason = f"more than {limits.max_control_frames} control frames in {limits.ping_interval:g} s"
            self.terminate_for(ProtocolFault(CloseCode.TOO_MANY_COMMANDS, reason))

    def _close_received(self, close: Close) -> None:
        self._end_session()
        if self._connection.phase == OPEN:
            self._connection.write_last(encode_close(close.code))
            self._connection.finish(self._server.limits.close_timeout)
        else:
            self._connection.finish(LINGER)
