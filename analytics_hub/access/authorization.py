"""Asks the application what an identity may do with a channel, and remembers the answers for a while."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from ..contracts import Action, Authorize
from ..hooks import ask
from ..identity import Identity
from ..telemetry import ThrottledLogger
from ..tuning import Tuning

MAX_ANSWERS: Final = 10_000
"""Answers that are remembered; beyond it the oldest are forgotten."""
TURN: Final = 64
"""Answers after which the event loop has its turn."""

_Key = tuple[Identity, Action, str]


class _Answer(NamedTuple):
    verdict: bool
    until: float


class _Question:
    """What is asked about an identity at this moment. Once it `is_stale`, what was answered so far counts no more."""

    __slots__ = ("is_stale", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.is_stale = False


class Authorization:
    """`authorize`, sync or async, bounded in time. Equal identities share answers.

    An answer holds for `Tuning.authorize_ttl` seconds, a failure until the next question.
    """

    def __init__(
        self,
        authorize: Authorize | None,
        tuning: Tuning,
        clock: Callable[[], float],
        count: Callable[[str], None],
        muffler: ThrottledLogger,
    ) -> None:
        self._authorize = authorize
        self._timeout = tuning.auth_timeout
        self._ttl = tuning.authorize_ttl
        self._clock = clock
        self._count = count
        self._muffler = muffler
        self._answers: dict[_Key, _Answer] = {}  # all live equally long, so the oldest are the first
        self._questions: set[_Question] = set()

    @property
    def is_needed(self) -> bool:
        """Whether the application wants to be asked at all."""
        return self._authorize is not None

    async def ask(self, identity: Identity, action: Action, channels: Iterable[str]) -> dict[str, bool | None]:
        """What the application says of each of `channels`; None where it failed to say.

        The whole takes at most `auth_timeout` seconds. Never raises.
        """
        names = list(channels)
        if not self.is_needed:
            return dict.fromkeys(names, True)
        verdicts: dict[str, bool | None] = dict.fromkeys(names)
        question = _Question(identity.id)
        self._questions.add(question)
        try:
            with anyio.move_on_after(self._timeout) as scope:
                while True:
                    question.is_stale = False
                    verdicts = dict.fromkeys(names)
                    for number, name in enumerate(names, 1):
                        verdicts[name] = await self._judge(question, (identity, action, name))
                        if number % TURN == 0:
                            await checkpoint()
                    if not question.is_stale:
                        break
                    await checkpoint()
        finally:
            self._questions.discard(question)
        if scope.cancelled_caught:
            self._fault("authorize took longer than %g s", self._timeout)
            return dict.fromkeys(names) if question.is_stale else verdicts
        return verdicts

    def forget(self, subject: str) -> None:
        """What was said of the identity with this id counts no more, nor what is being answered now. O(answers)."""
        for key in [key for key in self._answers if key[0].id == subject]:
            del self._answers[key]
        for question in self._questions:
            if question.subject == subject:
                question.is_stale = True

    async def _judge(self, question: _Question, key: _Key) -> bool | None:
        keeps = self._ttl > 0 and _has_hash(key)
        known = self._answers.get(key) if keeps else None
        if known is not None and self._clock() < known.until:
            return known.verdict
        assert self._authorize is not None
        _, action, channel = key
        try:
            answer: object = await ask(self._authorize, *key)
        except Exception as error:  # noqa: BLE001 - authorize is the application's: it may raise anything
            self._fault("authorize failed for %s %s: %r", action, channel, error)
            return None
        if not isinstance(answer, bool):
            self._fault("authorize returned %s for %s %s, and not a bool", type(answer).__name__, action, channel)
            return None
        if keeps and not question.is_stale:
            self._keep(key, answer)
        return answer

    def _keep(self, key: _Key, verdict: bool) -> None:
        now = self._clock()
        self._answers.pop(key, None)
        self._answers[key] = _Answer(verdict, now + self._ttl)
        while self._answers and (
            self._answers[oldest := next(iter(self._answers))].until <= now or len(self._answers) > MAX_ANSWERS
        ):
            del self._answers[oldest]

    def _fault(self, message: str, *args: object) -> None:
        self._count("authorize-failed")
        self._muffler.log(logging.ERROR, "authorize", message, *args)


def _has_hash(key: _Key) -> bool:
    """False for an identity of a class of the application's own with something in it that changes."""
    try:
        hash(key)
    except TypeError:
        return False
    return True
