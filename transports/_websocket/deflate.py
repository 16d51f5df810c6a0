"""permessage-deflate (RFC 7692) for many clients at once: negotiation with each, and a shared compressor.

Every message is compressed without reference to those before (`server_no_context_takeover`), so one compressed frame
serves all clients, and neither side keeps a compressor for a connection: clients must do the same, and their messages
are inflated by `frames.Decoder`, within its bounds.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Final

NAME: Final = "permessage-deflate"
LARGEST_WINDOW: Final = 15
SMALLEST_WINDOW: Final = 9
"""RFC 7692 has 8 too, but zlib cannot compress with it."""
# With a small window, zlib's default of 8 takes up to four times as long, because it must slide its hashes; the output
# was not smaller.
_MEMORY_LEVEL: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How frames are compressed for clients that offer permessage-deflate."""

    level: int = 1
    """The level of zlib, 1 to 9. A batch of 16 items takes 10 µs with 1, and 18 µs with 6 for 5 % fewer bytes."""
    threshold: int = 512
    """Payloads of fewer bytes are not compressed: they fit one packet anyway."""

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 9:
            raise ValueError(f"level is {self.level!r}; it must be between 1 and 9")
        if not self.threshold >= 0:
            raise ValueError(f"threshold is {self.threshold!r}; it must be at least 0")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was negotiated: the window of our frames, and the header of the answer."""

    window: int
    answer: str


class Deflater:
    """Compresses payloads, independently of each other."""

    def __init__(self, compression: Compression, window: int) -> None:
        self.name = f"deflate{window}"
        self._threshold = compression.threshold
        self._zlib = zlib.compressobj(compression.level, zlib.DEFLATED, -window, _MEMORY_LEVEL)

    def deflate(self, payload: bytes) -> bytes | None:
        """The payload of a compressed message; None if compressing it is not worth while."""
        if len(payload) < self._threshold:
            return None
        # A full flush forgets the messages before, as a new compressor for each message would, at less cost.
        packed = self._zlib.compress(payload) + self._zlib.flush(zlib.Z_FULL_FLUSH)
        # Without the four bytes of an empty block at the end (RFC 7692 §7.2.1).
        return packed[:-4] if len(packed) - 4 < len(payload) else None


# --- negotiation ------------------------------------------------------------------------------------------------------

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'\s*({_TOKEN})\s*(?:=\s*(?:({_TOKEN})|"({_TOKEN})")\s*)?')
_BITS: Final = re.compile(r"[89]|1[0-5]")


def negotiate(offers: str) -> Agreement | None:
    """The answer to the header `Sec-WebSocket-Extensions`: the first offer that is valid and can be met.

    Other offers are declined, not refused (RFC 7692 §7.1): the client is then served without compression.
    """
    for offer in offers.split(","):
        name, *parameters = offer.split(";")
        if name.strip() == NAME and (agreement := _accept(parameters)) is not None:
            return agreement
    return None


def _accept(parameters: list[str]) -> Agreement | None:
    wanted = _parse(parameters)
    if wanted is None:
        return None
    # Never `client_max_window_bits`: a client that did not offer it would break, and any window can be inflated.
    answer = [NAME, "server_no_context_takeover", "client_no_context_takeover"]
    bits = wanted.get("server_max_window_bits")
    if bits is None:
        return Agreement(LARGEST_WINDOW, "; ".join(answer))
    if int(bits) < SMALLEST_WINDOW:
        return None
    return Agreement(int(bits), "; ".join([*answer, f"server_max_window_bits={bits}"]))


def _parse(parameters: list[str]) -> dict[str, str | None] | None:
    """The parameters of an offer by name; None if one is unknown, repeated or has an invalid value."""
    wanted: dict[str, str | None] = {}
    for parameter in parameters:
        found = _PARAMETER.fullmatch(parameter)
        if found is None:
            return None
        name, value = found[1], found[2] or found[3]
        if name in wanted or not _is_valid(name, value):
            return None
        wanted[name] = value
    return wanted


def _is_valid(name: str, value: str | None) -> bool:
    if name in ("server_no_context_takeover", "client_no_context_takeover"):
        return value is None
    if name == "client_max_window_bits" and value is None:
        return True
    is_window = name in ("server_max_window_bits", "client_max_window_bits")
    return is_window and value is not None and _BITS.fullmatch(value) is not None
