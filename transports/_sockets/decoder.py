"""What the decoders of all protocols have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class ProtocolFault(Exception):
    """The peer broke the protocol; the close frame has the `code` and the text."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message of the client: text as `str`, binary as `bytes`."""

    data: str | bytes


class MessageDecoder(Protocol):
    """Bytes in, events out, within bounds."""

    started: float
    """When the message in progress began: maintained by the owner."""
    has_progressed: bool
    """Set when a message has ended, or a control frame has between messages; reset by the owner."""
    needs_data: bool
    """Whether everything fed was decoded when `events` was last exhausted."""

    @property
    def held(self) -> int:
        """About how many bytes are kept."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether no part of a message is kept, so that its owner does not need it."""
        ...

    def feed(self, data: bytes) -> None: ...

    def events(self) -> Iterator[object]:
        """Some of the events in what was fed; it need not be exhausted. Call it again until `needs_data`.

        Raises `ProtocolFault`, and is then of no use.
        """
        ...
