"""One client of the hub on a socket: its session, what it says, and every way to end."""

from __future__ import annotations

from typing import Generic

from ...contracts import Peer
from ...core.session import Session
from ...core.wire import Wire
from ...exceptions import HubClosed
from ...protocol import CloseCode
from .connection import LINGER, Stream
from .decoder import Decodes, Message, ProtocolFault
from .pending import ServerT
from .writer import LOST, OPEN, SEALED, Link


class Client(Stream, Generic[ServerT]):
    """The hub's `Transport` for one client that was let in.

    `write`, `pause_reading` and `resume_reading` are those of `Stream`. A client that only listens has no decoder: one
    is there only while a message is under way, and most connections are idle.
    """

    __slots__ = ("_decoder", "_heard", "_server", "_session", "_wire")

    def __init__(self, server: ServerT, link: Link, wire: Wire) -> None:
        super().__init__(server.loop, link)
        self._server = server
        self._wire = wire
        self._session: Session | None = None
        self._decoder: Decodes | None = None
        self._heard = self.loop.now
        server.streams.add(self)
        server.clients += 1

    def open(self, peer: Peer, trailing: bytes = b"") -> None:
        """Tell the hub, then hand it what came in the same packet as the handshake. Never raises."""
        try:
            limit = self._server.limits.max_message
            self._session = self._server.gateway.connect(self, self._wire, peer, max_message=limit)
            # A client that subscribes together with its handshake sends nothing more, and would wait for ever.
            if trailing and self._phase == OPEN:
                self.received(trailing)
        except HubClosed:
            self.end(CloseCode.SERVICE_RESTART, "the hub is shutting down")
        except Exception as error:  # noqa: BLE001  # the boundary, where it is not the loop that calls
            self.fail(error)

    # --- for subclasses to say what it means ---

    def last_words(self, code: int, reason: str) -> bytes:
        """What tells the peer that this is the end, and why."""
        raise NotImplementedError

    def part(self) -> None:
        """The hub's last words are on their way; wait for the peer's."""
        raise NotImplementedError

    def lend_decoder(self) -> Decodes:
        """A decoder for the message that begins."""
        raise NotImplementedError

    def return_decoder(self, decoder: Decodes) -> None:
        """The decoder that was lent is idle."""

    def take(self, event: object) -> None:
        """An event that is no message."""
        raise NotImplementedError

    def decoded(self) -> None:
        """Some of what was received has been dealt with."""

    # --- ending ---

    def close(self, code: int, reason: str) -> None:
        """Called by the hub: the last words go after what was written, then the peer has its time to answer."""
        if self._phase == OPEN:
            self.seal(self.last_words(code, reason))
            self.part()

    def end(self, code: int, reason: str) -> None:
        """Called by the transport: say why, decode nothing more, hang up."""
        self._forget_session()
        self._decoder = None
        self.seal(self.last_words(code, reason))
        self.finish(LINGER)

    def violate(self, fault: ProtocolFault) -> None:
        """Called by the transport: the client broke the protocol."""
        self._server.gateway.note("protocol-fault", "a client broke the protocol: %s (%d)", fault, fault.code)
        self.end(fault.code, str(fault))

    def give_up(self, kind: str, reason: str) -> None:
        """Called by the transport: the client has taken too long over something."""
        self._server.gateway.note(kind, "a client was closed: %s", reason)
        self.end(CloseCode.TIMEOUT, reason)

    def fail(self, error: Exception) -> None:
        self._server.fault("connection-fault", error)
        self.end(CloseCode.INTERNAL_ERROR, "internal error")

    def expired(self) -> None:
        self._server.gateway.count("close-timeout")
        self.hang_up(reset=True)

    def leave(self) -> None:
        if self._tail is None:
            self.seal(self.last_words(CloseCode.GOING_AWAY, "the server is going away"))
        self.hang_up()

    def closed(self) -> None:
        self._server.streams.discard(self)
        self._server.clients -= 1
        self._decoder = None
        self._forget_session()

    def _forget_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._server.gateway.disconnect(session)

    def drained(self) -> None:
        if self._phase != OPEN:
            return
        was_full, self._is_full = self._is_full, False
        self.decoded()
        if was_full and self._session is not None:
            self._server.gateway.resumed(self._session)

    @property
    def buffered(self) -> int:
        held = super().buffered
        return held if self._decoder is None else held + self._decoder.held

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
            self._decoder = self.lend_decoder()
            self._decoder.started = self._heard
        self._decoder.feed(data)
        self._decode()

    def _decode(self) -> None:
        decoder = self._decoder
        assert decoder is not None
        try:
            for event in decoder.events():
                if isinstance(event, Message):
                    self._deliver(event)
                else:
                    self.take(event)
                if self._is_paused or self._phase > SEALED:
                    break
        except ProtocolFault as fault:
            self.violate(fault)
        if decoder.has_rested:
            decoder.has_rested = False
            decoder.started = self._heard
        self.decoded()
        if self._phase > SEALED:
            self._decoder = None
        elif decoder.is_idle:
            self._decoder = None
            self.return_decoder(decoder)
        elif not decoder.is_dry and not self._is_paused:
            self.loop.call_soon(self)

    def _deliver(self, message: Message) -> None:
        if self._phase == OPEN and self._session is not None:
            self._server.gateway.receive_data(self._session, message.data)
