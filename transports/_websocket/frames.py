"""RFC 6455 frames by wsproto: an encoder that makes a frame once for many clients, and a bounded decoder."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Frame, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits

from ...protocol import CloseCode, Parsed
from ...protocol.formats import Format
from .._sockets.decoder import Message, ProtocolFault
from .deflate import LARGEST_WINDOW, Deflater

# A server frame depends on its payload alone, compressed or not, so one encoder serves all clients.
_ENCODER: Final = FrameProtocol(client=False, extensions=[])
_NO_BITS: Final = RsvBits(False, False, False)
_COMPRESSED: Final = RsvBits(True, False, False)


def encode_ping() -> bytes:
    return bytes(_ENCODER.ping())


def encode_pong(payload: bytes) -> bytes:
    return bytes(_ENCODER.pong(payload))


def encode_close(code: int | None, reason: str = "") -> bytes:
    """A close frame, without a code if `code` is None; `reason` is cut to the 123 bytes that fit."""
    return bytes(_ENCODER.close(code, None if code is None else reason))


@lru_cache(maxsize=4096)
def make_header(length: int, is_binary: bool, is_compressed: bool) -> bytes:
    """The header of an unfragmented frame with a payload of `length` bytes.

    wsproto makes it, once for each length: with `send_data` for every frame, a frame of 3.4 KB costs 3.5 µs, because
    the payload is decoded, encoded and copied three times; with a cached header it costs 0.2 µs. That matters where
    every client has a subscription set of its own.
    """
    payload = bytes(length)
    header = _ENCODER.send_data(payload if is_binary else payload.decode())[: -length or None]
    if is_compressed:
        header[0] |= 0x40  # RSV1 (RFC 7692 §6)
    return bytes(header)


class FrameWire:
    """Whole messages, each an array of items: text or binary, depending on the format, and compressed if negotiated."""

    has_cursor = False

    def __init__(self, payload_format: Format, deflater: Deflater | None = None) -> None:
        self.name = f"websocket.{payload_format.name}" + (f".{deflater.name}" if deflater else "")
        self.is_compressed = deflater is not None
        self._format = payload_format
        self._is_binary = payload_format.is_binary
        self._deflater = deflater

    def frame(self, items: Sequence[bytes]) -> bytes:
        payload = self._format.join(items)
        if self._deflater is not None and (packed := self._deflater.deflate(payload)) is not None:
            return make_header(len(packed), self._is_binary, True) + packed
        return make_header(len(payload), self._is_binary, False) + payload

    def parse(self, data: str | bytes) -> list[Parsed]:
        return self._format.parse(data)


FRAMES: Final = 64
"""Frames decoded at a time, about a millisecond: a client that floods with tiny ones takes turns with all others."""
SLACK: Final = 64
"""Bytes, besides a sixteenth, by which deflate may lengthen a message that it cannot shorten."""
MAX_ENDINGS: Final = 16
"""Blocks within a message that are marked as the last: each costs a new inflater, and needs only two bytes."""
PARTS: Final = 64
"""Pieces of a message that are kept separately: one that comes two bytes at a time would take thirty times its size."""
_EMPTY_BLOCK: Final = b"\x00\x00\xff\xff"  # left out by the sender (RFC 7692 §7.2.2)


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    code: int | None
    """None: the frame had no code."""


Event = Message | Ping | Close


class Decoder(Extension):
    """Decodes what one client sends, within bounds that wsproto does not have.

    wsproto streams fragments and stores nothing, but limits neither frames nor messages nor fragments. It passes every
    header to its extensions before the payload, and there the limits are checked: a frame that declares 2^62 bytes is
    refused as soon as its header was received.

    Compressed messages are inflated here and not by wsproto's own extension, which does not bound its output, and which
    forgets the message in progress when a control frame comes between two of its fragments.

    A decoder that `is_idle` has no state and may serve another client: so only clients in the middle of a message hold
    one, and an idle connection costs a few hundred bytes.
    """

    name = "limits"  # for wsproto; never offered to a peer

    def __init__(self, max_message: int, max_fragments: int, *, inflates: bool = False) -> None:
        self.inflates = inflates
        """Whether messages may be compressed. One that refers to an earlier message is invalid, as was negotiated."""
        self._inflater: Any = None  # zlib has no public name for it
        """Set while a compressed message is in progress."""
        self._inflated = 0
        self._endings = 0
        self._frames = FrameProtocol(client=False, extensions=[self])
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._opcode = Opcode.TEXT
        self._length = 0
        self._declared = 0
        self._fragments = 0
        self._partial = 0
        """Bytes fed of a frame that is not complete."""
        self._parts: list[str | bytes] = []
        self._is_idle = True
        self.needs_data = True
        self.started = 0.0
        self.has_progressed = False
        self.controls = 0
        """Pings and pongs that the owner has not counted yet, and resets."""

    @property
    def is_idle(self) -> bool:
        """Whether the last byte fed was the last of a message or of a control frame between messages."""
        return self._is_idle and not self._partial

    @property
    def held(self) -> int:
        return self._partial + (0 if self._is_idle else max(self._declared, self._inflated))

    def feed(self, data: bytes) -> None:
        self._partial += len(data)
        self.needs_data = False
        self._frames.receive_bytes(data)

    def events(self) -> Iterator[Event]:
        """The events in the next `FRAMES` frames of what was fed."""
        try:
            for count, frame in enumerate(self._frames.received_frames(), 1):
                if (event := self._convert(frame)) is not None:
                    yield event
                if count == FRAMES:
                    return
            self.needs_data = True
        except ParseFailed as error:
            if error.code == CloseReason.MESSAGE_TOO_BIG:
                limits = f"{self._max_message} bytes in {self._max_fragments} fragments"
                raise ProtocolFault(CloseCode.TOO_BIG, f"a message may have at most {limits}") from error
            raise ProtocolFault(error.code, str(error)) from error

    def _convert(self, frame: Frame) -> Event | None:
        payload = frame.payload
        if isinstance(payload, tuple):
            self._is_idle = False  # from now on: wsproto decodes nothing after a close frame
            code = payload[0]
            return Close(None if code == CloseReason.NO_STATUS_RCVD else code)
        if frame.opcode.iscontrol():
            assert isinstance(payload, bytes)
            self.has_progressed |= self._is_idle
            self.controls += 1
            return Ping(payload) if frame.opcode is Opcode.PING else None
        self._is_idle = frame.message_finished
        self.has_progressed |= self._is_idle
        if self._is_idle and not self._parts:
            return Message(payload)
        self._parts.append(payload)
        if len(self._parts) >= PARTS:
            self._parts = [self._join()]
        return Message(self._join()) if self._is_idle else None

    def _join(self) -> str | bytes:
        parts, self._parts = self._parts, []
        return "".join(parts) if isinstance(parts[0], str) else b"".join(parts)  # type: ignore[arg-type]

    # --- as an extension of wsproto

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        # Called again if the mask does not come with the rest of the header, so nothing is counted here.
        self._opcode, self._length = opcode, payload_length
        if opcode.iscontrol():
            return _NO_BITS
        declared, fragments = self._declared, self._fragments
        if opcode is not Opcode.CONTINUATION:
            declared = fragments = 0
            self._begin_message(self.inflates and rsv.rsv1)
        room = self._max_message if self._inflater is None else self._max_message + self._max_message // 16 + SLACK
        if declared + payload_length > room or fragments >= self._max_fragments:
            return CloseReason.MESSAGE_TOO_BIG
        return _COMPRESSED if self.inflates and opcode is not Opcode.CONTINUATION else _NO_BITS

    def _begin_message(self, is_compressed: bool) -> None:
        self._inflater = zlib.decompressobj(-LARGEST_WINDOW) if is_compressed else None
        self._inflated = self._endings = 0

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        return data if self._inflater is None or self._opcode.iscontrol() else self._inflate(data)

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        """`data`, inflated to at most one byte more than a message may have."""
        parts = []
        while data:
            try:
                part = self._inflater.decompress(data, self._max_message - self._inflated + 1)
            except zlib.error:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            self._inflated += len(part)
            if self._inflated > self._max_message:
                return CloseReason.MESSAGE_TOO_BIG
            parts.append(part)
            data = b""
            if self._inflater.eof:  # after a block that is marked as the last others may follow (RFC 7692 §7.2.3.4)
                data = self._inflater.unused_data
                self._inflater = zlib.decompressobj(-LARGEST_WINDOW)
                self._endings += 1
                if self._endings > MAX_ENDINGS:
                    return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return b"".join(parts)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        length = self._length
        # 2 bytes, the longer length, the mask: wsproto refuses lengths that are not in their shortest form.
        self._partial -= 6 + (0 if length < 126 else 2 if length < 65_536 else 8) + length
        if self._opcode.iscontrol():
            return None
        if self._opcode is not Opcode.CONTINUATION:
            self._declared = self._fragments = 0
        self._declared += length
        self._fragments += 1
        if self._inflater is None or not fin:
            return None
        tail = self._inflate(_EMPTY_BLOCK)
        self._inflater = None
        return tail
