"""Verifies JSON Web Tokens.

One HS256 check costs about 20 µs. The claims are checked here, because PyJWT reads the wall clock itself, which no test
can set, and accepts loose forms (`"exp": "12"`) where one declared form is safer.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from ...contracts import ANONYMOUS, Handshake, cheap
from ...exceptions import AuthenticationError, TokenFault
from ...identity import Identity
from .claims import Claims
from .keys import Key, KeySource, StaticKeys, VerifyingKey, check_algorithms
from .token import CompactToken

MAX_TOKEN_LENGTH: Final = 8192
"""Longer tokens are refused unparsed, to bound the work that an unauthenticated peer can cause."""
MAX_LEEWAY: Final = 30.0

Detail = Literal[
    "no-token",
    "too-long",
    "malformed",
    "algorithm",
    "unknown-key",
    "signature",
    "claims",
    "issuer",
    "audience",
    "not-yet-valid",
    "issued-in-future",
    "expired",
]
TOKEN_DETAILS: Final[frozenset[str]] = frozenset(get_args(Detail))
"""Every `detail` of an `AuthenticationError` of `JWTAuthenticator`: few, so that each can have a counter."""

Fault: TypeAlias = tuple[TokenFault, Detail]
_GENUINE: Final = frozenset({"not-yet-valid", "issued-in-future", "expired"})
"""Details of tokens that were, or will be, valid here."""
_CLAIMS: Final = msgspec.json.Decoder(Claims)


class JWTAuthenticator:
    """An `authenticate` for `Hub` that accepts JSON Web Tokens signed with `key`.

    `algorithms` are the only ones accepted, whatever a token names; all HMAC or all asymmetric (those need the extra
    `crypto`). `key` may be a list of keys, tried in order, so that keys can be replaced without refusing valid tokens,
    or a `JWKS`: the keys of an identity provider. A token must have `sub` and `exp`. If `issuer` or `audience`, one or
    several, are given, a token must match them; a token for an audience is refused where none is configured (RFC 7519
    §4.1.3). `leeway`, at most 30 s, allows for clocks that differ; a session lasts that much longer than `exp`. With
    `anonymous`, a peer that sends no token has the identity of `analytics_hub.anonymous`; a bad token is still refused.

    Every fault becomes `AuthenticationError`; its `detail`, one of `TOKEN_DETAILS`, is for counters. With a `JWKS` the
    result is an awaitable where a key must be fetched first; `KeySetError` is raised while there are no keys.
    """

    __slots__ = ("_admits_anonymous", "_audience", "_clock", "_issuer", "_keys", "_leeway", "algorithms")

    def __init__(
        self,
        key: Key | Sequence[Key] | KeySource,
        *,
        algorithms: Sequence[str],
        issuer: str | Collection[str] | None = None,
        audience: str | Collection[str] | None = None,
        leeway: float = 0.0,
        anonymous: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= leeway <= MAX_LEEWAY:  # also refuses NaN
            raise ValueError(f"leeway is {leeway!r}; it must be between 0 and {MAX_LEEWAY:g} seconds")
        self.algorithms = check_algorithms(algorithms)
        if isinstance(key, KeySource):
            self._keys = key
        else:
            self._keys = StaticKeys([*key] if isinstance(key, list | tuple) else [key], self.algorithms)
        self._keys.serve(self.algorithms)
        self._issuer = _names(issuer)
        self._audience = _names(audience)
        self._leeway = leeway
        self._admits_anonymous = anonymous
        self._clock = clock

    def __repr__(self) -> str:
        return f"JWTAuthenticator({self._keys!r}, algorithms={self.algorithms!r}, leeway={self._leeway!r})"

    @cheap
    def __call__(self, handshake: Handshake) -> Identity | Awaitable[Identity]:
        if self._admits_anonymous and handshake.token is None:
            return ANONYMOUS
        token = self._read(handshake.token)
        if not isinstance(token, CompactToken):
            raise AuthenticationError(*token)
        keys = self._keys.find(token.key_id, token.algorithm)
        return self._verify(token, keys) if isinstance(keys, Sequence) else self._wait(token, keys)

    async def run(self) -> None:
        """Keep the keys fresh. The hub runs this as long as it is open."""
        await self._keys.run()

    async def _wait(self, token: CompactToken, keys: Awaitable[Sequence[VerifyingKey]]) -> Identity:
        return self._verify(token, await keys)

    def _verify(self, token: CompactToken, keys: Sequence[VerifyingKey]) -> Identity:
        # A fault is returned as a value and raised here, not inside an `except`: an exception of a parser in
        # `__context__` would carry parts of the token into error reports.
        result = self._identify(token, keys)
        if isinstance(result, Identity):
            return result
        fault, detail = result
        raise AuthenticationError(fault, detail, is_genuine=detail in _GENUINE)

    def _read(self, text: str | None) -> CompactToken | Fault:
        if not text:
            return "missing", "no-token"
        if len(text) > MAX_TOKEN_LENGTH:
            return "invalid", "too-long"
        try:
            token = CompactToken.parse(text)
        except ValueError:
            return "invalid", "malformed"
        return token if token.algorithm in self.algorithms else ("invalid", "algorithm")

    def _identify(self, token: CompactToken, keys: Sequence[VerifyingKey]) -> Identity | Fault:
        if not keys:
            return "invalid", "unknown-key"
        if not any(key.has_signed(token.message, token.signature, token.algorithm) for key in keys):
            return "invalid", "signature"
        try:
            claims = _CLAIMS.decode(token.payload())
        except (ValueError, RecursionError):
            return "invalid", "claims"
        return self._check_claims(claims)

    def _check_claims(self, claims: Claims) -> Identity | Fault:
        now = self._clock()
        if not claims.is_well_formed():
            return "invalid", "claims"
        if self._issuer and claims.iss not in self._issuer:
            return "invalid", "issuer"
        if self._audience.isdisjoint(_names(claims.aud)) and (self._audience or claims.aud is not None):
            return "invalid", "audience"
        if claims.nbf is not None and claims.nbf > now + self._leeway:
            return "invalid", "not-yet-valid"
        # `iat` is informative (RFC 7519 §4.1.6) and clocks differ: seconds ahead are accepted, an hour is not.
        if claims.iat is not None and claims.iat > now + MAX_LEEWAY:
            return "invalid", "issued-in-future"
        expires = claims.exp + self._leeway
        if now >= expires:
            return "expired", "expired"
        return Identity(
            id=claims.sub,
            roles=claims.all_roles(),
            expires=expires,
            account=claims.account,
            channels=None if claims.channels is None else tuple(claims.channels),
            token_id=claims.jti,
            issued=claims.iat if claims.iat is not None else 0.0,  # a revocation of all tokens includes it
        )


def _names(value: str | Collection[str] | None) -> frozenset[str]:
    return frozenset((value,) if isinstance(value, str) else value or ())
