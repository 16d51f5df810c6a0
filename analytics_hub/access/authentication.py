"""Finds the identity of a peer: by `authenticate` of the application, or by a ticket of the hub."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet

from ..channels import MAX_NAME_LENGTH
from ..clock import Clock
from ..contracts import Authenticate, Handshake, Peer
from ..event_loop import move_on_after
from ..exceptions import RevokedError
from ..faults import describe_fault
from ..hooks import HookThreads, call_hook
from ..identity import Identity
from ..telemetry import Telemetry
from .revocation import Revocations
from .tickets import Tickets, is_ticket


class Authentication:
    """Calls `authenticate`, sync or async, for at most `timeout` seconds; redeems tickets; applies revocations."""

    def __init__(
        self,
        authenticate: Authenticate,
        threads: HookThreads,
        revocations: Revocations,
        tickets: Tickets,
        clock: Clock,
        timeout: float,
    ) -> None:
        self._authenticate = authenticate
        self._threads = threads
        self._revocations = revocations
        self._tickets = tickets
        self._clock = clock
        self._timeout = timeout

    async def run(self, telemetry: Telemetry) -> None:
        """Run the background task of `authenticate`, if it has one. Its failure stops nothing else."""
        run = getattr(self._authenticate, "run", None)
        if run is None:
            return
        try:
            await call_hook(run)
        except Exception as error:  # noqa: BLE001 - the application's: it may raise anything
            message = "the background task of authenticate has failed and is not restarted: %s"
            telemetry.fault("authenticate-run-failed", message, describe_fault(error, run))

    async def identify(self, handshake: Handshake) -> Peer:
        """The peer with its identity; raises what `authenticate` raises, `TimeoutError`, or `RevokedError`."""
        # Revocations from now on concern this peer, however long the application takes.
        checked_at = self._clock.monotonic()
        if handshake.token is not None and is_ticket(handshake.token):
            identity, checked_at = self._tickets.redeem(handshake.token)
        else:
            identity = await self._ask(handshake)
            _check_identity(identity)
        if identity.expires is not None and identity.expires <= self._clock.wall():
            raise RevokedError("expired", "expired")
        return Peer(handshake, self._revocations.apply(identity, checked_at), checked_at)

    async def _ask(self, handshake: Handshake) -> Identity:
        with move_on_after(self._timeout):
            return await self._threads.call(self._authenticate, handshake)
        raise TimeoutError(f"it took longer than {self._timeout:g} s")


def _check_identity(identity: object) -> None:
    """Raise `TypeError` for values that the core or an operator's log cannot handle."""
    if not isinstance(identity, Identity):
        raise TypeError(f"authenticate returned {type(identity).__name__}; it must return an Identity")
    if not (isinstance(identity.id, str) and 0 < len(identity.id) <= MAX_NAME_LENGTH):
        raise TypeError(f"Identity.id must be a text of 1 to {MAX_NAME_LENGTH} characters")
    if not isinstance(identity.roles, AbstractSet):
        raise TypeError("Identity.roles must be a set")
    if identity.expires is not None and not math.isfinite(identity.expires):
        raise TypeError("Identity.expires must be a finite number, or None for never")
    if identity.issued is not None and not math.isfinite(identity.issued):
        raise TypeError("Identity.issued must be a finite number, or None")
    if not (identity.token_id is None or isinstance(identity.token_id, str)):
        raise TypeError("Identity.token_id must be a text, or None")
    if not (identity.channels is None or isinstance(identity.channels, tuple)):
        raise TypeError("Identity.channels must be a tuple, or None")
