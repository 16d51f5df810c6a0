"""The protocol of an admitted peer: its session, what it sends, and every way to end."""

from __future__ import annotations

from typing import Generic

from ...contracts import Peer
from ...core.session import Session
from ...core.wire import Wire
from ...exceptions import HubClosed
from ...protocol import CloseCode
from .connection import CLOSING, LAST_WRITTEN, LINGER, OPEN, Connection
from .decoder import Message, MessageDecoder, ProtocolFault
from .protocol import ConnectionProtocol
from .server import ServerT


class SessionProtocol(ConnectionProtocol, Generic[ServerT]):
    """Base of the protocols of admitted peers.

    A client that only listens has no decoder: one exists only while a message is in progress, and most connections are
    idle.
    """

    __slots__ = ("_connection", "_decoder", "_heard_at", "_server", "_session")

    def __init__(self, server: ServerT, connection: Connection) -> None:
        self._server = server
        self._connection = connection
        self._session: Session | None = None
        self._decoder: MessageDecoder | None = None
        self._heard_at = server.loop.now
        server.clients += 1

    def start_session(self, wire: Wire, peer: Peer, trailing: bytes = b"") -> None:
        """Connect the peer, and process what came in the same packet as the handshake. Never raises."""
        connection, limit = self._connection, self._server.limits.max_message
        try:
            self._session = self._server.gateway.connect(connection, wire, peer, max_message=limit)
            # A client that subscribes together with its handshake sends nothing more, and would wait for ever.
            if trailing and connection.phase == OPEN:
                self.data_received(trailing)
        except HubClosed:
            self.terminate(CloseCode.SERVICE_RESTART, "the hub is shutting down")
        except Exception as error:  # noqa: BLE001  # the boundary, where the caller is not the loop
            connection.fail(error)

    # --- for subclasses

    def encode_close(self, code: int, reason: str) -> bytes:
        """The close frame, or its equivalent."""
        raise NotImplementedError

    def close_written(self) -> None:
        """The hub's close frame was written; wait for the peer's."""
        raise NotImplementedError

    def acquire_decoder(self) -> MessageDecoder:
        """A decoder for the message that begins."""
        raise NotImplementedError

    def release_decoder(self, decoder: MessageDecoder) -> None:
        """The decoder is idle."""

    def event_received(self, event: object) -> None:
        """The decoder has returned something other than a message."""
        raise NotImplementedError

    def input_processed(self) -> None:
        """Some of what was received was processed, or there is room to answer it."""

    # --- ending

    def close(self, code: int, reason: str) -> None:
        self._connection.write_last(self.encode_close(code, reason))
        self.close_written()

    def terminate(self, code: int, reason: str) -> None:
        """Send the reason, process nothing more, and close the connection."""
        self._end_session()
        self._decoder = None
        self._connection.write_last(self.encode_close(code, reason))
        self._connection.finish(LINGER)

    def terminate_for(self, fault: ProtocolFault) -> None:
        self._server.gateway.note("protocol-fault", "a client broke the protocol: %s (%d)", fault, fault.code)
        self.terminate(fault.code, str(fault))

    def time_out(self, kind: str, reason: str) -> None:
        """The client has taken too long for something."""
        self._server.gateway.note(kind, "a client was closed: %s", reason)
        self.terminate(CloseCode.TIMEOUT, reason)

    def fail(self, error: Exception) -> None:
        self._server.fault("connection-fault", error)
        self.terminate(CloseCode.INTERNAL_ERROR, "internal error")

    def deadline_passed(self) -> None:
        """The close frame was sent, and the peer does not close its side."""
        self._server.gateway.count("close-timeout")
        self._connection.abort(reset=True)

    def shutdown(self) -> None:
        if not self._connection.has_unsent:
            self._connection.write_last(self.encode_close(CloseCode.GOING_AWAY, "the server is going away"))
        self._connection.abort()

    def connection_lost(self) -> None:
        self._server.connections.discard(self._connection)
        self._server.clients -= 1
        self._decoder = None
        self._end_session()

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._server.gateway.disconnect(session)

    def buffer_drained(self, was_full: bool) -> None:
        self.input_processed()
        if was_full and self._session is not None:
            self._server.gateway.resumed(self._session)

    # --- reading

    @property
    def buffered(self) -> int:
        return 0 if self._decoder is None else self._decoder.held

    def process_backlog(self) -> bool:
        if self._decoder is not None:
            self._decode()  # what a pause, or the turn of another client, has left undecoded
        return self._decoder is None or self._decoder.needs_data

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._server.loop.now
        if self._connection.phase == LAST_WRITTEN and not self._connection.count_late_bytes(len(data)):
            return
        if self._decoder is None:
            self._decoder = self.acquire_decoder()
            self._decoder.started = self._heard_at
        self._decoder.feed(data)
        self._decode()

    def _decode(self) -> None:
        decoder, connection = self._decoder, self._connection
        assert decoder is not None
        try:
            for event in decoder.events():
                if isinstance(event, Message):
                    self.message_received(event)
                else:
                    self.event_received(event)
                if connection.is_paused or connection.phase >= CLOSING:
                    break
        except ProtocolFault as fault:
            self.terminate_for(fault)
        if decoder.has_progressed:
            decoder.has_progressed = False
            decoder.started = self._heard_at
        self.input_processed()
        if connection.phase >= CLOSING:
            self._decoder = None
        elif decoder.is_idle:
            self._decoder = None
            self.release_decoder(decoder)
        elif not decoder.needs_data and not connection.is_paused:
            self._server.loop.call_soon(connection)

    def message_received(self, message: Message) -> None:
        if self._connection.phase == OPEN and self._session is not None:
            self._server.gateway.receive_data(self._session, message.data)
