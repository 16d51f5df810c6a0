"""What a connection calls on the protocol that runs over it, as asyncio's transports do."""

from __future__ import annotations


class ConnectionProtocol:
    """Base of the protocols over a `Connection`. The methods are its events; by default nothing happens.

    An exception raised by one of them is passed to `fail`, and concerns no other connection.
    """

    __slots__ = ()

    @property
    def buffered(self) -> int:
        """Bytes of the peer that are held."""
        return 0

    def connection_made(self) -> None:
        """The connection was accepted. Called on its first protocol only."""

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer, in order."""

    def process_backlog(self) -> bool:
        """Process what was received before and is still held; whether the connection may read more."""
        return True

    def eof_received(self) -> bool:
        """The peer will send nothing more. True keeps the connection open for writing, as in asyncio."""
        return False

    def buffer_drained(self, was_full: bool) -> None:
        """Everything written so far was sent. `was_full`: a `write` has returned False since the last time."""

    def end_sent(self) -> None:
        """Everything was sent, with the end of the stream behind it; the peer's end is awaited."""

    def deadline_passed(self) -> None: ...

    def connection_lost(self) -> None:
        """The socket was closed, by either side. Called once."""

    def close(self, code: int, reason: str) -> None:
        """The hub has ended the session, and the connection is still open."""

    def shutdown(self) -> None:
        """The server ends: close now, with a close frame if that takes no time."""

    def fail(self, error: Exception) -> None:
        """An event of this connection has raised `error`."""
