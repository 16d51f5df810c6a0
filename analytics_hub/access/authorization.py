"""Calls `authorize` of the application, and caches its answers for a while."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from ..clock import Clock
from ..contracts import Action, Authorize
from ..hooks import call_hook
from ..identity import Identity
from ..telemetry import Telemetry
from ..tuning import Tuning

MAX_ANSWERS: Final = 10_000
"""Cached answers; beyond it the oldest are dropped."""
TURN: Final = 64
"""Answers after which the event loop gets a turn."""

_Key = tuple[Identity, Action, str]


class _Answer(NamedTuple):
    verdict: bool
    until: float


class _Request:
    """A request about an identity in progress. Once it `is_stale`, the answers so far are void."""

    __slots__ = ("is_stale", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.is_stale = False


class Authorization:
    """Calls `authorize`, sync or async, bounded in time. Equal identities share answers.

    An answer is valid for `Tuning.authorize_ttl` seconds, a failure is not cached.
    """

    def __init__(
        self,
        authorize: Authorize | None,
        tuning: Tuning,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._authorize = authorize
        self._timeout = tuning.auth_timeout
        self._ttl = tuning.authorize_ttl
        self._now = clock.monotonic
        self._telemetry = telemetry
        self._answers: dict[_Key, _Answer] = {}  # all have the same lifetime, so the oldest are the first
        self._requests: set[_Request] = set()

    @property
    def is_needed(self) -> bool:
        """Whether the application has an `authorize`."""
        return self._authorize is not None

    async def decide(self, identity: Identity, action: Action, channels: Iterable[str]) -> dict[str, bool | None]:
        """The answer for each of `channels`; None where `authorize` failed.

        All of it takes at most `auth_timeout` seconds. Never raises.
        """
        names = list(channels)
        if not self.is_needed:
            return dict.fromkeys(names, True)
        verdicts: dict[str, bool | None] = dict.fromkeys(names)
        request = _Request(identity.id)
        self._requests.add(request)
        try:
            with anyio.move_on_after(self._timeout) as scope:
                while True:
                    request.is_stale = False
                    verdicts = dict.fromkeys(names)
                    for number, name in enumerate(names, 1):
                        verdicts[name] = await self._decide_one(request, (identity, action, name))
                        if number % TURN == 0:
                            await checkpoint()
                    if not request.is_stale:
                        break
                    await checkpoint()
        finally:
            self._requests.discard(request)
        if scope.cancelled_caught:
            self._fault("authorize took longer than %g s", self._timeout)
            return dict.fromkeys(names) if request.is_stale else verdicts
        return verdicts

    def forget(self, subject: str) -> None:
        """Drop the answers about the identity with this id, those in progress included. O(answers)."""
        for key in [key for key in self._answers if key[0].id == subject]:
            del self._answers[key]
        for request in self._requests:
            if request.subject == subject:
                request.is_stale = True

    async def _decide_one(self, request: _Request, key: _Key) -> bool | None:
        is_cached = self._ttl > 0 and _has_hash(key)
        known = self._answers.get(key) if is_cached else None
        if known is not None and self._now() < known.until:
            return known.verdict
        assert self._authorize is not None
        _, action, channel = key
        try:
            answer: object = await call_hook(self._authorize, *key)
        except Exception as error:  # noqa: BLE001 - authorize is the application's: it may raise anything
            self._fault("authorize failed for %s %s: %r", action, channel, error)
            return None
        if not isinstance(answer, bool):
            self._fault(
                "authorize returned %s for %s %s; it must return a bool", type(answer).__name__, action, channel
            )
            return None
        if is_cached and not request.is_stale:
            self._cache(key, answer)
        return answer

    def _cache(self, key: _Key, verdict: bool) -> None:
        now = self._now()
        self._answers.pop(key, None)
        self._answers[key] = _Answer(verdict, now + self._ttl)
        while self._answers and (
            self._answers[oldest := next(iter(self._answers))].until <= now or len(self._answers) > MAX_ANSWERS
        ):
            del self._answers[oldest]

    def _fault(self, message: str, *args: object) -> None:
        self._telemetry.fault("authorize-failed", message, *args)


def _has_hash(key: _Key) -> bool:
    """False for an identity of a class of the application's own that has a mutable field."""
    try:
        hash(key)
    except TypeError:
        return False
    return True
