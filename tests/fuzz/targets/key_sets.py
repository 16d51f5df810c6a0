"""Key sets of identity providers, and their download."""

from __future__ import annotations

import asyncio
import atexit
from typing import Any, Final, cast

import anyio
import msgspec
from anyio.abc import ByteStream

from analytics_hub.auth.jwt.fetch import Source
from analytics_hub.auth.jwt.key_set import _FAMILIES, MAX_KEYS, KeySet
from analytics_hub.auth.jwt.keys import ASYMMETRIC, load_algorithms
from analytics_hub.exceptions import KeySetError

from ..strategies import DEEP, alike, json_of
from ..target import Target, cut

_ALGORITHMS: Final = load_algorithms([*sorted(ASYMMETRIC)])
_MAX_ERROR_TEXT: Final = 1024


def check_key_set(data: bytes) -> None:
    try:
        found = KeySet.parse(data, _ALGORITHMS)
    except KeySetError as error:
        assert len(str(error)) <= _MAX_ERROR_TEXT
        return
    assert 0 < len(found.keys) <= MAX_KEYS
    for key in found.keys:
        assert key.id is None or len(key.id) <= 512
        assert key.algorithms
        assert any(key.algorithms.keys() <= set(family) for family in _FAMILIES.values()), key.algorithms
        assert not hasattr(key.key, "private_bytes")
        for algorithm in key.algorithms:
            assert not key.has_signed(b"message", bytes(64), algorithm)


class _Stream:
    """A connection that returns a recorded response."""

    def __init__(self, how: int, data: bytes) -> None:
        self._portions = cut(how, data)

    async def send(self, data: bytes) -> None:
        assert data.startswith(b"GET ")

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        try:
            return next(self._portions)
        except StopIteration:
            raise anyio.EndOfStream from None

    async def aclose(self) -> None:
        """Nothing is open."""


class _Source(Source):
    """A source with a server that sends `data`."""

    def __init__(self, how: int, data: bytes) -> None:
        super().__init__("https://login.example.com/keys")
        self._stream = _Stream(how, data)

    async def _connect(self, ssl_context: object) -> ByteStream:
        return cast("ByteStream", self._stream)


_RUNNER: Final = asyncio.Runner(loop_factory=asyncio.new_event_loop)
atexit.register(_RUNNER.close)
_LIMIT: Final = 1000


def check_download(data: bytes) -> None:
    """The first byte selects how the rest is cut."""
    source = _Source(data[0] if data else 0, data[1:])
    try:
        document = _RUNNER.run(source.fetch(None, _LIMIT))
    except KeySetError as error:
        assert str(error).isprintable()
        assert len(str(error)) <= _MAX_ERROR_TEXT
    else:
        assert len(document) <= _LIMIT


_KEYS: Final[tuple[dict[str, Any], ...]] = (
    {
        "kty": "EC",
        "crv": "P-256",
        "kid": "1",
        "use": "sig",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    },  # RFC 7517 appendix A.1
    {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi"
        "FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9"
        "c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1j"
        "F44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    },  # the same
    {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "key_ops": ["verify"],
    },  # RFC 8037
    {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"},
)
_DOCUMENTS: Final[tuple[Any, ...]] = (
    {"keys": [*_KEYS]},
    {"keys": [_KEYS[0]], "extra": 1},
    {"keys": [_KEYS[2], _KEYS[3]]},
    {"keys": []},
)

_NAMES: Final = (
    *("keys", "kty", "EC", "RSA", "OKP", "oct", "crv", "P-256", "P-384", "P-521", "secp256k1", "Ed25519", "Ed448", "x"),
    *("y", "n", "e", "d", "k", "kid", "use", "sig", "enc", "alg", "RS256", "ES256", "EdDSA", "AQAB", "AAAA"),
)
KEY_SET: Final = Target(
    "key-set",
    check_key_set,
    samples=tuple(map(msgspec.json.encode, _DOCUMENTS)),
    words=tuple(b'"kty": "RSA" "EC" "OKP" "oct" "alg":"ES256" "use":"enc" "d": AQAB AAAA'.split()),
    documents=json_of(alike(_DOCUMENTS, _NAMES)) | DEEP,
    longest=4096,
)
DOWNLOAD: Final = Target(
    "download",
    check_download,
    samples=tuple(
        how + sample
        for how in (b"\0", b"\x01", b"\x0b")
        for sample in (
            b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"keys":[]}',
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"key\r\n6\r\ns":[]}\r\n0\r\n\r\n',
            b'HTTP/1.0 200\r\n\r\n{"keys":[]}',
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: http://a/\r\n\r\n",
        )
    ),
    words=(
        *(
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 101 \r\n",
            b"HTTP/1.1 103 \r\n\r\n",
            b"Content-Length: 5\r\n",
            b"\r\n",
        ),
        *(b"Upgrade: x\r\nConnection: upgrade\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"x" * 900),
    ),
)
TARGETS: Final = (KEY_SET, DOWNLOAD)
