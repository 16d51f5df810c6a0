"""The headers `Origin`, `Host` and `X-Forwarded-For`, and the scopes of ASGI servers."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Final

from analytics_hub.access.proxies import PROXIES, TrustedProxies
from analytics_hub.contracts import Handshake
from analytics_hub.transports._asgi.scope import Scope, find_path, pop_query, read_headers
from analytics_hub.transports._origins import Origins, parse_origin, preflight

from ..target import Target

_ALLOWED: Final = ("https://dashboard.example.com", "http://[::1]:8080")
_LISTED: Final = Origins(_ALLOWED)
_STRICT: Final = Origins(_ALLOWED, required=True)
_SERIALIZED: Final = re.compile(r"https?://[^/?#@\s\x00-\x20\x7f-\xff]+", re.IGNORECASE)


def check_origins(data: bytes) -> None:
    """Lines: `Origin`, `Host`, and whether TLS ends here. Only the own origin and those of the list are admitted."""
    origin, host, rest, *_ = (*data.decode("latin-1").split("\n"), "", "")
    is_secure = bool(rest)
    headers = {"host": host} | ({"origin": origin} if origin else {})
    is_admitted = _LISTED.admits(headers, is_secure=is_secure)
    shared = dict(_LISTED.share(headers))
    assert _STRICT.admits(headers, is_secure=is_secure) == (is_admitted and bool(origin))
    assert preflight(headers, ("GET",))
    is_listed = origin.lower() in _ALLOWED
    if "Access-Control-Allow-Origin" in shared:
        assert shared["Access-Control-Allow-Origin"] == origin
        assert is_admitted
        assert _strip_port(origin) in {*map(_strip_port, _ALLOWED)}, origin
    assert not is_listed or is_admitted
    if is_admitted and origin and "Access-Control-Allow-Origin" not in shared:
        assert _SERIALIZED.fullmatch(origin), origin
        assert not is_secure or origin.lower().startswith("https:")
        assert _host(origin.partition("://")[2]) == _host(host), (origin, host)
        assert parse_origin(origin) is not None


def _strip_port(origin: str) -> tuple[str, str]:
    scheme, _, authority = origin.lower().partition("://")
    return scheme, _host(authority)


def _host(authority: str) -> str:
    """Without the port, and with an IPv6 address in its canonical form."""
    name = re.sub(r":[0-9]*$", "", authority.lower())
    return f"[{ip_address(name[1:-1])}]" if name.startswith("[") else name


_TRUSTED: Final = (*PROXIES, "10.0.0.0/8")
_PROXIES: Final = TrustedProxies(_TRUSTED)
_NETWORKS: Final = tuple(map(ip_network, _TRUSTED))


def check_forwarded(data: bytes) -> None:
    """Lines: the address of the peer, and its `X-Forwarded-For`, which counts from proxies only."""
    client, _, forwarded = data.decode("latin-1").partition("\n")
    handshake = Handshake(client=client, headers={"x-forwarded-for": forwarded})
    resolved = _PROXIES.resolve(handshake)
    key = _PROXIES.address_key(resolved.client)
    if resolved.client != client:
        assert _is_proxy(client), "the header of an untrusted peer was used"
        assert resolved.client is not None
        ip_address(resolved.client)
        assert resolved.client.isprintable()
        assert len(resolved.client) <= 64
        assert key is None or len(key) <= 64
    assert key is None or key.endswith("/64") or ip_address(key).version == 4


def _is_proxy(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in _NETWORKS)


# --- ASGI scopes ------------------------------------------------------------------------------------------------------


def check_scope(data: bytes) -> None:
    """Lines: path, root path, query, then headers."""
    path, root, query, *lines = (*data.split(b"\n"), b"", b"")
    scope: Scope = {
        "path": path.decode("utf-8", "replace"),
        "root_path": root.decode("utf-8", "replace"),
        "query_string": query,
        "headers": [tuple(line.partition(b":")[::2]) for line in lines],
    }
    found = find_path(scope)
    assert found.startswith("/")
    assert found == "/" or not found.endswith("/")
    headers = read_headers(scope)
    assert len(headers) <= len(lines)
    assert all(name == name.lower() for name in headers)
    pop_query(scope)
    stripped = scope["query_string"]
    pop_query(scope)
    assert scope["query_string"] == stripped


ORIGIN: Final = Target(
    "origin",
    check_origins,
    samples=(
        b"https://hub.example.com\nhub.example.com\n1",
        b"http://hub:7999\nhub:7999",
        b"https://dashboard.example.com\nhub.example.com\n1",
        b"http://[::1]:8080\nhub",
        b"http://[0:0::1]\n[::1]:80",
        b"null\nhub",
        b"\nhub",
    ),
    words=(
        *b"http:// https:// null : :80 :443 :0 :65536 [::1] [ ] @ / \\ hub dashboard.example.com . # ? xn--".split(),
        *(b"%", b":0080", b"\n", b"\t", b"::ffff:127.0.0.1"),
    ),
    longest=300,
)
FORWARDED: Final = Target(
    "forwarded",
    check_forwarded,
    samples=(
        b"127.0.0.1\n203.0.113.9, 10.1.2.3",
        b"::1\n[2001:db8::1]:1234, 127.0.0.1:80",
        b"::ffff:127.0.0.1\nunknown, 198.51.100.1:99",
        b"203.0.113.9\n1.2.3.4",
        b"10.0.0.1\n" + b"10.0.0.2, " * 40 + b"10.0.0.3",
    ),
    words=(*b', : [ ] %eth0 :: 127.0.0.1 10.0.0.1 1.2.3.4 /8 _hidden "'.split(), b" ", b"\n"),
    longest=600,
)

SCOPE: Final = Target(
    "scope",
    check_scope,
    samples=(
        b"/hub/events\n/hub\nchannels=alerts&token=ey.J\nHost:hub\nCookie:a=b\nCookie:c=d\nX:\xe9",
        b"//events/\n/\n%74oken=x&token=y&a\nAuthorization:Bearer x",
    ),
    words=(b"/", b"//", b"/hub", b"\n", b"?", b"token=", b"%74oken=", b"&", b":", b"Cookie:a"),
    longest=600,
)
TARGETS: Final = (ORIGIN, FORWARDED, SCOPE)
