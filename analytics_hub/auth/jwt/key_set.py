"""A JSON Web Key Set (RFC 7517), read as untrusted input.

A malformed or unsuitable key is left out, without effect on the others; a document without a usable key is refused as a
whole. A usable key is public, for signatures, strong enough, and of the family of an algorithm in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from jwt import PyJWK
from jwt.algorithms import Algorithm
from msgspec import UNSET, Raw, UnsetType

from ...exceptions import KeySetError
from .keys import VerifyingKey, prepare
from .token import KeyId

MAX_DOCUMENT: Final = 256 * 1024
MAX_KEYS: Final = 64
MAX_TRIED: Final = 4
"""Keys tried for a token without a key id, or if several keys have it: 30 µs each for RS256, 1.3 ms for ES512."""

_FAMILIES: Final[Mapping[tuple[str, str | None], Sequence[str]]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("EC", "secp256k1"): ("ES256K",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}

# 8192 bits in base64url, the largest size in use: the work for a token grows with it.
_Number = Annotated[str, msgspec.Meta(min_length=1, max_length=1366)]
_Exponent = Annotated[str, msgspec.Meta(min_length=1, max_length=8)]


class _JWK(msgspec.Struct):
    kty: str
    kid: KeyId | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    alg: str | None = None
    crv: str | None = None
    n: _Number | None = None
    e: _Exponent | None = None
    x: _Number | None = None
    y: _Number | None = None
    d: Raw | UnsetType = UNSET  # of a private RSA, EC or Ed25519 key
    k: Raw | UnsetType = UNSET  # an HMAC secret

    def family(self) -> Sequence[str]:
        """The algorithms that a key of this type can serve."""
        found = _FAMILIES.get((self.kty, None if self.kty == "RSA" else self.crv), ())
        return found if self.alg is None else [name for name in found if name == self.alg]

    def public(self) -> dict[str, str]:
        """The members of the public key alone."""
        members = {"kty": self.kty, "crv": self.crv, "n": self.n, "e": self.e, "x": self.x, "y": self.y}
        return {name: value for name, value in members.items() if value is not None}


class _Document(msgspec.Struct):
    keys: list[Raw]


_document: Final = msgspec.json.Decoder(_Document)
_jwk: Final = msgspec.json.Decoder(_JWK)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one document, and how many others were left out, by reason."""

    keys: tuple[VerifyingKey, ...]
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])

    def find(self, key_id: str | None, algorithm: str) -> list[VerifyingKey]:
        """The keys that may have signed a token with this `kid` and `alg`; without a `kid` it may be any that fits."""
        candidates = [key for key in self.keys if algorithm in key.algorithms and key_id in (None, key.id)]
        return candidates[:MAX_TRIED]

    @classmethod
    def parse(cls, document: bytes, algorithms: Mapping[str, Algorithm]) -> KeySet:
        """The keys of `document` that serve some of `algorithms`. Raises `KeySetError` and nothing else."""
        if len(document) > MAX_DOCUMENT:
            raise KeySetError("too-large", f"it has more than {MAX_DOCUMENT} bytes")
        try:
            found = _document.decode(document).keys
        except (ValueError, RecursionError):
            raise KeySetError("not-json", "it is not a JSON object with a list `keys`") from None
        if len(found) > MAX_KEYS:
            raise KeySetError("too-many-keys", f"it has {len(found)} keys; the limit is {MAX_KEYS}")
        keys: list[VerifyingKey] = []
        left_out: Counter[str] = Counter()
        for raw in found:
            key = _read(raw, algorithms)
            if isinstance(key, VerifyingKey):
                keys.append(key)
            else:
                left_out[key] += 1
        if not keys:
            raise KeySetError(
                "no-usable-key", f"it has no usable key for {', '.join(algorithms)}: {describe(left_out)}"
            )
        return cls(tuple(keys), left_out)


def describe(left_out: Mapping[str, int]) -> str:
    """The reasons, with the number of keys left out for each."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items())) or "none at all"


def _read(raw: Raw, algorithms: Mapping[str, Algorithm]) -> VerifyingKey | str:
    """A key, or why it is left out."""
    try:
        jwk = _jwk.decode(raw)
    except (ValueError, RecursionError):
        return "malformed"
    if jwk.kty == "oct" or jwk.k is not UNSET:
        return "symmetric"
    if jwk.d is not UNSET:
        return "private"  # if it is published, anyone can sign with it
    if jwk.use not in (None, "sig") or not (jwk.key_ops is None or "verify" in jwk.key_ops):
        return "for another use"
    wanted = {name: algorithms[name] for name in jwk.family() if name in algorithms}
    if not wanted:
        return "of another family"
    name, algorithm = next(iter(wanted.items()))
    try:
        key = prepare(PyJWK.from_dict(jwk.public(), name).key, name, algorithm)
    except Exception:  # noqa: BLE001 - whatever PyJWT and cryptography raise, the other keys are to be used
        return "weak or malformed"
    return VerifyingKey(key, wanted, jwk.kid)
