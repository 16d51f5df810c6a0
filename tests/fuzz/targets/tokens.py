"""Tokens: where they are found, how they are removed from logs, and which are accepted."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from typing import Any, Final, get_args

import msgspec

from analytics_hub.auth import (
    MAX_LEEWAY,
    TOKEN_DETAILS,
    JWTAuthenticator,
    find_token,
    mint,
    redact,
    strip_headers,
    strip_query,
)
from analytics_hub.auth.jwt.claims import MAX_TEXT
from analytics_hub.contracts import Handshake
from analytics_hub.exceptions import AuthenticationError, TokenFault
from analytics_hub.identity import Identity
from analytics_hub.transports._asgi.scope import Scope, pop_query

from ..strategies import DEEP, alike, json_of, prefixed
from ..target import Target

_KEY: Final = b"the secret of the fuzzer, which is long enough"
_NOW: Final = 1_700_000_000.0
_AUTHENTICATE: Final = JWTAuthenticator(_KEY, algorithms=["HS256"], leeway=5.0, clock=lambda: _NOW)
_FAULTS: Final = get_args(TokenFault)
_CHANNEL: Final = re.compile(r"\*|[A-Za-z0-9._:/-]{1,255}\*?")


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


_HEADER: Final = b'{"alg":"HS256","typ":"JWT"}'
_CLAIMS: Final = b'{"sub":"ann","roles":["trader"],"iat":1699999990,"exp":1700000600}'


def sign(header: bytes, claims: bytes) -> bytes:
    body = _base64(header) + b"." + _base64(claims)
    return body + b"." + _base64(hmac.digest(_KEY, body, hashlib.sha256))


def check_jwt(data: bytes) -> None:
    """The first byte selects the rest: a token, signed claims, a signed header, or unsigned claims."""
    kind = data[0] % 4 if data else 0
    match kind:
        case 0:
            token = data[1:]
        case 1:
            token = sign(_HEADER, data[1:])
        case 2:
            token = sign(data[1:], _CLAIMS)
        case _:
            token = b"%b.%b.%b" % (_base64(_HEADER), _base64(data[1:]), _base64(bytes(32)))
    text = token.decode("latin-1")
    try:
        identity = _AUTHENTICATE(Handshake(token=text))
    except AuthenticationError as error:
        assert error.fault in _FAULTS
        assert error.detail in TOKEN_DETAILS
        assert error.__context__ is None
        assert len(text) < 24 or text not in f"{error!r} {error}"
        return
    assert isinstance(identity, Identity)
    assert kind != 3, "a token without a signature was accepted"
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", text, re.ASCII)
    body, _, signature = token.rpartition(b".")
    assert signature == _base64(hmac.digest(_KEY, body, hashlib.sha256))
    _check_identity(identity)


def _check_identity(identity: Identity) -> None:
    for text in (identity.id, identity.account, identity.token_id, *identity.roles):
        assert text is None or (0 < len(text) <= MAX_TEXT and text.isprintable()), text
    assert identity.expires is not None
    assert math.isfinite(identity.expires)
    assert identity.expires > _NOW
    assert identity.issued is None or (math.isfinite(identity.issued) and identity.issued <= _NOW + MAX_LEEWAY)
    assert all(map(_CHANNEL.fullmatch, identity.channels or ()))


# --- finding and stripping --------------------------------------------------------------------------------------------

_ENTRY: Final = "sec-websocket-protocol"


def check_stripping(data: bytes) -> None:
    """Lines: `Authorization`, subprotocols, query. After stripping, no token is found in them."""
    authorization, offered, query, *_ = (*data.decode("latin-1").split("\n"), "", "")
    headers = {"authorization": authorization, _ENTRY: offered, "x": "y"}
    entries = [entry for entry in map(str.strip, offered.split(",")) if entry]
    found = find_token(headers, query, entries)
    stripped, rest = strip_headers(headers), strip_query(query)
    left = [entry for entry in map(str.strip, stripped.get(_ENTRY, "").split(",")) if entry]
    assert find_token(stripped, rest, left) is None
    assert stripped["x"] == "y"
    assert set(left) <= set(entries)
    assert set(rest.split("&")) <= {*query.split("&"), ""}
    if found is not None:
        assert found.token
        scope: Scope = {"query_string": query.encode("latin-1"), "raw_path": b"/ws?" + query.encode("latin-1")}
        assert pop_query(scope) == query
        assert find_token({}, scope["query_string"].decode("latin-1"), ()) is None
        assert b"?" not in scope["raw_path"]


_SECRET: Final = "S3cr3tS3cr3t"
_WORD: Final = re.compile(r"[!-+\-.-~]*")
"""The characters of tokens: no blank, no comma, ASCII only."""


def check_redaction(data: bytes) -> None:
    """Where `find_token` would find the secret in a logged text, the redacted text does not contain it."""
    text = data.decode("latin-1")
    redacted = redact(text)
    assert len(redacted) <= len(text) + len("[redacted]") * (len(text) // 2 + 1)
    assert redact(redacted) == redacted or _SECRET not in redacted
    for line in text.split("\n"):
        for part in line.partition("?")[2].partition(" ")[0].split("&"):
            found = find_token({}, part, ())
            if found is not None and _SECRET in found.token and _WORD.fullmatch(part):
                assert _SECRET not in redact(f"GET /ws?{part} HTTP/1.1"), part
        for word in line.split(","):
            found = find_token({"authorization": word}, "", (word.strip(),))
            if found is not None and len(found.token) >= 8 and _WORD.fullmatch(found.token):
                assert found.token not in redact(word).replace("[redacted]", ""), word


_GOOD: Final[tuple[Any, ...]] = (
    msgspec.json.decode(_CLAIMS),
    {"sub": "ann", "role": "admin", "exp": 1_700_000_600.5, "nbf": 1_699_999_000, "jti": "t1", "account": "a1"},
    {"sub": "ann", "exp": 1_700_000_600, "iss": "us", "aud": ["hub", "x"], "channels": ["user:*", "alerts", "*"]},
    {"alg": "HS256", "typ": "JWT", "kid": "1", "crit": ["b64"], "b64": False, "jwk": {"kty": "oct", "k": "AAAA"}},
)
_NAMES: Final = (
    *("sub", "exp", "iat", "nbf", "iss", "aud", "jti", "role", "roles", "account", "channels", "alg", "typ", "kid"),
    *(
        "crit",
        "b64",
        "jku",
        "x5u",
        "jwk",
        "none",
        "None",
        "HS256",
        "HS512",
        "RS256",
        "admin",
        "*",
        "user:*",
        "zip",
        "DEF",
    ),
)
_TOKEN: Final = mint(_KEY.decode(), subject="ann", roles=["trader"], now=_NOW).encode()
_ALIKE: Final = json_of(alike(_GOOD, _NAMES)) | DEEP
_WORDS: Final = (
    *b'. = - _ eyJ e30 "exp": "alg": "none" "HS256" ["HS256"] "crit":["exp"], "b64":false,'.split(),
    *(b"1700000000", b"1699999999", b"1e400", b"null", b"[" * 1200, b"A" * 8192, b'{"a":' * 1200, _TOKEN),
)
JWT: Final = Target(
    "jwt",
    check_jwt,
    samples=(
        b"\0" + _TOKEN,
        b"\0" + sign(b'{"alg":"none"}', _CLAIMS),
        *(first + msgspec.json.encode(each) for first in (b"\x01", b"\x02", b"\x03") for each in _GOOD),
    ),
    words=_WORDS,
    documents=prefixed(1, _ALIKE),
    longest=9000,
)
HEADERS: Final = Target(
    "jwt-headers",
    check_jwt,
    samples=(b"\x02" + _HEADER, b"\x02" + msgspec.json.encode(_GOOD[3])),
    words=_WORDS,
    documents=prefixed(2, _ALIKE),
    longest=6000,
)
STRIPPING: Final = Target(
    "stripping",
    check_stripping,
    samples=(
        b"Bearer ey.J\nanalytics-hub.v1.json, bearer.ey.J\ntoken=ey.J&channels=alerts",
        b"Basic dXNlcg==\nbearer.a,bearer.b\nx=1&to%6ben=secret&%74oken=x&token=",
        b"bearer  x\n, ,bearer.\nTOKEN=a&token%3d=b&token&token=+&=token",
    ),
    words=(*b"token %74 %6F to%6ben bearer. Bearer & = ; %3D + , %26".split(), b" ", b"\n"),
    longest=400,
)
REDACTION: Final = Target(
    "redaction",
    check_redaction,
    samples=(
        b"GET /ws/analytics?token=S3cr3tS3cr3t HTTP/1.1",
        b"GET /ws?a=b&to%6Ben=S3cr3tS3cr3t&c=d HTTP/1.1\nAuthorization: Bearer S3cr3tS3cr3t",
        b"Bearer S3cr3tS3cr3t\nbearer.S3cr3tS3cr3t, analytics-hub.v1.json\nws://hub/?access_token=S3cr3tS3cr3t",
        b"/ws?%74%6f%6b%65%6e=S3cr3tS3cr3t eyJhbGciOiJIUzI1NiJ9.S3cr3tS3cr3t.S3cr3tS3cr3t",
    ),
    words=(
        *b"token= to%6ben= %54oken %3d bearer. Bearer S3cr3tS3cr3t ? & eyJ , [redacted]".split(),
        *(b" ", b"\t", b"\x85", b"\xa0", b"\x1c", b"\x0b"),
    ),
    longest=600,
)
TARGETS: Final = (JWT, HEADERS, STRIPPING, REDACTION)
