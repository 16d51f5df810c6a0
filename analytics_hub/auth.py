"""Who may come in: where a token is looked for, how it is kept out of logs, and the check of JSON Web Tokens.

Everything here is synchronous and touches no network; one HS256 check costs about 30 µs. The signature is PyJWT's
work (`PyJWS`); the claims are judged here, because PyJWT reads the wall clock itself, which no test can turn, and
accepts loose forms (`"exp": "12"`) where one declared shape is safer.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote_plus

import msgspec
from jwt import InvalidAlgorithmError, InvalidSignatureError, PyJWS, PyJWTError

from .channels import check_name, shorten
from .contracts import Handshake
from .exceptions import AuthenticationError, InvalidChannel, TokenFault
from .identity import Identity

TokenSource = Literal["header", "subprotocol", "query"]
Key: TypeAlias = Any
"""Text or bytes of an HMAC secret or of a PEM, or a key object of `cryptography` (which may not be installed)."""

MAX_TOKEN_LENGTH: Final = 8192
"""Longer tokens are refused unparsed, so that the work a stranger can cause stays small."""
MAX_LEEWAY: Final = 30.0
MAX_TEXT: Final = 255

# RFC 7518 §3.2: a key at least as long as the hash. A shorter one can be searched for offline from a single token.
HMAC_KEY_BYTES: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES256K", "ES384", "ES512", "EdDSA"}
)


# --- where tokens are ------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A token and where it was."""

    token: str
    source: TokenSource


_SUBPROTOCOL: Final = "bearer."


def find_token(headers: Mapping[str, str], query: str, subprotocols: Iterable[str]) -> Found | None:
    """The token of a handshake: header before subprotocol entry before query (`docs/protocol.md` §8).

    `headers` has lower-case names. An `Authorization` of another scheme and empty tokens are passed over.
    """
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and (token := credentials.strip()):
        return Found(token, "header")
    for entry in subprotocols:
        if entry.startswith(_SUBPROTOCOL) and (token := entry.removeprefix(_SUBPROTOCOL)):
            return Found(token, "subprotocol")
    for name, value in parse_qsl(query):
        if name == "token":
            return Found(value, "query")
    return None


def strip_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """`headers` without the places where `find_token` looks: what an application or a log may see."""
    kept = {name: value for name, value in headers.items() if name != "authorization"}
    if offered := kept.pop("sec-websocket-protocol", ""):
        entries = [entry for entry in map(str.strip, offered.split(",")) if not entry.startswith(_SUBPROTOCOL)]
        if entries:
            kept["sec-websocket-protocol"] = ", ".join(entries)
    return kept


def strip_query(query: str) -> str:
    """`query` without its `token` parameters, however their name is percent-encoded; the rest is untouched."""
    return "&".join(part for part in query.split("&") if unquote_plus(part.partition("=")[0]) != "token")


def _spelled(word: str) -> str:
    """A pattern for `word` in which every character may be percent-encoded."""
    return "".join(f"(?:{char}|%{ord(char):02x}|%{ord(char.upper()):02x})" for char in word)


_PARAMETER: Final = re.compile(rf"({_spelled('token')}(?:=|%3d))[^&\s]*", re.IGNORECASE)
_BEARER: Final = re.compile(r"(bearer(?:\.|\s+))[^\s,]+", re.IGNORECASE)
_LOOKS_LIKE_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]*")


def redact(text: str) -> str:
    """`text`, a request target or anything else that is about to be logged, without tokens.

    Takes away rather too much than too little: `access_token=` goes as well, and whatever looks like a JWT.
    """
    text = _BEARER.sub(r"\1[redacted]", _PARAMETER.sub(r"\1[redacted]", text))
    return _LOOKS_LIKE_JWT.sub("[redacted]", text)


# --- what they say ---------------------------------------------------------------------------------------------

# The year 9999. It refuses a common mistake, `exp` in milliseconds: a token for fifty thousand years.
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]


class Claims(msgspec.Struct):
    """The claims that mean something here; a token in which one of them has another form is invalid."""

    sub: str
    exp: _Seconds
    nbf: _Seconds | None = None
    iat: _Seconds | None = None
    iss: str | None = None
    aud: str | list[str] | None = None
    role: str | None = None
    roles: list[str] | None = None
    account: str | None = None
    jti: str | None = None
    channels: list[str] | None = None

    def all_roles(self) -> frozenset[str]:
        return frozenset([*(self.roles or ()), *(() if self.role is None else (self.role,))])

    def is_well_formed(self) -> bool:
        """Whether every text may be shown to an operator and every channel is a name or a pattern."""
        texts = [self.sub, *self.all_roles(), *(text for text in (self.account, self.jti) if text is not None)]
        return all(0 < len(text) <= MAX_TEXT and text.isprintable() for text in texts) and all(
            map(_is_channel, self.channels or ())
        )


def _is_channel(name: str) -> bool:
    try:
        return name == "*" or bool(check_name(name.removesuffix("*")))
    except InvalidChannel:
        return False


# --- whether to believe them -----------------------------------------------------------------------------------

# RFC 7515 §3.1, compact form. No padding: PyJWT takes some, and then one token has several spellings.
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_CLAIMS: Final = msgspec.json.Decoder(Claims)

Verdict: TypeAlias = "Identity | tuple[TokenFault, str]"


class JWTAuthenticator:
    """An `authenticate` for `Hub` that believes JSON Web Tokens signed with `key`.

    `algorithms` are the only ones accepted, whatever a token says; all HMAC or all asymmetric (those need the extra
    `crypto`). `key` may be a list of keys, tried in order, to change them without cutting anyone off. A token must
    have `sub` and `exp`. `issuer` and `audience`, one or several, must then be met; a token made for an audience is
    refused where none is configured (RFC 7519 §4.1.3). `leeway`, at most 30 s, allows for clocks that differ, and
    a session lives that much past `exp`.

    Whatever is wrong becomes `AuthenticationError`; its `detail`, for counters, is one of no-token, too-long,
    malformed, algorithm, signature, claims, issuer, audience, not-yet-valid, issued-in-future, expired.
    """

    __slots__ = ("_audience", "_clock", "_issuer", "_jws", "_keys", "_leeway", "algorithms")

    def __init__(
        self,
        key: Key | Sequence[Key],
        *,
        algorithms: Sequence[str],
        issuer: str | Collection[str] | None = None,
        audience: str | Collection[str] | None = None,
        leeway: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= leeway <= MAX_LEEWAY:  # also refuses NaN
            raise ValueError(f"leeway is {leeway!r}; it must be between 0 and {MAX_LEEWAY:g} seconds")
        self.algorithms = _check_algorithms(algorithms)
        self._jws = PyJWS(algorithms=self.algorithms)
        keys: Sequence[Key] = [*key] if isinstance(key, list | tuple) else [key]
        self._keys = tuple(_fit(self._jws, keys, self.algorithms))
        self._issuer = _names(issuer)
        self._audience = _names(audience)
        self._leeway = leeway
        self._clock = clock

    def __repr__(self) -> str:
        return f"JWTAuthenticator(algorithms={self.algorithms!r}, keys={len(self._keys)}, leeway={self._leeway!r})"

    def __call__(self, handshake: Handshake) -> Identity:
        # A fault arrives as a value and is raised here, not inside an `except`: an exception of PyJWT's in
        # `__context__` would carry parts of the token into whatever reports errors.
        verdict = self._judge(handshake.token)
        if isinstance(verdict, Identity):
            return verdict
        raise AuthenticationError(*verdict)

    def _judge(self, token: str | None) -> Verdict:
        if not token:
            return "missing", "no-token"
        if len(token) > MAX_TOKEN_LENGTH:
            return "invalid", "too-long"
        if not _COMPACT.fullmatch(token):
            return "invalid", "malformed"
        detail = "algorithm"
        for key, algorithms in self._keys:
            try:
                payload = self._jws.decode(token, key, algorithms=algorithms)
            except InvalidSignatureError:
                detail = "signature"
            except InvalidAlgorithmError:
                pass
            except PyJWTError:
                return "invalid", "malformed"
            else:
                return self._judge_claims(payload)
        return "invalid", detail

    def _judge_claims(self, payload: bytes) -> Verdict:
        try:
            claims = _CLAIMS.decode(payload)
        except (ValueError, RecursionError):
            return "invalid", "claims"
        now = self._clock()
        if not claims.is_well_formed():
            return "invalid", "claims"
        if self._issuer and claims.iss not in self._issuer:
            return "invalid", "issuer"
        if self._audience.isdisjoint(_names(claims.aud)) and (self._audience or claims.aud is not None):
            return "invalid", "audience"
        if claims.nbf is not None and claims.nbf > now + self._leeway:
            return "invalid", "not-yet-valid"
        # `iat` only informs (RFC 7519 §4.1.6) and clocks differ, so seconds ahead are no reason; an hour is.
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
        )


def mint(
    key: Key,
    *,
    subject: str,
    roles: Iterable[str] = (),
    ttl: float = 3600.0,
    algorithm: str = "HS256",
    now: float | None = None,
    **claims: object,
) -> str:
    """A token for `subject` that is valid for `ttl` seconds from `now` (the wall clock's, if None).

    What `JWTAuthenticator` would refuse for its form or its key raises `ValueError` here.
    """
    if not 0 < ttl < math.inf:
        raise ValueError(f"ttl is {ttl!r}; it must be a number of seconds above 0")
    now = time.time() if now is None else now
    body = {"sub": subject, "roles": list(roles), "iat": math.floor(now), "exp": math.ceil(now + ttl), **claims}
    try:
        is_well_formed = msgspec.convert(body, Claims).is_well_formed()
    except msgspec.ValidationError as error:
        raise ValueError(f"claims of a token: {error}") from None
    if not is_well_formed:
        raise ValueError(
            f"claims of a token for {shorten(subject)}: subject, roles, account and jti must be 1 to {MAX_TEXT} "
            "printable characters, channels must be names or patterns"
        )
    jws = PyJWS(algorithms=_check_algorithms([algorithm]))
    ((prepared, _),) = _fit(jws, [key], (algorithm,))
    return jws.encode(msgspec.json.encode(body), prepared, algorithm=algorithm)


def _check_algorithms(algorithms: Sequence[str]) -> tuple[str, ...]:
    known = HMAC_KEY_BYTES.keys() | ASYMMETRIC
    if isinstance(algorithms, str) or not algorithms or not known.issuperset(algorithms):
        raise ValueError(f"algorithms is {algorithms!r}; it must be a list of some of {', '.join(sorted(known))}")
    if len({name in ASYMMETRIC for name in algorithms}) > 1:
        # A public key that may also serve as an HMAC secret lets everyone who knows it sign tokens.
        raise ValueError(f"algorithms {', '.join(algorithms)} mix HMAC with asymmetric ones; use two authenticators")
    return tuple(algorithms)


def _fit(jws: PyJWS, keys: Sequence[Key], algorithms: tuple[str, ...]) -> Iterator[tuple[Key, tuple[str, ...]]]:
    """Each key prepared, with the algorithms it fits: an RSA and an EC key may serve side by side."""
    unused = set(algorithms)
    for number, key in enumerate(keys, 1):
        fitting: dict[str, Key] = {}
        reasons: list[str] = []
        for name in algorithms:
            try:
                fitting[name] = _prepare(jws, key, name)
            except ValueError as error:
                reasons.append(str(error))
        if not fitting or (reasons and algorithms[0] in HMAC_KEY_BYTES):
            raise ValueError(f"key {number} of {len(keys)} cannot be used: {reasons[0]}")
        unused -= fitting.keys()
        yield next(iter(fitting.values())), tuple(fitting)
    if unused:
        raise ValueError(f"no key fits {', '.join(sorted(unused))}")


def _prepare(jws: PyJWS, key: Key, name: str) -> Key:
    """`key` as PyJWT uses it for the algorithm `name`; raises `ValueError` that does not show the key."""
    try:
        algorithm = jws.get_algorithm_by_name(name)
    except NotImplementedError:
        raise ImportError(f"{name} needs cryptography: pip install analytics-hub[crypto]") from None
    try:
        prepared = algorithm.prepare_key(key)
    except (PyJWTError, ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
    if name in HMAC_KEY_BYTES and len(prepared) < (least := HMAC_KEY_BYTES[name]):
        raise ValueError(f"{name}: an HMAC key must have at least {least} bytes, this one has {len(prepared)}")
    if complaint := algorithm.check_key_length(prepared):
        raise ValueError(f"{name}: {complaint}")
    return prepared


def _names(value: str | Collection[str] | None) -> frozenset[str]:
    return frozenset((value,) if isinstance(value, str) else value or ())
