"""Calls `authorize` of the application, and caches its answers for a while."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from anyio.lowlevel import checkpoint

from ..clock import Clock
from ..contracts import Action, Authorize
from ..event_loop import move_on_after
from ..faults import describe_fault
from ..hooks import HookThreads, is_cheap
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


class _Raised(NamedTuple):
    """In place of an answer."""

    error: BaseException


class Authorization:
    """Calls `authorize`, sync or async, bounded in time. Equal identities share answers.

    An answer is valid for `Tuning.authorize_ttl` seconds, a failure is not cached.
    """

    def __init__(
        self,
        authorize: Authorize | None,
        threads: HookThreads,
        tuning: Tuning,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._authorize = authorize
        self._threads = threads
        self._timeout = tuning.auth_timeout
        self._ttl = tuning.authorize_ttl
        self._now = clock.monotonic
        self._telemetry = telemetry
        self._answers: dict[_Key, _Answer] = {}  # all have the same lifetime, so the oldest are the first
        self._requests: set[_Request] = set()
        self._asks_in_threads = authorize is not None and not is_cheap(authorize)
        """Until it returns an awaitable: then each is awaited before the next call."""

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
            with move_on_after(self._timeout) as scope:
                while True:
                    request.is_stale = False
                    verdicts = dict.fromkeys(names)
                    for start in range(0, len(names), TURN):
                        batch = names[start : start + TURN]
                        await self._decide_batch(request, [(identity, action, name) for name in batch], verdicts)
                        if len(batch) == TURN:
                            await checkpoint()
                    if not request.is_stale:
                        break
                    await checkpoint()
        finally:
            self._requests.discard(request)
        if scope.cancelled_caught:
            timeout = TimeoutError(f"it took longer than {self._timeout:g} s")
            self._fault("authorize failed: %s", describe_fault(timeout, self._authorize))
            return dict.fromkeys(names) if request.is_stale else verdicts
        return verdicts

    def forget(self, subject: str) -> None:
        """Drop the answers about the identity with this id, those in progress included. O(answers)."""
        for key in [key for key in self._answers if key[0].id == subject]:
            del self._answers[key]
        for request in self._requests:
            if request.subject == subject:
                request.is_stale = True

    async def _decide_batch(self, request: _Request, keys: Sequence[_Key], verdicts: dict[str, bool | None]) -> None:
        """Fill in the verdicts of `keys`, one after the other."""
        keys = [key for key in keys if not self._is_known(key, verdicts)]
        if self._asks_in_threads and keys:
            keys = await self._ask_in_thread(request, keys, verdicts)
        for key in keys:
            verdicts[key[2]] = self._judge(request, key, await self._ask(key))

    async def _ask_in_thread(
        self, request: _Request, keys: Sequence[_Key], verdicts: dict[str, bool | None]
    ) -> Sequence[_Key]:
        """Ask about all of `keys` in one worker thread, because to begin one takes longer than most answers.

        Returns those that are still to be asked about: the function returns awaitables.
        """
        authorize = self._authorize
        assert authorize is not None
        answers: list[object] = []
        is_over = False

        def ask() -> None:
            for key in keys:
                if is_over:
                    return
                try:
                    answer: object = authorize(*key)
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as in `_ask`
                    answer = _Raised(error)
                if inspect.isawaitable(answer):
                    self._asks_in_threads = False
                    if inspect.iscoroutine(answer):
                        answer.close()
                    return
                answers.append(answer)

        try:
            await self._threads.call(ask)
        except Exception as error:  # noqa: BLE001 - of the thread: there may be none left
            answers.append(_Raised(error))
        finally:  # what was answered in time counts
            is_over = True
            for key, answer in zip(keys, answers.copy(), strict=False):
                verdicts[key[2]] = self._judge(request, key, answer)
        return [] if self._asks_in_threads else keys[len(answers) :]

    async def _ask(self, key: _Key) -> object:
        assert self._authorize is not None
        try:
            return await self._threads.call(self._authorize, *key)
        except Exception as error:  # noqa: BLE001 - authorize is the application's: it may raise anything
            return _Raised(error)

    def _is_known(self, key: _Key, verdicts: dict[str, bool | None]) -> bool:
        """Whether the answer is cached; fills in the verdict."""
        known = self._answers.get(key) if self._ttl > 0 and _has_hash(key) else None
        if known is None or self._now() >= known.until:
            return False
        verdicts[key[2]] = known.verdict
        return True

    def _judge(self, request: _Request, key: _Key, answer: object) -> bool | None:
        """The verdict of an answer, which is cached; None if it is none."""
        _, action, channel = key
        if isinstance(answer, _Raised):
            fault = describe_fault(answer.error, self._authorize)
            self._fault("authorize failed for %s %s: %s", action, channel, fault)
            return None
        if not isinstance(answer, bool):
            name = type(answer).__name__
            self._fault("authorize returned %s for %s %s; it must return a bool", name, action, channel)
            return None
        if self._ttl > 0 and not request.is_stale and _has_hash(key):
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
