"""The address of a client behind the proxies that the application trusts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from ..contracts import Handshake

PROXIES: Final = ("127.0.0.0/8", "::1")
MAX_HOPS: Final = 32
"""Entries of an `X-Forwarded-For` that are read, from its end."""
MAX_CACHED: Final = 4096
"""Addresses that are cached in parsed form: parsing takes 5 µs, and each address is looked up several times."""
_LONGEST: Final = 64  # longer input cannot be an address; do not cache it
FORWARDED_FOR: Final = "x-forwarded-for"

Network = IPv4Network | IPv6Network


class TrustedProxies:
    """Finds the client's address in `X-Forwarded-For`, if the peer is one of the trusted `proxies`.

    `proxies` are addresses or networks; an invalid one raises `ValueError`.
    """

    def __init__(self, proxies: Collection[str] = PROXIES) -> None:
        if isinstance(proxies, str):
            raise TypeError(f"proxies is the text {proxies!r}; it must be a list of addresses and networks")
        self._parse = lru_cache(maxsize=MAX_CACHED)(partial(_parse, tuple(map(ip_network, proxies))))

    def resolve(self, handshake: Handshake) -> Handshake:
        """`handshake` with the address of the client behind the proxies, if the peer is a trusted proxy."""
        forwarded = handshake.headers.get(FORWARDED_FOR)
        if forwarded is None or not self._parse(handshake.client).is_proxy:
            return handshake
        client = self._last_untrusted(forwarded)
        return handshake if client is None else replace(handshake, client=client)

    def _last_untrusted(self, forwarded: str) -> str | None:
        """The last address that is not a proxy's: each proxy appends the address it saw."""
        for entry in reversed(forwarded.rsplit(",", MAX_HOPS)[-MAX_HOPS:]):
            found = self._parse(_without_port(entry.strip())[:_LONGEST])
            if not found.is_proxy:
                return found.client
        return None

    def address_key(self, client: str | None) -> str | None:
        """What is counted as one address: an IPv4 address, or the /64 of an IPv6 one; None if it is not counted.

        Not counted are a proxy that does not name its client, and a peer without an address.
        """
        return self._parse(client).key


def name_address(key: str | None, headers: Collection[str]) -> str | None:
    """An address for the operator's log; `headers` are those of the peer."""
    if FORWARDED_FOR not in headers:
        return key
    return f"{key} (it sends X-Forwarded-For: name a trusted proxy in Hub(proxies=...))"


class _Address(NamedTuple):
    client: str | None
    """None if the text is not an address."""
    is_proxy: bool
    key: str | None


def _without_port(entry: str) -> str:
    """Some proxies write `192.0.2.1:4711` or `[2001:db8::1]:4711`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _parse(proxies: Sequence[Network], text: str | None) -> _Address:
    try:
        address = ip_address(text or "")  # an empty text is not an address
    except ValueError:
        return _Address(None, False, None)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # as dual-stack sockets report it
    client = str(address).partition("%")[0]  # the zone is an interface of the proxy, and any text may stand there
    if any(address in network for network in proxies):
        return _Address(client, True, None)
    if isinstance(address, IPv4Address):
        return _Address(client, False, client)
    return _Address(client, False, str(IPv6Network((int(address) >> 64 << 64, 64))))
