"""Keys, and the algorithms that each of them may serve.

A key belongs to one family of algorithms. Which of them a token may use is decided here, before there is a token.
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
    """A key with the algorithms it serves, and the `kid` it goes by, if any."""

    key: Key = field(repr=False)
    algorithms: Mapping[str, Algorithm]
    id: str | None = None

    def has_signed(self, message: bytes, signature: bytes, algorithm: str) -> bool:
        return self.algorithms[algorithm].verify(message, self.key, signature)


KeyLookup: TypeAlias = Sequence[VerifyingKey] | Awaitable[Sequence[VerifyingKey]]


class KeySource(ABC):
    """Where an authenticator looks for keys. It never learns more of a token than the two header fields."""

    @abstractmethod
    def serve(self, algorithms: Sequence[str]) -> None:
        """An authenticator will ask for keys for `algorithms`; raises `ValueError` if there can be none."""

    @abstractmethod
    def find(self, key_id: str | None, algorithm: str) -> KeyLookup:
        """The keys that may have signed a token with this `kid` and `alg`, or an awaitable of them, bounded in time.

        Either way `KeySetError` is raised if no key can be had at all, whatever the token says.
        """

    @abstractmethod
    async def run(self) -> None:
        """Keep the keys fresh; may return at once if there is nothing to do."""


class StaticKeys(KeySource):
    """Keys that are written in the configuration. They are tried in order, whatever `kid` a token names."""

    def __init__(self, keys: Sequence[Key], algorithms: tuple[str, ...]) -> None:
        by_name = load_algorithms(algorithms)
        self._keys = tuple(
            VerifyingKey(_public(key), {name: by_name[name] for name in fitting}) for key, fitting in fit(keys, by_name)
        )

    def __repr__(self) -> str:
        return f"{len(self._keys)} keys"

    def serve(self, algorithms: Sequence[str]) -> None:
        """They were checked when they came."""

    def find(self, key_id: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        return [key for key in self._keys if algorithm in key.algorithms]

    async def run(self) -> None:
        """Nothing about them changes."""


def check_algorithms(algorithms: Sequence[str]) -> tuple[str, ...]:
    """`algorithms`, if they are known and of one kind; raises `ValueError`."""
    known = HMAC_KEY_BYTES.keys() | ASYMMETRIC
    if isinstance(algorithms, str) or not algorithms or not known.issuperset(algorithms):
        raise ValueError(f"algorithms is {algorithms!r}; it must be a list of some of {', '.join(sorted(known))}")
    if len({name in ASYMMETRIC for name in algorithms}) > 1:
        # A public key that may also serve as an HMAC secret lets everyone who knows it sign tokens.
        raise ValueError(f"algorithms {', '.join(algorithms)} mix HMAC with asymmetric ones; use two authenticators")
    return tuple(algorithms)


def load_algorithms(names: Sequence[str]) -> dict[str, Algorithm]:
    """PyJWT's implementations; raises `ImportError` if they need `cryptography` and it is not there."""
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
    if complaint := algorithm.check_key_length(prepared):
        raise ValueError(f"{name}: {complaint}")
    return prepared


def _public(key: Key) -> Key:
    """The half that verifies: PyJWT takes a private RSA key for a verifier too, and then fails at each token."""
    return key.public_key() if hasattr(key, "public_key") else key
