"""Newline-delimited JSON: each frame a line, each line of the client a command or an array of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ...protocol import CloseCode, Parsed
from ...protocol.formats import JSON
from .._sockets.decoder import Message, ProtocolFault

LINES: Final = 64
"""Lines decoded at a time: a client that floods with tiny ones takes turns with all others."""


class LineWire:
    """Frames on lines of their own."""

    name = "tcp.json"
    has_cursor = False

    def frame(self, items: Sequence[bytes]) -> bytes:
        payload = JSON.join(items)
        if b"\n" in payload:  # between two tokens of JSON that the application made itself: no text can hold it
            payload = payload.replace(b"\n", b" ")
        return payload + b"\n"

    def parse(self, data: str | bytes) -> list[Parsed]:
        return JSON.parse(data)


class LineDecoder:
    """What one client sends, a `Message` for each line without its end, `\\n` or `\\r\\n`."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._rest = bytearray()
        self._searched = 0
        """Bytes of the rest that hold no end of a line."""
        self.is_dry = True
        self.started = 0.0
        self.has_rested = False

    @property
    def held(self) -> int:
        return len(self._rest)

    @property
    def is_idle(self) -> bool:
        return not self._rest

    def feed(self, data: bytes) -> None:
        self._rest += data
        self.is_dry = False

    def events(self) -> Iterator[Message]:
        """The next `LINES` lines. Raises `ProtocolFault`, and is then of no use."""
        for _ in range(LINES):
            end = self._rest.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._rest)
                self._check(self._rest)
                self.is_dry = True
                return
            line = self._rest[:end]
            del self._rest[: end + 1]
            self._searched = 0
            self.has_rested = True
            yield self._read(line)

    def finish(self) -> Iterator[Message]:
        """The line that the end of the stream has ended, if there is one. Raises `ProtocolFault`."""
        line, self._rest = self._rest, bytearray()
        if line:
            yield self._read(line)

    def _read(self, line: bytearray) -> Message:
        self._check(line)
        try:
            return Message(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise ProtocolFault(CloseCode.INVALID_DATA, f"a line must be UTF-8; byte {error.start} is not") from None

    def _check(self, line: bytearray) -> None:
        if len(line) > self._max_line + line.endswith(b"\r"):
            raise ProtocolFault(CloseCode.TOO_BIG, f"a line may have {self._max_line} bytes")
