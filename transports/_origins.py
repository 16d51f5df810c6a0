"""The pages that may connect: the `Origin` that browsers send, and the headers by which a page may read the answer.

An origin is a scheme, a host and a port, and two are the same if all three are. Browsers send theirs and scripts cannot
change it, so it identifies what a token does not: a page of another site, in the browser of a logged-in user.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from ..http import NO_STORE, Headers

MAX_AGE: Final = 600
"""Seconds for which a browser remembers the answer to a preflight."""
ALLOWED_HEADERS: Final = "authorization, content-type, last-event-id"
"""The headers that pages may set."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_MAX_PORT: Final = 65_535
_ELSEWHERE: Final = frozenset({"cross-site", "same-site"})


class Origin(NamedTuple):
    """In lower case, with the port that the scheme implies written out."""

    scheme: str
    host: str
    port: int | None


def parse_origin(text: str) -> Origin | None:
    """The origin in `text`; None if it is invalid or has anything before or after it."""
    found = _ORIGIN.fullmatch(text.lower()) if text.isascii() else None
    if found is None:
        return None
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if host.startswith("["):
        try:
            host = f"[{IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    if port is not None and int(port) > _MAX_PORT:
        return None
    return Origin(scheme, host, _DEFAULT_PORTS.get(scheme) if port is None else int(port))


class Origins:
    """Pages of the server itself may connect, and those of `allowed`. With `required`, only browsers may.

    Raises `ValueError` for an invalid entry of `allowed`.
    """

    def __init__(self, allowed: Collection[str] = (), *, required: bool = False) -> None:
        if isinstance(allowed, str):
            raise TypeError(f"origins must be a list of origins, not the text {allowed!r}")
        self._allowed = frozenset(map(_check, allowed))
        self._required = required

    def admits(self, headers: Mapping[str, str], *, is_secure: bool) -> bool:
        """Whether the sender of these headers may connect. `is_secure`: TLS ends here."""
        text = headers.get("origin")
        if text is None:
            # Browsers send no origin with a GET of a page of the server itself, but mark it as one; nor with that of an
            # image or a frame in a page of another site, which is sent with the cookies of the user.
            site = headers.get("sec-fetch-site")
            return site == "same-origin" if self._required else site not in _ELSEWHERE
        origin = parse_origin(text)
        if origin is None:
            return False
        return origin in self._allowed or _is_ours(origin, headers.get("host", ""), is_secure=is_secure)

    def share(self, headers: Mapping[str, str]) -> Headers:
        """The headers of an answer by which the page may read it, if its origin is `allowed`. It varies by `Origin`."""
        text = headers.get("origin")
        if text is None or parse_origin(text) not in self._allowed:
            return ()
        return (
            ("Access-Control-Allow-Origin", text),
            ("Access-Control-Allow-Credentials", "true"),
        )


def _is_ours(origin: Origin, host: str, *, is_secure: bool) -> bool:
    """Whether it is the origin of a page at the host and port of the `Host` header."""
    # Where TLS ends in front of us, both schemes are plausible; where it ends here, only one is.
    if origin.scheme not in (("https",) if is_secure else ("http", "https")):
        return False
    return parse_origin(f"{origin.scheme}://{host}") == origin


def _check(text: str) -> Origin:
    origin = parse_origin(text)
    if origin is None:
        reason = "it must be a scheme, a host and, if need be, a port, such as https://dashboard.example.com:8443"
        if text == "*":
            reason = "it would admit every page of every site; name the origins that may connect"
        elif text == "null":
            reason = "every sandboxed page of every site has this origin, so it identifies none"
        raise ValueError(f"origin {text!r}: {reason}")
    return origin


def preflight(headers: Mapping[str, str], methods: Collection[str]) -> Headers:
    """The headers of the answer to OPTIONS for a path that has `methods`."""
    allowed = ", ".join((*methods, "OPTIONS"))
    if "origin" not in headers:
        return (NO_STORE, ("Allow", allowed))
    return (
        NO_STORE,
        ("Allow", allowed),
        ("Access-Control-Allow-Methods", allowed),
        ("Access-Control-Allow-Headers", ALLOWED_HEADERS),
        ("Access-Control-Max-Age", str(MAX_AGE)),
    )
