"""One client of the TCP transport: lines in, the hub's bytes out, and ends that TCP has no words for."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final

from ...core.session import Session
from ...protocol import CloseCode
from .._refusal import close_item
from .._sockets.client import Client
from .._sockets.connection import LINGER
from .._sockets.decoder import Decodes, Message, ProtocolFault
from .._sockets.poller import WRITE
from .._sockets.writer import LINGERING, OPEN, Link
from .lines import LineDecoder, LineWire

if TYPE_CHECKING:
    from ..tcp import Server

FIRST_LOOK: Final = 0.05
LAST_LOOK: Final = 5.0
"""Seconds between two looks whether a peer that has ended its side is still there; each is twice as long."""

_REQUEST: Final = re.compile(r"[A-Z]{3,20} \S+ HTTP/[0-9]")
_SENTENCE: Final = b"this port speaks newline-delimited JSON, not HTTP\n"
_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_SENTENCE), _SENTENCE)
)
_TLS: Final = b"\x16\x03"  # how a handshake of every version of TLS begins


class LineClient(Client["Server"]):
    """The hub's `Transport` for one TCP connection.

    There are no pings. A peer that has vanished is noticed when the kernel gets no answer to what is sent to it, the
    hub's heartbeat included (`configure_liveness`).

    A peer that ends its own side is still served what it has subscribed to, because that is what `nc -N` and `socat`
    do at the end of their input. One that has closed altogether looks the same at first; it answers the next heartbeat
    with a reset, so one is sent at once.
    """

    __slots__ = ("_has_ended", "_is_new", "_look")

    def __init__(self, server: Server, link: Link, wire: LineWire) -> None:
        self._is_new = True
        self._has_ended = False
        self._look = FIRST_LOOK
        super().__init__(server, link, wire)

    # --- ending ---

    def last_words(self, code: int, reason: str) -> bytes:
        return self._wire.frame([close_item(code, reason)])

    def part(self) -> None:
        self._decoder = None  # what it still says is not read
        self.finish(self._server.limits.close_timeout)

    def expired(self) -> None:
        if self._phase != OPEN:
            super().expired()
        elif self._has_ended:
            self._look_at_peer()
        elif self._decoder is not None:
            self._look_at_message(self._decoder)

    def _look_at_message(self, decoder: Decodes) -> None:
        timeout = self._server.limits.message_timeout
        left = timeout if self._is_paused else timeout - (self.loop.now - decoder.started)
        if left > 0:
            self.set_deadline(left)
        else:
            self.give_up("closed-unfinished", f"a line was begun and not finished within {timeout:g} s")

    # --- a peer that says nothing more ---

    def ended(self) -> None:
        if self._tls is not None:  # TLS 1.2 and older have no half of an end (RFC 5246 §7.2.1)
            self.hang_up()
            return
        if self._has_ended:
            return
        self._has_ended = True
        self._watch()
        try:
            if isinstance(decoder := self._decoder, LineDecoder):
                for message in decoder.finish():
                    self._deliver(message)
            self._decoder = None
        except ProtocolFault as fault:
            self.violate(fault)
        if self._phase == OPEN:
            self.write(self._wire.frame(()))
            self.set_deadline(self._look)

    def _look_at_peer(self) -> None:
        if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.hang_up()
        elif self._session is None or _is_done(self._session):
            self.end(CloseCode.NORMAL, "nothing is subscribed, and nothing more can be")
        else:
            self._look = min(self._look * 2, LAST_LOOK)
            self.set_deadline(self._look)

    def _watch(self) -> None:
        if self._has_ended and self._phase < LINGERING:  # what has ended stays readable for ever
            self.loop.watch(self.sock, WRITE if self._tail else 0, self)
        else:
            super()._watch()

    # --- reading ---

    def received(self, data: bytes) -> None:
        if self._phase != OPEN:
            self._has_patience(len(data))
            return
        if self._is_new and data.startswith(_TLS):
            self.violate(ProtocolFault(CloseCode.PROTOCOL_ERROR, "this port speaks no TLS"))
            return
        had_decoder = self._decoder is not None
        super().received(data)
        if self._decoder is not None and not had_decoder and self._phase == OPEN:
            self.set_deadline(self._server.limits.message_timeout)

    def _deliver(self, message: Message) -> None:
        is_first, self._is_new = self._is_new, False
        if is_first and isinstance(message.data, str) and _REQUEST.match(message.data):
            # Also a page in somebody's browser can send one, with commands in its body: nothing more is read.
            self._server.gateway.note("protocol-fault", "a client broke the protocol: it speaks HTTP")
            self._forget_session()
            self.seal(_ANSWER)
            self.finish(LINGER)
        else:
            super()._deliver(message)

    def lend_decoder(self) -> Decodes:
        return LineDecoder(self._server.limits.max_message)


def _is_done(session: Session) -> bool:
    """Whether nothing will be sent to this client any more unless it asks."""
    return not (session.subscriptions or session.commands or session.is_waiting or session.lane)
