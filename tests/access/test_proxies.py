"""The address of a client behind trusted proxies."""

from __future__ import annotations

import pytest

from analytics_hub.access.proxies import MAX_HOPS, TrustedProxies
from analytics_hub.contracts import Handshake


@pytest.mark.parametrize(
    ("client", "forwarded", "key"),
    [
        ("203.0.113.7", None, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # not a proxy: the header is ignored
        ("::ffff:203.0.113.7", None, "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", None, "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", None, "2001:db8:1:3::/64"),
        ("fe80::1%eth0", None, "fe80::/64"),
        ("127.0.0.1", None, None),
        ("::ffff:127.0.0.1", None, None),
        ("::1", None, None),
        (None, None, None),
        (None, "203.0.113.7", None),
        ("/run/hub.sock", "203.0.113.7", None),
        ("", None, None),
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7, 10.0.0.1, 127.0.0.1", "203.0.113.7"),
        ("10.1.2.3", " 203.0.113.7 ", "203.0.113.7"),
        ("127.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("127.0.0.1", "[2001:db8::1]:4711", "2001:db8::/64"),
        ("127.0.0.1", "2001:db8::1", "2001:db8::/64"),
        ("127.0.0.1", "203.0.113.7, unknown", None),  # the nearest proxy does not name the client
        ("127.0.0.1", "", None),
        ("127.0.0.1", ",,,", None),
        ("127.0.0.1", "10.0.0.1, 127.0.0.1", None),
        ("127.0.0.1", "203.0.113.7, " + "10.0.0.1, " * MAX_HOPS + "127.0.0.1", None),
        ("127.0.0.1", "9" * 10_000, None),
    ],
)
def test_the_client_is_the_last_address_that_is_not_a_proxy(
    client: str | None, forwarded: str | None, key: str | None
) -> None:
    proxies = TrustedProxies(["127.0.0.0/8", "::1", "10.0.0.0/8"])
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}

    resolved = proxies.resolve(Handshake(client=client, headers=headers))

    assert proxies.address_key(resolved.client) == key
    assert proxies.resolve(resolved) == resolved


@pytest.mark.parametrize("proxies", [["proxy.example"], ["10.0.0.1/8"], [""]])
def test_proxies_must_be_addresses_or_networks(proxies: list[str]) -> None:
    with pytest.raises(ValueError, match=r"does not appear to be|has host bits set"):
        TrustedProxies(proxies)


def test_proxies_must_be_a_list() -> None:
    with pytest.raises(TypeError, match=r"proxies is the text '10\.0\.0\.0/8'; it must be a list"):
        TrustedProxies("10.0.0.0/8")
