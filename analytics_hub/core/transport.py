"""What a session writes to; a transport implements it."""

from __future__ import annotations

from typing import Protocol


class Transport(Protocol):
    """One client as the hub sees it. Every method returns at once and raises nothing because of the peer."""

    def write(self, frame: bytes) -> bool:
        """Take `frame` whole (256 KiB of JSON and its headers at most) and keep what the peer cannot take yet.

        False: taken, but the transport wants nothing more until it has called `Gateway.resumed(session)`; the hub
        keeps to that. After `close`, or once the peer has gone, it does nothing and returns True.
        """
        ...

    def close(self, code: int, reason: str) -> None:
        """Send what was written, then the close code, then end the connection. The hub calls it at most once."""

    def pause_reading(self) -> None:
        """Give the hub no more data of this client, so that its sender is slowed down, until `resume_reading`."""

    def resume_reading(self) -> None: ...

    def confirmed(self, frames: int) -> None:
        """The client says that it has received `frames` frames of this connection (`seen`); the number is unchecked.

        For transports that cannot see what the peer has not taken yet. The others have nothing to do.
        """
