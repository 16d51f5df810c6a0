"""Counts who is there and from where, what failed from where, and what waits in memory: before a token is looked at.

One for each hub, whatever the transports. Addresses are those of peers, or of who stands behind a proxy; what comes
from a proxy that does not say for whom, or has no address at all, is held to no limit by address.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple, Protocol

from ..channels import shorten
from ..contracts import ANONYMOUS, Handshake
from ..exceptions import Overloaded, TooManyRequests
from ..identity import Identity
from ..tuning import Tuning

PROXIES: Final = ("127.0.0.0/8", "::1")
MAX_REMEMBERED: Final = 10_000
"""Addresses whose failed tokens are remembered; beyond it those that failed longest ago are forgiven."""
MAX_HOPS: Final = 32
"""Entries of an `X-Forwarded-For` that are looked at, from its end."""
LOOK_AGAIN: Final = 1.0
"""Seconds for which it is taken as known what waits in memory: to add it up costs some 100 ns for each client."""
AFTER: Final = 5.0
"""Seconds after which somebody may try again who has too many connections."""
LOCATED: Final = 4096
"""Addresses that need not be read again: to do so takes 5 µs, and each is asked for several times."""
_MINUTE: Final = 60.0
_ROUNDING: Final = 1e-6
_LONGEST: Final = 64  # more than any address takes; what is longer is not worth remembering that it is none
_FORWARDED_FOR: Final = "x-forwarded-for"

Network = IPv4Network | IPv6Network


class Note(Protocol):
    """Counts what happened, and logs it at most once a second for each kind."""

    def __call__(self, kind: str, message: str, *args: object) -> None: ...


class ConnectionLimits:
    """What one identity and one address may cost, and all clients together. `Tuning` has the limits.

    `proxies` are addresses or networks; raises `ValueError` for one that is none.
    """

    def __init__(
        self, tuning: Tuning, *, clock: Callable[[], float], note: Note, proxies: Collection[str] = PROXIES
    ) -> None:
        if isinstance(proxies, str):
            raise TypeError(f"proxies must be a list of networks, not the text {proxies!r}")
        self._tuning = tuning
        self._clock = clock
        self._note = note
        self._locate = lru_cache(maxsize=LOCATED)(partial(_locate, tuple(map(ip_network, proxies))))
        self._identities: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        """Sessions."""
        self._strangers: Counter[str] = Counter()
        """Connections that were not let in yet, on transports that tell."""
        self._full_again: dict[str, float] = {}
        """When the bucket of an address that has failed will be full again; who failed last is last."""
        self.gauges: Final[list[Callable[[], int]]] = []
        """Each returns the bytes that wait somewhere because of clients; transports add their own."""
        self._buffered = 0
        self._looked_at = -math.inf

    # --- addresses

    def resolve(self, handshake: Handshake) -> Handshake:
        """`handshake` with the address of who is behind the proxies, if the peer is one that tells."""
        forwarded = handshake.headers.get(_FORWARDED_FOR)
        if forwarded is None or not self._locate(handshake.client).is_proxy:
            return handshake
        client = self._behind(forwarded)
        return handshake if client is None else replace(handshake, client=client)

    def _behind(self, forwarded: str) -> str | None:
        """The last address that was forwarded and is no proxy's. Each entry was written by who is right of it."""
        for entry in reversed(forwarded.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            found = self._locate(_without_port(entry.strip())[:_LONGEST])
            if not found.is_proxy:
                return found.client
        return None

    def place(self, client: str | None) -> str | None:
        """What is counted as one address: an IPv4 address, or the /64 of an IPv6 one. None if it is not counted."""
        return self._locate(client).place

    # --- before a token is checked

    def check_load(self) -> None:
        """Raise `Overloaded` if as much waits in memory as may: for whatever is new. Who is connected lives on."""
        limit = self._tuning.max_buffered
        if limit is None:
            return
        now = self._clock()
        if not 0 <= now - self._looked_at < LOOK_AGAIN:
            self._looked_at = now
            self._buffered = sum(gauge() for gauge in self.gauges)
        if self._buffered >= limit:
            self._note("overloaded", "overloaded: %d bytes wait for clients, of %d", self._buffered, limit)
            raise Overloaded("the hub is overloaded")

    def check_room(self, handshake: Handshake) -> None:
        """Raise `TooManyRequests` if the address has as many connections as it may."""
        if complaint := self._crowded_at(self.place(handshake.client), headers=handshake.headers):
            raise TooManyRequests(complaint, AFTER)

    def check_failures(self, handshake: Handshake) -> None:
        """Raise `TooManyRequests` if too many tokens from this address were refused lately, and it has another."""
        failures = self._tuning.token_failures
        if failures is None or handshake.token is None:
            return
        place = self.place(handshake.client)
        full_again = self._full_again.get(place) if place is not None else None
        if full_again is None:
            return
        every = _MINUTE / failures
        after = full_again - self._clock() - (failures - 1) * every
        if after > _ROUNDING:
            name = _name(place, handshake.headers)
            self._note("limited-failures", "%s had more than %d tokens refused in a minute", name, failures)
            raise TooManyRequests(f"more than {failures} refused tokens a minute from this address", after)

    def failed(self, handshake: Handshake) -> None:
        """A token was refused."""
        failures = self._tuning.token_failures
        place = self.place(handshake.client)
        if failures is None or place is None or handshake.token is None:
            return
        now = self._clock()
        # Checks that were under way together may go beyond the bucket, but nobody waits longer than it takes to fill.
        full_again = max(self._full_again.pop(place, now), now) + _MINUTE / failures
        self._full_again[place] = min(full_again, now + _MINUTE)
        oldest = next(iter(self._full_again))
        if self._full_again[oldest] <= now or len(self._full_again) > MAX_REMEMBERED:
            del self._full_again[oldest]

    # --- who is there

    def check_arrival(self, client: str | None) -> None:
        """Raise `TooManyRequests` if there is no room for a connection that was just accepted."""
        place = self.place(client)
        if place is not None and (complaint := self._crowded_at(place, self._strangers.get(place, 0))):
            raise TooManyRequests(complaint, AFTER)

    def arrived(self, client: str | None) -> str | None:
        """A connection was accepted; its place, for `departed`."""
        place = self.place(client)
        if place is not None:
            self._strangers[place] += 1
        return place

    def departed(self, place: str | None) -> None:
        """A connection that had `arrived` was let in, or has ended."""
        _take_one(self._strangers, place)

    def entered(self, handshake: Handshake) -> str | None:
        """There is a new session; why it must end at once, if so. `left` follows in any case."""
        place = self.place(handshake.client)
        complaint = self._crowded_at(place)
        if place is not None:
            self._addresses[place] += 1
        return complaint

    def identified(self, identity: Identity) -> str | None:
        """A session has an identity now; why it must end at once, if so. `left` follows in any case."""
        complaint = self._crowded_by(identity)
        if identity is not ANONYMOUS:
            self._identities[identity.id] += 1
        return complaint

    def left(self, handshake: Handshake, identity: Identity | None) -> None:
        """A session has ended."""
        _take_one(self._addresses, self.place(handshake.client))
        if identity is not None and identity is not ANONYMOUS:
            _take_one(self._identities, identity.id)

    def check_identity(self, identity: Identity) -> None:
        """Raise `TooManyRequests` if the identity has as many connections as it may."""
        if complaint := self._crowded_by(identity):
            raise TooManyRequests(complaint, AFTER)

    def _crowded_at(self, place: str | None, strangers: int = 0, headers: Collection[str] = ()) -> str | None:
        limit = self._tuning.max_per_address
        if limit is None or place is None or self._addresses.get(place, 0) + strangers < limit:
            return None
        self._note("limited-address", "%s has %d connections, and may have no more", _name(place, headers), limit)
        return f"more than {limit} connections from this address"

    def _crowded_by(self, identity: Identity) -> str | None:
        limit = self._tuning.max_per_identity
        if limit is None or identity is ANONYMOUS or self._identities.get(identity.id, 0) < limit:
            return None
        self._note("limited-identity", "%s has %d connections, and may have no more", shorten(identity.id), limit)
        return f"more than {limit} connections of one identity"


def _take_one(counter: Counter[str], name: str | None) -> None:
    """Count down; what is at zero is forgotten, and nothing is ever below."""
    if name is None:
        return
    if counter[name] > 1:
        counter[name] -= 1
    else:
        counter.pop(name, None)


def _name(place: str | None, headers: Collection[str]) -> str | None:
    """What an operator is to read."""
    if _FORWARDED_FOR not in headers:
        return place
    return f"{place} (it sends X-Forwarded-For: a proxy is to be named in Hub(proxies=...))"


def _without_port(entry: str) -> str:
    """Some proxies write `192.0.2.1:4711` or `[2001:db8::1]:4711`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


class _Location(NamedTuple):
    client: str | None
    """The address; None if it is none."""
    is_proxy: bool
    place: str | None


def _locate(proxies: Sequence[Network], text: str | None) -> _Location:
    try:
        address = ip_address(text or "")  # an empty text is none
    except ValueError:
        return _Location(None, False, None)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # in the clothes of IPv6, as on sockets that take both
    client = str(address).partition("%")[0]  # an interface of the proxy's, and any text may stand there
    if any(address in network for network in proxies):
        return _Location(client, True, None)
    if isinstance(address, IPv4Address):
        return _Location(client, False, client)
    return _Location(client, False, str(IPv6Network((int(address) >> 64 << 64, 64))))
