"""RFC 6455 and RFC 7692 in simple code: the events and errors that a decoder of client frames must return."""

from __future__ import annotations

import zlib
from codecs import getincrementaldecoder
from dataclasses import dataclass, field
from typing import Final

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
TAIL: Final = b"\x00\x00\xff\xff"

Event = tuple[str, object]


class Violation(Exception):
    """The client violated a rule; `codes` are the allowed close codes."""

    def __init__(self, *codes: int) -> None:
        self.codes = codes


@dataclass
class Reading:
    """The events of the bytes up to the first violation."""

    events: list[Event] = field(default_factory=list)
    codes: tuple[int, ...] = ()
    may_fail: bool = False
    """The unfinished frame can only be an error, which the decoder may report later."""
    is_closed: bool = False
    is_whole: bool = True
    """Whether no frame and no message is unfinished."""


@dataclass
class _Message:
    opcode: int
    is_compressed: bool
    room: int
    """Bytes that it may have on the wire."""
    declared: int = 0
    fragments: int = 0
    payload: bytes = b""


class Reference:
    """Reads a whole stream at once. Where several rules are violated at one place it allows each code."""

    def __init__(self, max_message: int, max_fragments: int, slack: int, max_endings: int, *, inflates: bool) -> None:
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._slack = slack
        self._max_endings = max_endings
        self._inflates = inflates
        self._message: _Message | None = None

    def read(self, data: bytes) -> Reading:
        reading = Reading()
        at = 0
        try:
            while at < len(data) and not reading.is_closed:
                next_at = self._frame(data, at, reading)
                if next_at is None:
                    reading.is_whole = False
                    break
                at = next_at
        except Violation as violation:
            reading.codes = violation.codes
        reading.is_whole = reading.is_whole and self._message is None
        return reading

    def _frame(self, data: bytes, at: int, reading: Reading) -> int | None:
        """The start of the next frame; None if this one is unfinished."""
        if len(data) - at < 2:
            return None
        first, second = data[at], data[at + 1]
        opcode, fin, rsv = first & 0x0F, bool(first & 0x80), first >> 4 & 0b111
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise Violation(1002)
        is_control = opcode >= CLOSE
        length, at = second & 0x7F, at + 2
        if is_control and (not fin or length > 125):
            raise Violation(1002)
        if length > 125:
            size = 2 if length == 126 else 8
            if len(data) - at < size:
                return None
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
            if length < (126 if size == 2 else 65_536) or length >> 63:
                raise Violation(1002)
        self._check_header(opcode, rsv, length, is_masked=bool(second & 0x80))
        reading.may_fail = opcode == CONTINUATION and self._message is None
        if len(data) - at < 4:
            return None
        mask, at = data[at : at + 4], at + 4
        payload = _unmask(data[at : at + length], mask)
        is_complete = len(payload) == length
        if is_control:
            if not is_complete:
                return None
            reading.events += _control(opcode, payload)
            reading.is_closed = opcode == CLOSE
        elif self._message is None and opcode == CONTINUATION:
            if payload or is_complete:
                raise Violation(1002, 1009)
            return None
        else:
            reading.events += self._data(opcode, rsv, payload, length, is_complete=is_complete, fin=fin)
        return at + length if is_complete else None

    def _check_header(self, opcode: int, rsv: int, length: int, *, is_masked: bool) -> None:
        message = self._message
        may_be_compressed = self._inflates and opcode in (TEXT, BINARY)
        codes = []
        if rsv & 0b011 or (rsv and not may_be_compressed) or not is_masked:
            codes.append(1002)
        if opcode == CONTINUATION and message is None:
            codes += [1009] * bool(codes)
        elif opcode < CLOSE:
            declared, fragments, room = 0, 0, self._room(is_compressed=bool(rsv & 0b100) and self._inflates)
            if opcode == CONTINUATION and message is not None:
                declared, fragments, room = message.declared, message.fragments, message.room
            if declared + length > room or fragments >= self._max_fragments:
                codes.append(1009)
        if codes:
            raise Violation(*codes)

    def _room(self, *, is_compressed: bool) -> int:
        return self._max_message + (self._max_message // 16 + self._slack if is_compressed else 0)

    def _data(self, opcode: int, rsv: int, payload: bytes, length: int, *, is_complete: bool, fin: bool) -> list[Event]:
        message = self._message
        if opcode != CONTINUATION:
            if message is not None:
                if payload or is_complete:
                    raise Violation(1002, 1007, 1009)
                return []
            is_compressed = bool(rsv)
            message = self._message = _Message(opcode, is_compressed, self._room(is_compressed=is_compressed))
        assert message is not None
        message.payload += payload
        is_last = is_complete and fin
        if is_complete:
            message.declared += length
            message.fragments += 1
        content = message.payload
        if message.is_compressed:
            content = self._inflate(content, is_last=is_last)
        if message.opcode == TEXT:
            try:
                text = getincrementaldecoder("utf-8")().decode(content, is_last)
            except UnicodeDecodeError:
                raise Violation(1007) from None
        else:
            text = ""
        if not is_last:
            return []
        self._message = None
        return [("message", text if message.opcode == TEXT else content)]

    def _inflate(self, data: bytes, *, is_last: bool) -> bytes:
        """The content of all blocks, also after one that is marked as the last (RFC 7692 §7.2.3.4)."""
        content, endings = b"", 0
        data += TAIL if is_last else b""
        while data:
            inflater = zlib.decompressobj(-15)
            try:
                content += inflater.decompress(data, self._max_message + 1 - len(content))
            except zlib.error:
                raise Violation(1007, 1009) from None
            if len(content) > self._max_message:
                raise Violation(1009, 1007)
            if not inflater.eof:
                break
            endings += 1
            if endings > self._max_endings:
                raise Violation(1007)
            data = inflater.unused_data
        return content


def _unmask(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[place & 3] for place, byte in enumerate(payload)) if any(mask) else payload


def _control(opcode: int, payload: bytes) -> list[Event]:
    if opcode == PING:
        return [("ping", payload)]
    if opcode == PONG:
        return []
    if not payload:
        return [("close", None)]
    if len(payload) == 1:
        raise Violation(1002)
    code = int.from_bytes(payload[:2], "big")
    is_defined = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    if not (is_defined or 3000 <= code <= 4999):
        raise Violation(1002)
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation(1007) from None
    return [("close", code)]
