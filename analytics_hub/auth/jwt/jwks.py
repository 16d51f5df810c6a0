"""Keys of an identity provider: fetched from its JWKS URL and kept fresh.

One task fetches (`run`), so there is never more than one request in progress. A token with a known key id is checked at
once, whatever that task is doing; only one with an unknown key id waits for it.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio
from jwt.algorithms import Algorithm

from ...exceptions import KeySetError, KeySetFault
from ...telemetry import ThrottledLogger
from .fetch import Source
from .key_set import MAX_DOCUMENT, KeySet, describe
from .keys import ASYMMETRIC, KeyLookup, KeySource, VerifyingKey, load_algorithms

Fetch = Callable[[str], Awaitable[bytes]]
"""Gets the document at a URL, with an HTTP client of the application. It is cancelled after `timeout`."""

FIRST_RETRY: Final = 1.0
QUIET: Final = 60.0
"""Seconds between two log lines about the same failure."""


@dataclass(frozen=True, slots=True)
class KeyHealth:
    """The state of a `JWKS`."""

    keys: int
    """The number of keys in use."""
    age: float | None
    """Seconds since they were fetched or confirmed; None if there never were any."""
    fetches: int
    failures: int
    """Failed fetches since the last successful one."""
    fault: KeySetFault | None
    """The fault of the last fetch; None if it succeeded."""


class JWKS(KeySource):
    """The keys behind `url`, for `JWTAuthenticator(JWKS(url), algorithms=["RS256"])`.

    They are fetched when the hub starts (`run`), every `refresh` seconds, and when a token names an unknown key id.
    Such extra fetches happen at most once per `cooldown` seconds; the token waits for the result. `timeout` bounds that
    wait, and each fetch as a whole.
    After a failure the last good keys stay in use; while there are none, `KeySetError` is raised, a 503 for clients.
    `https` is required; `allow_http` lifts that for hosts other than this one. `ssl_context` is for a private
    certificate authority, `fetch` for another HTTP client, behind a proxy for instance. `clock` is monotonic.
    A `JWKS` belongs to one event loop at a time; hubs in that loop may share it.
    """

    def __init__(
        self,
        url: str,
        *,
        refresh: float = 300.0,
        cooldown: float = 10.0,
        timeout: float = 5.0,
        allow_http: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("refresh", refresh), ("cooldown", cooldown), ("timeout", timeout)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value!r}; it must be a number of seconds greater than 0")
        self._source = Source(url, allow_http=allow_http)
        self._ssl_context = ssl_context
        if ssl_context is None and fetch is None and self._source.is_secure:
            self._ssl_context = ssl.create_default_context()  # takes 20 ms, so not on the event loop later
        self._every = refresh
        self._cooldown = cooldown
        self._timeout = timeout
        self._fetch = fetch
        self._clock = clock
        self._log = ThrottledLogger(clock, QUIET)
        self._algorithms: dict[str, Algorithm] = {}

        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._fetches = 0
        self._failures = 0
        self._fault: KeySetFault | None = None

        self._is_new = True
        self._is_fetching = False
        self._is_wanted = False
        self._cool_until = float("-inf")
        self._ended: anyio.Event | None = None  # of the task in `run`, while there is one
        self._wake: anyio.Event | None = None
        self._fetch_ended: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"JWKS({self._source!r}, keys={self.health.keys}, failures={self._failures})"

    @property
    def health(self) -> KeyHealth:
        if self._keys is None:
            return KeyHealth(0, None, self._fetches, self._failures, self._fault)
        age = self._clock() - self._fetched_at
        return KeyHealth(len(self._keys.keys), age, self._fetches, self._failures, self._fault)

    # --- for the authenticator

    def serve(self, algorithms: Sequence[str]) -> None:
        if not ASYMMETRIC.issuperset(algorithms):
            raise ValueError(
                f"algorithms is {algorithms!r}; a key set has public keys, which serve RS, PS, ES and EdDSA"
            )
        self._algorithms |= load_algorithms(algorithms)

    def find(self, key_id: str | None, algorithm: str) -> KeyLookup:
        found = self._known(key_id, algorithm)
        return self._wait(key_id, algorithm) if not found and self._may_fetch else self._final(found)

    async def _wait(self, key_id: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        found: Sequence[VerifyingKey] = []
        with anyio.move_on_after(self._timeout):
            while not found and self._may_fetch:
                await self._next_fetch()
                found = self._known(key_id, algorithm)
        return self._final(found)

    def _known(self, key_id: str | None, algorithm: str) -> Sequence[VerifyingKey]:
        return self._keys.find(key_id, algorithm) if self._keys is not None else []

    def _final(self, found: Sequence[VerifyingKey]) -> Sequence[VerifyingKey]:
        """`found`; raises `KeySetError` if there are no keys at all."""
        if self._keys is None:
            fault = self._fault or ("not-running" if self._is_new else "timeout")
            reason = "run() is not running; a hub runs it by itself" if fault == "not-running" else fault
            error = KeySetError(fault, f"no keys from {self._source!r} yet: {reason}")
            if fault == "not-running":  # every other fault was logged when it happened
                self._log.log(logging.ERROR, fault, "%s", error)
            raise error
        return found

    @property
    def _may_fetch(self) -> bool:
        """Whether a fetch that may bring a missing key is in progress or can begin."""
        if self._ended is None:
            return self._is_new  # the hub is about to start it
        return self._is_fetching or self._clock() >= self._cool_until

    async def _next_fetch(self) -> None:
        if not self._is_fetching:
            self._is_wanted = True
            if self._wake is not None:
                self._wake.set()
        if self._fetch_ended is None:
            self._fetch_ended = anyio.Event()
        await self._fetch_ended.wait()

    # --- the task

    async def run(self) -> None:
        """Fetch now, and again whenever a fetch is due; never returns.

        If two hubs share the key set, the second hub's `run` waits until the first one's has ended.
        """
        while self._ended is not None:
            await self._ended.wait()
        self._is_new = self._is_wanted = False  # tokens that wait already get the first fetch, which starts no cooldown
        self._ended = ended = anyio.Event()
        try:
            while True:
                await self._refresh()
                await self._sleep()
        finally:
            self._ended = self._wake = None
            self._end_fetch()
            ended.set()

    async def _refresh(self) -> None:
        """Fetch once and use the result; raises nothing."""
        was_wanted, self._is_wanted = self._is_wanted, False
        self._is_fetching = True
        try:
            self._use(KeySet.parse(await self._document(), self._algorithms))
        except KeySetError as error:
            self._failed(error)
        finally:
            self._is_fetching = False
        if self._failures:
            self._cool_until = self._clock() + self._retry_delay
        elif was_wanted:
            self._cool_until = self._clock() + self._cooldown
        self._end_fetch()

    async def _document(self) -> bytes:
        self._fetches += 1
        try:
            with anyio.fail_after(self._timeout):
                if self._fetch is None:
                    return await self._source.fetch(self._ssl_context, MAX_DOCUMENT)
                document = await self._fetch(self._source.url)
        except KeySetError:
            raise
        except TimeoutError:
            raise KeySetError("timeout", f"the fetch took longer than {self._timeout:g} s") from None
        except Exception as error:  # noqa: BLE001 - `fetch` is the application's: it may raise anything
            raise KeySetError("fetch-failed", f"fetch raised {type(error).__name__}") from None
        if not isinstance(document, bytes):
            raise KeySetError("fetch-failed", f"fetch returned {type(document).__name__}, not bytes")
        return document

    async def _sleep(self) -> None:
        with anyio.move_on_after(self._retry_delay if self._failures else self._every):
            self._wake = anyio.Event()
            await self._wake.wait()
        self._wake = None

    @property
    def _retry_delay(self) -> float:
        """Seconds until the next attempt after one that failed."""
        return min(FIRST_RETRY * 2.0 ** min(self._failures - 1, 30), self._cooldown)

    def _end_fetch(self) -> None:
        event, self._fetch_ended = self._fetch_ended, None
        if event is not None:
            event.set()

    def _use(self, keys: KeySet) -> None:
        if self._keys is None or [key.id for key in keys.keys] != [key.id for key in self._keys.keys]:
            self._log.log(
                logging.INFO,
                "keys",
                "%d keys from %r; left out: %s",
                len(keys.keys),
                self._source,
                describe(keys.left_out),
            )
        self._keys, self._fetched_at = keys, self._clock()
        self._failures, self._fault = 0, None

    def _failed(self, error: KeySetError) -> None:
        self._failures += 1
        self._fault = error.fault
        self._log.log(
            logging.WARNING, error.fault, "no keys from %r: %s; those known stay in use: %d", self._source, error,
            self.health.keys,
        )  # fmt: skip
