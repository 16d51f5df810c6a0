"""What decoders of what a client sends have in common, whatever it speaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class ProtocolFault(Exception):
    """The peer broke the protocol; `code` and the text are what it will be told."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message of the client: text as `str`, binary as `bytes`."""

    data: str | bytes


class Decodes(Protocol):
    """Bytes in, events out, within bounds."""

    started: float
    """When the message began that is under way: kept by the owner."""
    has_rested: bool
    """Set whenever a message has ended, or whatever came where none was under way; unset by the owner."""
    is_dry: bool
    """Whether `events` had nothing more to decode when it was last asked to the end."""

    @property
    def held(self) -> int:
        """About how many bytes are kept."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a message is kept, so that its owner can do without it."""
        ...

    def feed(self, data: bytes) -> None: ...

    def events(self) -> Iterator[object]:
        """Some of the events in what was fed; may be left early. Ask again until it `is_dry`.

        Raises `ProtocolFault`, and is then of no use.
        """
        ...
