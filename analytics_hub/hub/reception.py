"""Knows the sessions there are by how they came in, and asks the application about them when the engine wants to know.

The checks before a session are `Authentication`'s alone; here are those of sessions that hand in a token or subscribe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

import anyio

from ..access.authentication import Authentication
from ..access.authorization import Authorization
from ..access.limits import ConnectionLimits
from ..contracts import Handshake
from ..core.engine import Engine
from ..core.events import AskAuthorize, CheckToken
from ..core.session import Session
from ..identity import Identity
from ..protocol import CloseCode

MAX_CHECKS: Final = 64
"""Tokens of sessions that are checked at a time; further ones wait their turn."""

Start = Callable[[Callable[[Session], Awaitable[None]], Session], None]
"""Has a call that takes time run in a task of its own."""


class Reception:
    """Short-lived calls, at most one for a token and one for subscriptions of each session."""

    def __init__(
        self,
        engine: Engine,
        admission: Authentication,
        authorization: Authorization,
        doorkeeper: ConnectionLimits,
        tick: Callable[[], float],
        start: Start,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._authorization = authorization
        self._doorkeeper = doorkeeper
        self._tick = tick
        self._start = start
        self._checks = anyio.CapacityLimiter(MAX_CHECKS)
        self._doubted: set[Session] = set()
        """Who is being thought of anew."""
        self.handshakes: Final[dict[Session, Handshake]] = {}

    # --- who is there

    def enter(self, session: Session, handshake: Handshake) -> None:
        """There is a new session; one too many ends."""
        self.handshakes[session] = handshake if session.identity is None else _slim(handshake)
        complaint = self._doorkeeper.entered(handshake)
        if session.identity is not None:
            complaint = self._doorkeeper.identified(session.identity) or complaint
        self._send_away(session, complaint)

    def forget(self, session: Session) -> None:
        """A session has ended. Harmless if that is known."""
        handshake = self.handshakes.pop(session, None)
        if handshake is not None:
            self._doorkeeper.left(handshake, session.identity)

    def _send_away(self, session: Session, complaint: str | None) -> None:
        if complaint is not None:
            self._engine.end(session, CloseCode.TOO_MANY_COMMANDS, complaint, self._tick())

    # --- what the engine asks

    async def check_token(self, event: CheckToken) -> None:
        """Find out whose token a session has handed in."""
        session = event.session
        async with self._checks:
            handshake = self.handshakes.get(session)
            if handshake is None:
                return
            before = session.identity
            judgement = await self._admission.judge(replace(handshake, token=event.token), is_new=before is None)
        result, after, sentence = judgement
        before = session.identity
        self._engine.authenticated(session, result, self._tick(), after=after, sentence=sentence)
        if session.identity is None or session not in self.handshakes:
            return
        self.handshakes[session] = _slim(handshake)
        if before is not None:
            self._reconsider(session, before)
        else:
            self._send_away(session, self._doorkeeper.identified(session.identity))

    async def ask_authorize(self, event: AskAuthorize) -> None:
        """Find out which of some channels a session may have."""
        allowed = await self._find_allowed(event.session, event.channels)
        self._engine.authorized(event.session, allowed, self._tick())

    # --- what a session may not see any more

    def set_roles(self, session: Session, roles: Collection[str]) -> None:
        """A session has these roles from now on."""
        before = session.identity
        assert before is not None
        self._engine.identify(session, replace(before, roles=frozenset(roles)), self._tick())
        self._reconsider(session, before)

    def _reconsider(self, session: Session, before: Identity) -> None:
        """The identity of a session was another `before`: the application may think otherwise about it."""
        if session.identity is not None and _lasting(session.identity) != _lasting(before):
            self.reauthorize(session)

    def reauthorize(self, session: Session) -> None:
        """Ask the application again about what a session is subscribed to."""
        if self._authorization.is_needed and session.subscriptions and session not in self._doubted:
            self._doubted.add(session)
            self._start(self._reauthorize, session)

    async def _reauthorize(self, session: Session) -> None:
        names = list(session.subscriptions)
        try:
            allowed = await self._find_allowed(session, names)
        finally:
            self._doubted.discard(session)
        self._engine.forbid(session, set(names).difference(allowed), self._tick())

    async def _find_allowed(self, session: Session, channels: Sequence[str]) -> list[str]:
        """Those of `channels` that the application allows the session as it is when it answers.

        What it says no more, and an identity that has changed meanwhile, are asked about again.
        """
        while True:
            identity = session.identity
            assert identity is not None
            verdicts = await self._authorization.ask(identity, "subscribe", channels)
            if session.identity is identity:
                return [name for name in channels if verdicts[name]]


def _lasting(identity: Identity) -> Identity:
    """What is the same for every token of somebody, as long as nothing about them changes."""
    return replace(identity, expires=None, issued=None, token_id=None)


def _slim(handshake: Handshake) -> Handshake:
    """What is kept of a handshake for a refresh of the token: no headers, for the memory of idle clients."""
    return replace(handshake, token=None, headers={}, scope=None)
