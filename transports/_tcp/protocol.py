"""A connection of the TCP transport: until it is admitted, then lines in, the hub's lines out, and the ways to end."""

from __future__ import annotations

import re
import socket
from typing import Final

from ...contracts import Handshake, Peer
from ...core.session import Session
from ...exceptions import AuthenticationUnavailable, HubError
from ...protocol import CloseCode
from .._refusal import note_refusal
from .._sockets.connection import LINGER, OPEN, Connection
from .._sockets.decoder import Message, MessageDecoder, ProtocolFault
from .._sockets.pending import PendingProtocol
from .._sockets.session import SessionProtocol
from .lines import LineDecoder
from .server import LineServer

FIRST_LOOK: Final = 0.05
LAST_LOOK: Final = 5.0
"""Seconds between two checks whether a peer that has ended its side is still there; each is twice as long."""

_REQUEST: Final = re.compile(r"[A-Z]{3,20} \S+ HTTP/[0-9]")
_SENTENCE: Final = b"this port expects newline-delimited JSON, not HTTP\n"
_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_SENTENCE), _SENTENCE)
)
_TLS: Final = b"\x16\x03"  # how a handshake of every version of TLS begins


class PendingLineProtocol(PendingProtocol[LineServer]):
    """Waits for the hub, which may admit a peer without a token: it then waits for the first line."""

    __slots__ = ()

    def tls_established(self) -> None:
        self._handshake = Handshake(transport="tcp", client=self.client)
        self._connection.pause_reading()  # the lines are for the session
        self.request_admission()

    def plain_text_received(self) -> None:
        self._start_lines().terminate(CloseCode.PROTOCOL_ERROR, "this port requires TLS")

    def handshake_timed_out(self) -> None:
        if self._connection.is_paused:  # its check has not begun
            self.reject(AuthenticationUnavailable())
        else:
            self._connection.abort(reset=True)

    def reject(self, error: HubError) -> None:
        note_refusal(self._server.gateway, error)
        self._start_lines().terminate(error.close_code, error.public_message)

    def peer_admitted(self, peer: Peer) -> None:
        self._start_lines().start_session(self._server.wire, peer)

    def _start_lines(self) -> LineProtocol:
        protocol = LineProtocol(self._server, self._connection)
        self.hand_over(protocol)
        return protocol


class LineProtocol(SessionProtocol[LineServer]):
    """Runs over the connection of an admitted peer.

    There are no pings. A peer that has vanished is noticed when the kernel gets no answer to what is sent to it, the
    hub's heartbeat included (`configure_liveness`).

    A peer that ends its own side is still served what it has subscribed to, because that is what `nc -N` and `socat`
    do at the end of their input. One that has closed altogether looks the same at first; it answers the next heartbeat
    with a reset, so one is sent at once.
    """

    __slots__ = ("_is_new", "_look")

    def __init__(self, server: LineServer, connection: Connection) -> None:
        super().__init__(server, connection)
        self._is_new = True
        self._look = FIRST_LOOK

    # --- ending

    def encode_close(self, code: int, reason: str) -> bytes:
        return self._server.encode_close(code, reason)

    def close_written(self) -> None:
        self._decoder = None  # what the peer still sends is not read
        self._connection.finish(self._server.limits.close_timeout)

    def deadline_passed(self) -> None:
        if self._connection.phase != OPEN:
            super().deadline_passed()
        elif self._connection.has_eof:
            self._check_peer()
        elif self._decoder is not None:
            self._check_message(self._decoder)

    def _check_message(self, decoder: MessageDecoder) -> None:
        timeout = self._server.limits.message_timeout
        age = 0.0 if self._connection.is_paused else self._server.loop.now - decoder.started
        if age < timeout:
            self._connection.set_deadline(timeout - age)
        else:
            self.time_out("closed-unfinished", f"a line was begun and not finished within {timeout:g} s")

    # --- a peer that sends nothing more

    def eof_received(self) -> bool:
        try:
            if isinstance(decoder := self._decoder, LineDecoder):
                for message in decoder.finish():
                    self.message_received(message)
            self._decoder = None
        except ProtocolFault as fault:
            self.terminate_for(fault)
        if self._connection.phase == OPEN:
            self._connection.write(self._server.wire.frame(()))
            self._connection.set_deadline(self._look)
        return True

    def _check_peer(self) -> None:
        if self._connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._connection.abort()
        elif self._session is None or _is_done(self._session):
            self.terminate(CloseCode.NORMAL, "nothing is subscribed, and nothing more can be")
        else:
            self._look = min(self._look * 2, LAST_LOOK)
            self._connection.set_deadline(self._look)

    # --- reading

    def data_received(self, data: bytes) -> None:
        if self._is_new and data.startswith(_TLS):
            self.terminate_for(ProtocolFault(CloseCode.PROTOCOL_ERROR, "this port does not use TLS"))
            return
        had_decoder = self._decoder is not None
        super().data_received(data)
        if self._decoder is not None and not had_decoder and self._connection.phase == OPEN:
            self._connection.set_deadline(self._server.limits.message_timeout)

    def message_received(self, message: Message) -> None:
        is_first, self._is_new = self._is_new, False
        if is_first and isinstance(message.data, str) and _REQUEST.match(message.data):
            # A page in a browser can send one too, with commands in its body: nothing more is read.
            self._server.gateway.note("protocol-fault", "a client broke the protocol: it sent an HTTP request")
            self._end_session()
            self._connection.write_last(_ANSWER)
            self._connection.finish(LINGER)
        else:
            super().message_received(message)

    def acquire_decoder(self) -> MessageDecoder:
        return LineDecoder(self._server.limits.max_message)


def _is_done(session: Session) -> bool:
    """Whether nothing more will be sent to this client unless it sends a command."""
    return not (session.subscriptions or session.commands or session.is_waiting or session.control_queue)
