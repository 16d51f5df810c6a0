"""RFC 6455 frames by wsproto: the shared encoder that makes a frame once for many clients, and the bounded decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Frame, FrameDecoder, FrameProtocol, Opcode, ParseFailed, RsvBits

from ..protocol import CloseCode, Parsed, parse_json

# A server frame without extensions depends on its payload alone, so one encoder serves all clients.
_ENCODER: Final = FrameProtocol(client=False, extensions=[])
_NO_BITS: Final = RsvBits(False, False, False)


def encode_ping() -> bytes:
    return bytes(_ENCODER.ping())


def encode_pong(payload: bytes) -> bytes:
    return bytes(_ENCODER.pong(payload))


def encode_close(code: int | None, reason: str = "") -> bytes:
    """A close frame; `reason` is cut to the 123 bytes that fit. None sends no code."""
    return bytes(_ENCODER.close(code, None if code is None else reason))


@lru_cache(maxsize=4096)
def text_header(length: int) -> bytes:
    """The header of an unfragmented text frame of `length` bytes.

    wsproto makes it, once for each length: with `send_data` for every frame, a frame of 3.4 KB costs 3.5 µs, because
    the payload is decoded, encoded and copied three times; with its header remembered it costs 0.2 µs. That is felt
    where every client has a subscription set of its own.
    """
    return bytes(_ENCODER.send_data("0" * length)[: -length or None])


class JSONWire:
    """Text frames, each a JSON array of items: `analytics-hub.v1.json`, and what clients without subprotocol get."""

    name = "websocket.json"

    def frame(self, items: Sequence[bytes]) -> bytes:
        payload = b",".join(items)
        return b"".join((text_header(len(payload) + 2), b"[", payload, b"]"))

    def parse(self, data: str | bytes) -> list[Parsed]:
        return parse_json(data)


FRAMES: Final = 64
"""Frames decoded at a time, about a millisecond: a client that floods with tiny ones takes turns with all others."""


class ProtocolFault(Exception):
    """The peer broke the protocol; `code` and the text are what its close frame will say."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    """A whole text (`str`) or binary (`bytes`) message."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    code: int | None
    """None: the frame had no code."""


Event = Message | Ping | Close


class Decoder(Extension):
    """What one client sends, as events, within bounds that wsproto has not.

    wsproto streams fragments and stores nothing, but limits neither frames nor messages nor fragments. It shows every
    header to its extensions before the payload, which is where the limits stand: a frame that declares 2^62 bytes is
    refused when its header has come.

    A decoder that `is_idle` has no state and may serve another client: hence only clients in the middle of a
    message hold one, and an idle connection costs a few hundred bytes.
    """

    name = "limits"  # for wsproto; never offered to anyone

    def __init__(self, max_message: int, max_fragments: int) -> None:
        self._frames = FrameProtocol(client=False, extensions=[self])
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._opcode = Opcode.TEXT
        self._length = 0
        self._declared = 0
        self._fragments = 0
        self._partial = 0
        """Bytes fed that belong to no frame that is complete."""
        self._parts: list[str | bytes] = []
        self._is_idle = True
        self.is_dry = True
        """Whether `events` had nothing more to decode when it was last asked to the end."""
        self.started = 0.0
        """When the message began that is under way: kept by the owner."""

    @property
    def is_idle(self) -> bool:
        """Whether the last byte fed was the last of a message or of a control frame between messages."""
        return self._is_idle and not self._partial

    def feed(self, data: bytes) -> None:
        self._partial += len(data)
        self.is_dry = False
        self._frames.receive_bytes(data)

    def events(self) -> Iterator[Event]:
        """The events in the next `FRAMES` frames of what was fed; may be left early. Ask again until it `is_dry`.

        Raises `ProtocolFault`, and is then of no use.
        """
        try:
            for count, frame in enumerate(self._frames.received_frames(), 1):
                if (event := self._take(frame)) is not None:
                    yield event
                if count == FRAMES:
                    return
            self.is_dry = True
        except ParseFailed as error:
            if error.code == CloseReason.MESSAGE_TOO_BIG:
                limits = f"{self._max_message} bytes in {self._max_fragments} fragments"
                raise ProtocolFault(CloseCode.TOO_BIG, f"a message may have {limits}") from error
            raise ProtocolFault(error.code, str(error)) from error

    def _take(self, frame: Frame) -> Event | None:
        payload = frame.payload
        if isinstance(payload, tuple):
            self._is_idle = False  # and never again: wsproto decodes nothing after a close frame
            code = payload[0]
            return Close(None if code == CloseReason.NO_STATUS_RCVD else code)
        if frame.opcode.iscontrol():
            assert isinstance(payload, bytes)
            return Ping(payload) if frame.opcode is Opcode.PING else None
        self._is_idle = frame.message_finished
        if self._is_idle and not self._parts:
            return Message(payload)
        self._parts.append(payload)
        return Message(self._join()) if self._is_idle else None

    def _join(self) -> str | bytes:
        parts, self._parts = self._parts, []
        return "".join(parts) if isinstance(parts[0], str) else b"".join(parts)  # type: ignore[arg-type]

    # --- what wsproto asks of an extension ---

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        # Asked again when the mask has not come with the rest of the header, so nothing is counted here.
        self._opcode, self._length = opcode, payload_length
        if not opcode.iscontrol():
            declared, fragments = (self._declared, self._fragments) if opcode is Opcode.CONTINUATION else (0, 0)
            if declared + payload_length > self._max_message or fragments >= self._max_fragments:
                return CloseReason.MESSAGE_TOO_BIG
        return _NO_BITS

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> None:
        length = self._length
        # 2 bytes, the longer length, the mask: wsproto refuses lengths written longer than they need be.
        self._partial -= 6 + (0 if length < 126 else 2 if length < 65_536 else 8) + length
        if self._opcode.iscontrol():
            return
        if self._opcode is not Opcode.CONTINUATION:
            self._declared = self._fragments = 0
        self._declared += length
        self._fragments += 1
