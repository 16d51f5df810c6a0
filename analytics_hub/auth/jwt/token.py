"""The compact form of a signed token (RFC 7515 §3.1), read before anything in it is believed.

The signature is verified by PyJWT's algorithms and not by its `PyJWS`, which decodes all of a token anew for each key:
350 µs for 8 KB of junk where this takes 10, and the payload before the signature is known to be good.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

MAX_KEY_ID: Final = 512

# No padding: some readers take it, and then one token has several spellings.
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)

KeyId = Annotated[str, msgspec.Meta(max_length=MAX_KEY_ID)]


class _Header(msgspec.Struct):
    """What is read of a header. `jku`, `jwk`, `x5u` and `x5c` are not: a token does not choose who may sign it."""

    alg: str
    kid: KeyId | None = None
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    b64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_header: Final = msgspec.json.Decoder(_Header)


@dataclass(frozen=True, slots=True, repr=False)
class CompactToken:
    """A token taken apart; its payload stays encoded until somebody has verified `signature` over `message`."""

    algorithm: str
    key_id: str | None
    message: bytes
    signature: bytes

    @classmethod
    def parse(cls, token: str) -> CompactToken:
        """Raises `ValueError` for what is no signed token, or one with extensions that must be understood."""
        if not _COMPACT.fullmatch(token):
            raise ValueError("not three parts in base64url")
        message, _, signature = token.rpartition(".")
        try:
            header = _header.decode(_decode(message.partition(".")[0]))
        except RecursionError:
            raise ValueError("the header is nested too deep") from None
        if header.crit is not msgspec.UNSET or header.b64 is not msgspec.UNSET:
            raise ValueError("the header has extensions that are not understood here")  # RFC 7515 §4.1.11
        return cls(header.alg, header.kid, message.encode(), _decode(signature))

    def payload(self) -> bytes:
        """Raises `ValueError` if it is not in base64url."""
        return _decode(self.message.partition(b".")[2].decode())


def _decode(segment: str) -> bytes:
    data = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if urlsafe_b64encode(data).rstrip(b"=") != segment.encode():
        raise ValueError("base64url that has a shorter or another spelling")
    return data
