"""The part of a hub by which an application decides about those who are connected, and those who may come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..access.authorization import Authorization
from ..access.revocation import Revocation, Revocations
from ..access.tickets import Tickets
from ..contracts import ANONYMOUS, Authorize, Handshake
from ..core.engine import Engine
from ..core.session import Session
from ..identity import Identity
from ..protocol import CloseCode
from ..telemetry import ThrottledLogger
from .journal import JournalWriter
from .publisher import Publisher

OnRevoke = Callable[[Revocation], None]
REVOKED = "revoked token"


class Policy(Publisher):
    """Base of `Hub`. Everything here belongs to the event loop of the hub, or to the time before it is entered."""

    def __init__(
        self,
        engine: Engine,
        clerk: JournalWriter,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        muffler: ThrottledLogger,
        authorize: Authorize | None,
        on_revoke: OnRevoke | None,
    ) -> None:
        super().__init__(engine, clerk, clock, wall_clock)
        tuning = engine.tuning
        self._authorization = Authorization(authorize, tuning, clock, self.count, muffler)
        self._revocations = Revocations(tuning.revocation_memory, clock, wall_clock, self.count)
        self._tickets = Tickets(tuning.ticket_ttl, clock)
        self._on_revoke = on_revoke

    # --- who may stay

    def revoke(self, identity: str | None = None, *, token_id: str | None = None) -> int:
        """Send away an identity, or who has the token with this id (4401); how many sessions that ended.

        The token, or those issued to the identity up to now, is refused for `Tuning.revocation_memory` seconds, and
        so is who is being checked at this moment. Who comes by a session of the host comes back as soon as
        `authenticate` says so. `on_revoke` is called with what other nodes must know. O(sessions).
        """
        return self._decide(Revocation(identity=identity, token_id=token_id, at=self._wall_clock()), "revoke")

    def set_roles(self, identity: str, roles: Iterable[str]) -> int:
        """Give an identity these roles, whatever tokens say that were issued up to now; how many sessions it has.

        Subscriptions that they do not allow end at once, and are named to the client. Remembered, and told to other
        nodes, as a revocation is.
        """
        if identity == ANONYMOUS.id:
            raise ValueError(f"{identity!r} is everybody, and has no roles of its own")
        names = roles if isinstance(roles, str) else frozenset(roles)
        return self._decide(Revocation(identity=identity, at=self._wall_clock(), roles=names), "set_roles")

    def _decide(self, revocation: Revocation, what: str) -> int:
        self._check_own_thread(what)
        self._revocations.add(revocation)
        sessions = self._sessions_of(revocation)
        self._enforce(revocation, sessions)
        if self._on_revoke is not None:
            self._on_revoke(revocation)
        return len(sessions)

    def apply_revocation(self, revocation: Revocation) -> int:
        """Do what another hub has decided; how many sessions that concerned. What is known already does nothing.

        May be called before the hub is entered, with what was decided while it was down.
        """
        self._check_own_thread("apply_revocation")
        if self._revocations.knows(revocation):
            return 0
        self._revocations.add(revocation)
        sessions = [
            session
            for session in self._sessions_of(revocation)
            if session.identity is not None
            and self._revocations.concerns(revocation, session.identity, session.started)
        ]
        self._enforce(revocation, sessions)
        return len(sessions)

    def _sessions_of(self, revocation: Revocation) -> list[Session]:
        sessions = self._engine.sessions.values()
        return [session for session in sessions if session.identity is not None and revocation.meets(session.identity)]

    def _enforce(self, revocation: Revocation, sessions: list[Session]) -> None:
        for session in sessions:
            if revocation.roles is None:
                self._engine.end(session, CloseCode.UNAUTHENTICATED, REVOKED, self._tick())
            else:
                self._driver.reception.set_roles(session, revocation.roles)
        if sessions:
            self._driver.nudge()

    # --- what `authorize` has said

    def reauthorize(self, identity: str) -> None:
        """Forget what `authorize` has said of an identity, and ask again about what it is subscribed to.

        Subscriptions that it may not have any more, or of which there is no answer in time, end.
        """
        self._check_own_thread("reauthorize")
        self._authorization.forget(identity)
        for session in list(self._engine.sessions.values()):
            if session.identity is not None and session.identity.id == identity:
                self._driver.reception.reauthorize(session)

    # --- tickets

    def issue_ticket(self, identity: Identity) -> str:
        """A ticket with which `identity` may come in once, within `Tuning.ticket_ttl` seconds, to this process.

        `POST /ticket` is the same over HTTP. Raises `Overloaded` if too many are out.
        """
        self._check_own_thread("issue_ticket")
        return self._tickets.issue(identity)

    # --- for transports

    async def ask_to_publish(self, identity: Identity, channels: Iterable[str]) -> dict[str, bool | None]:
        """What `authorize` says of publishing to each of `channels`; None where it fails to say."""
        return await self._authorization.ask(identity, "publish", channels)

    def settle(self, identity: Identity, handshake: Handshake) -> Identity:
        """Who this is by now, whom a check of `handshake` has found out; raises `AuthenticationError` if revoked since.

        For who waits between that check and what it does.
        """
        since = self._clock() if handshake.asked_at is None else handshake.asked_at
        return self._revocations.settle(identity, since)

    def _check_own_thread(self, what: str) -> None:
        if self._thread is not None:
            self._check_thread(what)
