"""Limits that are checked before a token is: connections by address and by identity, and load.

One object for each hub, whatever the transports.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from ..channels import shorten
from ..clock import Clock
from ..contracts import ANONYMOUS, Handshake
from ..exceptions import Overloaded, TooManyRequests
from ..identity import Identity
from ..telemetry import Telemetry
from ..tuning import Tuning
from .proxies import TrustedProxies, name_address

LOAD_TTL: Final = 1.0
"""Seconds for which the sum of the gauges is cached: adding it up costs some 100 ns for each client."""
RETRY_AFTER: Final = 5.0
"""Seconds after which a client over its limit of connections may try again."""


class ConnectionLimits:
    """What one identity, one address, and all clients together may use. `Tuning` has the limits."""

    def __init__(self, tuning: Tuning, clock: Clock, telemetry: Telemetry, proxies: TrustedProxies) -> None:
        self._tuning = tuning
        self._now = clock.monotonic
        self._telemetry = telemetry
        self._proxies = proxies
        self._identities: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        """Sessions."""
        self._pending: Counter[str] = Counter()
        """Connections that are not admitted yet, of transports that report them."""
        self._gauges: list[weakref.WeakMethod[Callable[[], int]]] = []
        self._load = 0
        self._load_at = -math.inf

    def add_gauge(self, gauge: Callable[[], int]) -> None:
        """Count the bytes that `gauge`, a bound method, returns as load. Only a weak reference is kept."""
        self._gauges.append(weakref.WeakMethod(gauge))

    # --- before a token is checked

    def check_load(self) -> None:
        """Raise `Overloaded` if too many bytes wait in memory for new work. Established sessions go on."""
        limit = self._tuning.max_buffered
        if limit is None:
            return
        now = self._now()
        if not 0 <= now - self._load_at < LOAD_TTL:
            self._load_at = now
            self._load = self._measure_load()
        if self._load >= limit:
            self._telemetry.note("overloaded", "overloaded: %d bytes wait for clients, of %d", self._load, limit)
            raise Overloaded("the hub is overloaded")

    def _measure_load(self) -> int:
        gauges = [(reference, reference()) for reference in self._gauges]
        self._gauges = [reference for reference, gauge in gauges if gauge is not None]
        return sum(gauge() for _, gauge in gauges if gauge is not None)

    def check_address(self, handshake: Handshake) -> None:
        """Raise `TooManyRequests` if the address has reached its limit of connections."""
        key = self._proxies.address_key(handshake.client)
        if reason := self._over_address_limit(key, headers=handshake.headers):
            raise TooManyRequests(reason, RETRY_AFTER)

    # --- connections that are not admitted yet

    def check_connection(self, client: str | None) -> None:
        """Raise `TooManyRequests` if there is no room for a connection that was just accepted."""
        key = self._proxies.address_key(client)
        if key is not None and (reason := self._over_address_limit(key, self._pending.get(key, 0))):
            raise TooManyRequests(reason, RETRY_AFTER)

    def connection_pending(self, client: str | None) -> str | None:
        """Count a connection that was accepted; returns its key for `pending_ended`."""
        key = self._proxies.address_key(client)
        if key is not None:
            self._pending[key] += 1
        return key

    def pending_ended(self, key: str | None) -> None:
        """A pending connection was admitted, or has ended."""
        _decrement(self._pending, key)

    # --- sessions

    def session_started(self, handshake: Handshake) -> str | None:
        """Count a new session; the reason to close it, if it exceeds a limit. `session_ended` follows in any case."""
        key = self._proxies.address_key(handshake.client)
        reason = self._over_address_limit(key)
        if key is not None:
            self._addresses[key] += 1
        return reason

    def session_identified(self, identity: Identity) -> str | None:
        """Count the identity of a session; the reason to close it, if it exceeds a limit."""
        reason = self._over_identity_limit(identity)
        if identity is not ANONYMOUS:
            self._identities[identity.id] += 1
        return reason

    def session_ended(self, handshake: Handshake, identity: Identity | None) -> None:
        _decrement(self._addresses, self._proxies.address_key(handshake.client))
        if identity is not None and identity is not ANONYMOUS:
            _decrement(self._identities, identity.id)

    def check_identity(self, identity: Identity) -> None:
        """Raise `TooManyRequests` if the identity has reached its limit of connections."""
        if reason := self._over_identity_limit(identity):
            raise TooManyRequests(reason, RETRY_AFTER)

    def _over_address_limit(self, key: str | None, pending: int = 0, headers: Collection[str] = ()) -> str | None:
        limit = self._tuning.max_per_address
        if limit is None or key is None or self._addresses.get(key, 0) + pending < limit:
            return None
        self._telemetry.note(
            "limited-address", "%s has reached the limit of %d connections", name_address(key, headers), limit
        )
        return f"more than {limit} connections from this address"

    def _over_identity_limit(self, identity: Identity) -> str | None:
        limit = self._tuning.max_per_identity
        if limit is None or identity is ANONYMOUS or self._identities.get(identity.id, 0) < limit:
            return None
        self._telemetry.note(
            "limited-identity", "%s has reached the limit of %d connections", shorten(identity.id), limit
        )
        return f"more than {limit} connections of one identity"


def _decrement(counter: Counter[str], key: str | None) -> None:
    """Count down, never below zero; keys at zero are removed."""
    if key is None:
        return
    if counter[key] > 1:
        counter[key] -= 1
    else:
        counter.pop(key, None)
