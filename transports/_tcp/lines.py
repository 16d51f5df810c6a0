"""Newline-delimited JSON: each frame is a line, each line of the client a command or an array of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ...protocol import CloseCode, Parsed
from ...protocol.formats import JSON
from .._sockets.decoder import Message, ProtocolFault

LINES: Final = 64
"""Lines decoded at a time: a client that floods with short ones takes turns with all others."""


class LineWire:
    """One line for each frame."""

    name = "tcp.json"
    has_cursor = False

    def frame(self, items: Sequence[bytes]) -> bytes:
        payload = JSON.join(items)
        if b"\n" in payload:  # between tokens of JSON that was published raw; within a text it is always escaped
            payload = payload.replace(b"\n", b" ")
        return payload + b"\n"

    def parse(self, data: str | bytes) -> list[Parsed]:
        return JSON.parse(data)


class LineDecoder:
    """Decodes what one client sends: a `Message` for each line, without its `\\n` or `\\r\\n`."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._rest = bytearray()
        self._searched = 0
        """Bytes of the rest without a line feed."""
        self.needs_data = True
        self.started = 0.0
        self.has_progressed = False

    @property
    def held(self) -> int:
        return len(self._rest)

    @property
    def is_idle(self) -> bool:
        return not self._rest

    def feed(self, data: bytes) -> None:
        self._rest += data
        self.needs_data = False

    def events(self) -> Iterator[Message]:
        """The next `LINES` lines."""
        for _ in range(LINES):
            end = self._rest.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._rest)
                self._check(self._rest)
                self.needs_data = True
                return
            line = self._rest[:end]
            del self._rest[: end + 1]
            self._searched = 0
            self.has_progressed = True
            yield self._read(line)

    def finish(self) -> Iterator[Message]:
        """The line that ended with the stream, if there is one. Raises `ProtocolFault`."""
        line, self._rest = self._rest, bytearray()
        if line:
            yield self._read(line)

    def _read(self, line: bytearray) -> Message:
        self._check(line)
        try:
            return Message(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            reason = f"a line must be UTF-8; byte {error.start} is invalid"
            raise ProtocolFault(CloseCode.INVALID_DATA, reason) from None

    def _check(self, line: bytearray) -> None:
        if len(line) > self._max_line + line.endswith(b"\r"):
            raise ProtocolFault(CloseCode.TOO_BIG, f"a line may have at most {self._max_line} bytes")
