"""The side of a hub that transports call (`contracts.Gateway`), and what the engine asks about its sessions."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import replace
from typing import Final

import anyio

from ..access import Access
from ..channels import Channel
from ..codes import CloseCode
from ..contracts import Handshake, Peer, Receipt, Submitted, Transport
from ..core.engine import Engine
from ..core.events import AskAuthorize, CheckToken
from ..core.session import Session
from ..core.wire import Wire
from ..exceptions import HubClosed, RevokedError
from ..identity import ANONYMOUS, Identity
from ..protocol import Selection
from ..protocol.encoding import PayloadEncoder
from ..protocol.items import check_key, find_key, find_type
from ..telemetry import Telemetry, logger
from .driver import Driver
from .journal import JournalWriter, PendingReceipt
from .lifecycle import Lifecycle

MAX_CHECKS: Final = 64
"""Tokens of sessions that are checked at a time; further ones wait their turn."""
REVOKED: Final = "revoked token"


class HubGateway:
    """The one implementation of `Gateway`. `driver` is None until the hub is entered."""

    def __init__(self, channels: Sequence[Channel], encoder: PayloadEncoder) -> None:
        self.channels = channels
        self._encoder = encoder
        self._driver: Driver | None = None
        self._token_checks: anyio.CapacityLimiter | None = None

    def begin(
        self, engine: Engine, life: Lifecycle, access: Access, telemetry: Telemetry, journal: JournalWriter
    ) -> None:
        """Serve these from now on: those of the next life, or of a hub that was not entered yet."""
        self._engine = engine
        self._life = life
        self._access = access
        self._journal = journal
        self._reauthorizing: set[Session] = set()
        """Sessions with a re-authorization in flight."""
        self._handshakes: dict[Session, Handshake] = {}
        self._calls: dict[Session, set[anyio.CancelScope]] = {}
        """Calls of the application in progress, by the session that they are about."""
        self._contexts: dict[Session, Context] = {}
        """The context variables of the request that made each connection, for the hooks that it causes later."""
        self.tuning = engine.tuning
        # What others do already is theirs, without a method in between.
        self.count = telemetry.count
        self.note = telemetry.note
        limits = access.limits
        self.check_address = limits.check_connection
        self.connection_pending = limits.connection_pending
        self.pending_ended = limits.pending_ended
        self.address_key = access.proxies.address_key
        self.check_load = limits.check_load
        self.add_gauge = limits.add_gauge
        self.authenticate = access.authenticate
        self.admit = access.admit
        self.declaration = engine.registry.declaration

    def attach(self, driver: Driver) -> None:
        """The hub is entered, and `driver` serves it."""
        self._driver = driver
        self._token_checks = anyio.CapacityLimiter(MAX_CHECKS)

    @property
    def life(self) -> int:
        return self._life.number

    @property
    def is_open(self) -> bool:
        return self._life.state == "open"

    @property
    def is_draining(self) -> bool:
        return self._life.state in ("draining", "closed")

    def wake(self) -> None:
        """Have the driver look at the engine in the next turn of the event loop."""
        if self._driver is not None:
            self._driver.wake()

    # --- sessions

    def connect(self, transport: Transport, wire: Wire, peer: Peer, *, max_message: int | None = None) -> Session:
        if not self.is_open:
            raise HubClosed("the hub is not running")
        self._life.check_thread("connect")
        now = self._life.tick()
        identity = peer.identity
        is_revoked = False
        try:
            identity = identity and self.current_identity(peer)
        except RevokedError:
            is_revoked = True
        id = secrets.token_urlsafe(16)
        session = self._engine.connect(transport, wire, identity, now, id=id, max_message=max_message)
        handshake = peer.handshake
        self._handshakes[session] = handshake if identity is None else _without_headers(handshake)
        self._contexts[session] = copy_context()
        reason = self._access.limits.session_started(handshake)
        if identity is not None:
            reason = self._access.limits.session_identified(identity) or reason
        self._end_over_limit(session, reason)
        if is_revoked:
            self._engine.end(session, CloseCode.UNAUTHENTICATED, REVOKED, now)
        logger.debug("%s client connected, %d in all", handshake.transport, len(self._engine.sessions))
        self.wake()
        return session

    def receive_data(self, session: Session, data: str | bytes) -> None:
        self._life.check_thread("receive_data")
        self._engine.receive_data(session, data, self._life.tick())
        self.wake()

    def subscribe(self, session: Session, selections: Sequence[Selection]) -> None:
        self._life.check_thread("subscribe")
        self._engine.subscribe(session, selections, self._life.tick())
        self.wake()

    def resumed(self, session: Session) -> None:
        self._engine.resumed(session, self._life.clock.monotonic())
        self.wake()

    def disconnect(self, session: Session) -> None:
        self._engine.disconnect(session, self._life.clock.monotonic())
        self.session_ended(session)
        self.wake()  # a shutdown may be waiting for this session alone

    def session_ended(self, session: Session) -> None:
        """Forget a session, and cancel the calls about it. Harmless if it is forgotten already."""
        self._contexts.pop(session, None)
        for scope in self._calls.pop(session, ()):
            scope.cancel()
        handshake = self._handshakes.pop(session, None)
        if handshake is not None:
            self._access.limits.session_ended(handshake, session.identity)

    def context_of(self, session: Session) -> Context | None:
        """Those of the request that made the connection; None if it has ended."""
        return self._contexts.get(session)

    def find_session(self, id: str) -> Session | None:
        return self._engine.sessions.get(id)

    def _end_over_limit(self, session: Session, reason: str | None) -> None:
        if reason is not None:
            self._engine.end(session, CloseCode.TOO_MANY_COMMANDS, reason, self._life.tick())

    # --- publishing

    async def authorize_publish(self, identity: Identity, channels: Iterable[str]) -> dict[str, bool | None]:
        return await self._access.authorization.decide(identity, "publish", channels)

    def submit(
        self,
        channel: str,
        data: object,
        *,
        type: str | None = None,
        key: object = None,
        stamp: str | None = None,
    ) -> Submitted:
        self._life.check_open()
        self._life.check_thread("publish_confirmed")
        declared = self.declaration(channel)
        body = self._encoder.encode(data)
        receipt = PendingReceipt()
        place = self._engine.publish(
            channel,
            body,
            self._life.clock.monotonic(),
            type=find_type(declared, data, type),
            key=find_key(declared, data, key, body, self._encoder),
            stamp=stamp,
            waiter=receipt,
        )
        self.wake()
        if place is not None:
            return Receipt(*place)
        self._journal.pending.add(receipt)
        return receipt

    def remove(self, channel: str, key: str) -> Receipt | None:
        self._life.check_open()
        self._life.check_thread("remove")
        self.declaration(channel)
        if not self._engine.delete(channel, check_key(key), self._life.clock.monotonic()):
            return None
        self.wake()
        log = self._engine.registry.logs[channel]
        return Receipt(log.epoch, log.head)

    def issue_ticket(self, identity: Identity) -> str:
        self._life.check_open()
        self._life.check_thread("issue_ticket")
        return self._access.tickets.issue(identity)

    # --- identities

    def current_identity(self, peer: Peer) -> Identity:
        assert peer.identity is not None
        since = self._life.clock.monotonic() if peer.checked_at is None else peer.checked_at
        return self._access.revocations.apply(peer.identity, since)

    @contextmanager
    def _until_session_ends(self, session: Session) -> Iterator[None]:
        """Cancels what is called in here when the session ends: it would keep the headers and the connection."""
        with anyio.CancelScope() as scope:
            if session not in self._handshakes:
                scope.cancel()
            self._calls.setdefault(session, set()).add(scope)
            try:
                yield
            finally:
                if (scopes := self._calls.get(session)) is not None:
                    scopes.discard(scope)
                    if not scopes:
                        del self._calls[session]

    async def check_token(self, event: CheckToken) -> None:
        """Answer the engine: the identity of the token that a session has sent."""
        with self._until_session_ends(event.session):
            await self._check_token(event)

    async def _check_token(self, event: CheckToken) -> None:
        assert self._token_checks is not None
        session = event.session
        async with self._token_checks:
            handshake = self._handshakes.get(session)
            if handshake is None:
                return
            is_new = session.identity is None or session.identity is ANONYMOUS
            result = await self._access.check_token(replace(handshake, token=event.token), is_new=is_new)
        before = session.identity
        self._engine.authenticated(session, result, self._life.tick())
        if session.identity is None or session not in self._handshakes:
            return
        self._handshakes[session] = _without_headers(handshake)
        if before is not None:
            self._reauthorize_if_changed(session, before)
        if (before is None or before is ANONYMOUS) and session.identity is not before:
            self._end_over_limit(session, self._access.limits.session_identified(session.identity))

    async def ask_authorize(self, event: AskAuthorize) -> None:
        """Answer the engine: the channels that a session may subscribe to."""
        with self._until_session_ends(event.session):
            allowed = await self._find_allowed(event.session, event.channels)
            self._engine.authorized(event.session, allowed, self._life.tick())

    def set_roles(self, session: Session, roles: Collection[str]) -> None:
        """A session has these roles from now on."""
        before = session.identity
        assert before is not None
        self._engine.identify(session, replace(before, roles=frozenset(roles)), self._life.tick())
        self._reauthorize_if_changed(session, before)

    def _reauthorize_if_changed(self, session: Session, before: Identity) -> None:
        if session.identity is not None and _permanent(session.identity) != _permanent(before):
            self.reauthorize(session)

    def reauthorize(self, session: Session) -> None:
        """Ask `authorize` again about the subscriptions of a session."""
        if self._access.authorization.is_needed and session.subscriptions and session not in self._reauthorizing:
            assert self._driver is not None
            self._reauthorizing.add(session)
            self._driver.start_question(session, self._reauthorize, session)

    async def _reauthorize(self, session: Session) -> None:
        names = list(session.subscriptions)
        try:
            with self._until_session_ends(session):
                allowed = await self._find_allowed(session, names)
                self._engine.forbid(session, set(names).difference(allowed), self._life.tick())
        finally:
            self._reauthorizing.discard(session)

    async def _find_allowed(self, session: Session, channels: Sequence[str]) -> list[str]:
        """The channels among `channels` that `authorize` allows.

        If the identity of the session changes meanwhile, all of them are asked about again.
        """
        while True:
            identity = session.identity
            assert identity is not None
            verdicts = await self._access.authorization.decide(identity, "subscribe", channels)
            if session.identity is identity:
                return [name for name in channels if verdicts[name]]


def _permanent(identity: Identity) -> Identity:
    """The part of an identity that is the same for each of its tokens."""
    return replace(identity, expires=None, issued=None, token_id=None)


def _without_headers(handshake: Handshake) -> Handshake:
    """What is kept for a refresh of the token: no headers, to save memory for each idle client."""
    return replace(handshake, token=None, headers={}, scope=None)
