"""The pages that may connect: the `Origin` that browsers send, and the headers by which a page may read the answer.

An origin is a scheme, a host and a port, and two are the same if all three are. Browsers send theirs and scripts cannot
change it, so it identifies what a token does not: a page of another site, in the browser of a logged-in user.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from ..channels import shorten
from ..contracts import Handshake
from ..exceptions import OriginNotAllowed
from ..http import NO_STORE, Headers
from ..protocol.credentials import redact

MAX_AGE: Final = 600
"""Seconds for which a browser remembers the answer to a preflight."""
ALLOWED_HEADERS: Final = "authorization, content-type, last-event-id"
"""The headers that pages may set."""

EVERY_SITE: Final = "every-site"
"""In place of a list of origins, for a hub with public data alone."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_MAX_PORT: Final = 65_535
_MAX_SHOWN: Final = 100
_PLAIN: Final = re.compile(r"[A-Za-z0-9.:/_\[\]-]+")
_PORT: Final = re.compile(r":[0-9]+$")
_NGINX: Final = "(nginx: `proxy_set_header Host $http_host;`, not `$host`, which has no port)"
_ELSEWHERE: Final = frozenset({"cross-site", "same-site"})


class Origin(NamedTuple):
    """In lower case, with the port that the scheme implies written out."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        """As browsers write it."""
        is_implied = self.port == _DEFAULT_PORTS.get(self.scheme)
        return f"{self.scheme}://{self.host}" + ("" if is_implied else f":{self.port}")


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

    `EVERY_SITE` instead of a list admits the pages of every site, but none of them with the session of its user: see
    `without_session`. Raises `ValueError` for an invalid entry of `allowed`.
    """

    def __init__(self, allowed: Collection[str] = (), *, required: bool = False) -> None:
        self._is_open = allowed == EVERY_SITE
        if isinstance(allowed, str) and not self._is_open:
            raise TypeError(
                f"origins is the text {allowed!r}; it must be a list of origins, "
                f"or {EVERY_SITE!r} if all data is public"
            )
        self._allowed = frozenset() if self._is_open else frozenset(map(_check, allowed))
        self._required = required

    def check(self, headers: Mapping[str, str], *, is_secure: bool) -> None:
        """Raise `OriginNotAllowed` if the sender of these headers may not connect. `is_secure`: TLS ends here."""
        if not self.admits(headers, is_secure=is_secure):
            raise OriginNotAllowed(self._explain(headers, is_secure=is_secure))

    def admits(self, headers: Mapping[str, str], *, is_secure: bool) -> bool:
        """Whether the sender of these headers may connect."""
        if self._is_open:
            return not self._required or "origin" in headers or headers.get("sec-fetch-site") == "same-origin"
        return self._knows(headers, is_secure=is_secure)

    def _knows(self, headers: Mapping[str, str], *, is_secure: bool) -> bool:
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

    def without_session(self, handshake: Handshake, *, is_secure: bool) -> Handshake:
        """The handshake of a page that `EVERY_SITE` alone admits, without what the browser sent by itself.

        Otherwise any site could read, through the browser of a logged-in user, what that user may read. A token is
        sent by the page itself, and stays.
        """
        if not self._is_open or self._knows(handshake.headers, is_secure=is_secure):
            return handshake
        headers = {name: value for name, value in handshake.headers.items() if name != "cookie"}
        return replace(handshake, headers=headers, scope=None)

    def share(self, headers: Mapping[str, str]) -> Headers:
        """The headers of an answer by which the page may read it, if its origin is `allowed`. It varies by `Origin`."""
        text = headers.get("origin")
        if self._is_open:
            return (("Vary", "Origin"), ("Access-Control-Allow-Origin", "*"))
        if text is None or parse_origin(text) not in self._allowed:
            return ()
        return (
            ("Access-Control-Allow-Origin", text),
            ("Access-Control-Allow-Credentials", "true"),
        )

    # --- for the operator

    def _explain(self, headers: Mapping[str, str], *, is_secure: bool) -> str:
        """Why a page is refused, and what to do about it."""
        text, host = headers.get("origin"), headers.get("host", "")
        if text is None:
            return self._explain_missing(headers)
        ours = [f"{scheme}://{host}" for scheme in _schemes(is_secure=is_secure) if host]
        allowed = ", ".join(map(_shown, [*ours, *sorted(map(str, self._allowed))])) or "none"
        return (
            f"a page was refused: its Origin is {_shown(text)}, the Host as seen here is {_shown(host)}; allowed: "
            f"{allowed}. {_remedy(parse_origin(text), text, host, is_secure=is_secure)}"
        )

    def _explain_missing(self, headers: Mapping[str, str]) -> str:
        if "sec-fetch-site" in headers:
            site = _shown(headers["sec-fetch-site"])
            return (
                f"a request of a page of another site was refused: it has no Origin, and its Sec-Fetch-Site is {site}, "
                "as of an image or a frame; have the page use fetch or EventSource"
            )
        return "a client was refused: it has no Origin, and requires_origin=True admits browsers only"


def _remedy(origin: Origin | None, text: str, host: str, *, is_secure: bool) -> str:
    if origin is None:
        if text == "null":
            return (
                "A page from a file or in a sandbox has this origin: serve it over HTTP, from this server for instance"
                f", or if all data is public, pass origins={EVERY_SITE!r}"
            )
        return "This is not an origin that can be allowed"
    remedy = f'If the page is yours, pass origins=["{_shown(str(origin))}"]'
    ours = parse_origin(f"{origin.scheme}://{host}")
    if ours is None:
        return f"{remedy}; a proxy in front must pass on the Host that it receives {_NGINX}"
    if origin.host == ours.host and origin.port != ours.port and not _has_port(host):
        return f"A proxy may have lost the port: it must pass on the Host as it is {_NGINX}. {remedy}"
    if is_secure and origin.scheme == "http" and origin.host == ours.host:
        return f"The page was loaded without TLS: load it by https. {remedy}"
    return f"{remedy}; if it has the address of this server, a proxy in front must pass on the Host {_NGINX}"


def _has_port(host: str) -> bool:
    return _PORT.search(host) is not None


def _shown(text: str) -> str:
    """What a peer sent, for a log line."""
    text = redact(text)
    return text if text and len(text) <= _MAX_SHOWN and _PLAIN.fullmatch(text) else shorten(text, _MAX_SHOWN)


def _is_ours(origin: Origin, host: str, *, is_secure: bool) -> bool:
    """Whether it is the origin of a page at the host and port of the `Host` header."""
    if origin.scheme not in _schemes(is_secure=is_secure):
        return False
    return parse_origin(f"{origin.scheme}://{host}") == origin


def _schemes(*, is_secure: bool) -> tuple[str, ...]:
    # Where TLS ends in front of us, both schemes are plausible; where it ends here, only one is.
    return ("https",) if is_secure else ("http", "https")


def _check(text: str) -> Origin:
    origin = parse_origin(text)
    if origin is None:
        reason = "it must be a scheme, a host and, if need be, a port, such as https://dashboard.example.com:8443"
        if text == "*":
            reason = f"it would admit every page of every site; if all data is public, pass origins={EVERY_SITE!r}"
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
