"""Keys, and the algorithms that each of them may serve.

A key belongs to one family of algorithms. Which of them tokens may use is decided here, before any token is parsed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from jwt import PyJWS, PyJWTError
from jwt.algorithms import Algorithm

Key: TypeAlias = Any
"""Text or bytes of an HMAC secret or of a PEM, or a key object of `cryptography` (which may not be installed)."""

# RFC 7518 §3.2: a key at least as long as the hash. A shorter one can be searched for offline from a single token.
HMAC_KEY_BYTES: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES256K", "ES384", "ES512", "EdDSA"}
)


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key with the algorithms it serves, and its `kid`, if it has one."""

    key: Key = field(repr=False)
    algorithms: Mapping[str, Algorithm]
    id: str | None = None

    def has_signed(self, message: bytes, signature: bytes, algorithm: str) -> bool:
        return self.algorithms[algorithm].verify(message, self.key, signature)


KeyLookup: TypeAlias = Sequence[VerifyingKey] | Awaitable[Sequence[VerifyingKey]]


class KeySource(ABC):
    """Finds the keys for an authenticator, by two fields of a token's header."""

    @abstractmethod
    def serve(self, algorithms: Sequence[str]) -> None:
        """Prepare for tokens of these algorithms; raises `ValueError` if there can be no key for them."""

    @abstractmethod
    def find(self, key_id: str | None, algorithm: str) -> KeyLookup:
        """The keys that may have signed a token with this `kid` and `alg`, or an awaitable of them, bounded in time.

        Either way `KeySetError` is raised if there are no keys at all.
        """

    @abstractmethod
    async def run(self) -> None:
        """Keep the keys fresh; may return at once if there is nothing to do."""


class StaticKeys(KeySource):
    """Keys from the configuration. They are tried in order, whatever `kid` a token names."""

    def __init__(self, keys: Sequence[Key], algorithms: tuple[str, ...]) -> None:
        by_name = load_algorithms(algorithms)
        self._keys = tuple(
            VerifyingKey(_public(key), {name: by_name[name] for name in fitting}) for key, fitting in fit(keys, by_name)
        )

    def __repr__(self) -> str:
        return f"{len(self._keys)} keys"

    def serve(self, algorithms: Sequence[str]) -> None:
        """Nothing to do: they were checked in the constructor."""

    def find(self, key_id: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        return [key for key in self._keys if algorithm in key.algorithms]

    async def run(self) -> None:
        """Nothing to do: they never change."""


def check_algorithms(algorithms: Sequence[str]) -> tuple[str, ...]:
    """`algorithms`, if they are known and of one kind; raises `ValueError`."""
    known = HMAC_KEY_BYTES.keys() | ASYMMETRIC
    if isinstance(algorithms, str) or not algorithms or not known.issuperset(algorithms):
        raise ValueError(f"algorithms is {algorithms!r}; it must be a list of some of {', '.join(sorted(known))}")
    if len({name in ASYMMETRIC for name in algorithms}) > 1:
        # If a public key may also serve as an HMAC secret, anyone can sign tokens with it.
        raise ValueError(f"algorithms {', '.join(algorithms)} mix HMAC with asymmetric ones; use two authenticators")
    return tuple(algorithms)


def load_algorithms(names: Sequence[str]) -> dict[str, Algorithm]:
    """PyJWT's implementations; raises `ImportError` if they need `cryptography` and it is not installed."""
    jws = PyJWS(algorithms=names)
    try:
        return {name: jws.get_algorithm_by_name(name) for name in names}
    except NotImplementedError:
        raise ImportError(f"{', '.join(names)} needs cryptography: pip install analytics-hub[crypto]") from None


def fit(keys: Sequence[Key], algorithms: Mapping[str, Algorithm]) -> Iterator[tuple[Key, tuple[str, ...]]]:
    """Each key prepared, with the algorithms it fits: an RSA and an EC key may serve side by side."""
    unused = set(algorithms)
    for number, key in enumerate(keys, 1):
        fitting: dict[str, Key] = {}
        reasons: list[str] = []
        for name, algorithm in algorithms.items():
            try:
                fitting[name] = prepare(key, name, algorithm)
            except ValueError as error:
                reasons.append(str(error))
        if not fitting or (reasons and not ASYMMETRIC.issuperset(algorithms)):
            raise ValueError(f"key {number} of {len(keys)} cannot be used: {reasons[0]}")
        unused -= fitting.keys()
        yield next(iter(fitting.values())), tuple(fitting)
    if unused:
        raise ValueError(f"no key fits {', '.join(sorted(unused))}")


def prepare(key: Key, name: str, algorithm: Algorithm) -> Key:
    """`key` as PyJWT uses it for the algorithm `name`; raises `ValueError` that does not show the key."""
    try:
        prepared = algorithm.prepare_key(key)
    except (PyJWTError, ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
    if name in HMAC_KEY_BYTES and len(prepared) < (least := HMAC_KEY_BYTES[name]):
        raise ValueError(f"{name}: an HMAC key must have at least {least} bytes, this one has {len(prepared)}")
    if reason := algorithm.check_key_length(prepared):
        raise ValueError(f"{name}: {reason}")
    return prepared


def _public(key: Key) -> Key:
    """The public half: PyJWT accepts a private RSA key for verification too, and then fails for each token."""
    return key.public_key() if hasattr(key, "public_key") else key
