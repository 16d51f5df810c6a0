"""The address of a hub, parsed from any of its URLs, and what may stand in a request to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from ..exceptions import HubError
from ..http import is_loopback
from ..protocol.credentials import find_token, strip_query

SOCKET_PATH: Final = "/ws/analytics"
"""Below the mount, where the hub's own server has its WebSocket. A mounted `HubApp` has one at every path."""
ENDPOINTS: Final = frozenset({"/events", "/commands", "/publish", "/ticket", "/asyncapi.json", "/healthz"})
"""The paths of the hub's own HTTP below the mount."""
_SOCKET_PATHS: Final = (SOCKET_PATH, "/ws")
_SCHEMES: Final = {"http": False, "ws": False, "https": True, "wss": True}
_ENDPOINT_PARAMETERS: Final = frozenset({"channels", "channel", "cursor", "session"})


@dataclass(frozen=True, slots=True)
class Target:
    """One place to connect to: the WebSocket of a hub, or the mount of its HTTP."""

    scheme: str
    host: str
    port: int
    resource: str
    """The path and the query."""

    @property
    def is_secure(self) -> bool:
        return _SCHEMES[self.scheme]

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.resource}"

    def below(self, path: str) -> str:
        """The resource of `path` below this mount."""
        mount, _, query = self.resource.partition("?")
        return f"{mount.rstrip('/')}{path}{f'?{query}' if query else ''}"


@dataclass(frozen=True, slots=True)
class Address:
    """A hub, named by the URL of its mount, of its WebSocket, or of its HTTP.

    The path does not always tell which of these it is: `/live` is a mount, or a WebSocket that an application has put
    there. So both are lists of places, to be tried in this order. A token in the URL is kept apart, so that no message
    shows it.
    """

    sockets: tuple[Target, ...]
    """Where the WebSocket may be."""
    mounts: tuple[Target, ...]
    """Below what the hub's own HTTP may be. The first is the path that was named: items are sent there unasked."""
    token: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `ValueError` with a message that does not repeat the URL."""
        try:
            parts = urlsplit(url)
            port, host = parts.port, (parts.hostname or "").encode("idna").decode()
        except ValueError:
            parts, port, host = urlsplit(""), None, ""
        if parts.scheme not in _SCHEMES or not re.fullmatch(r"[!-~]+", host):
            raise ValueError(
                "the URL must begin with http://, https://, ws:// or wss:// and name a host, like http://localhost:7999"
            )
        is_secure = _SCHEMES[parts.scheme]
        sockets, mounts = _find_places(parts.path)
        query = _strip_query(parts)
        if not all(text.isascii() and text.isprintable() and " " not in text for text in (parts.path, query)):
            raise ValueError("the path of the URL has characters that must be percent-encoded")
        port = port or (443 if is_secure else 80)

        def targets(scheme: str, paths: tuple[str, ...]) -> tuple[Target, ...]:
            scheme += "s" if is_secure else ""
            return tuple(Target(scheme, host, port, (path or "/") + query) for path in dict.fromkeys(paths))

        found = find_token({}, parts.query, ())
        return cls(targets("ws", sockets), targets("http", mounts), found.token if found else None)

    @property
    def is_local(self) -> bool:
        return is_loopback(self.sockets[0].host)


def _find_places(given: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths of WebSockets and of mounts that the path of a URL may mean."""
    path = given.rstrip("/")
    for endpoint in ENDPOINTS:
        if path.endswith(endpoint):
            mount = path.removesuffix(endpoint)
            return (mount + SOCKET_PATH, mount + "/ws", mount), (mount,)
    for suffix in _SOCKET_PATHS:
        if path.endswith(suffix):
            mount = path.removesuffix(suffix)
            return (given, mount + SOCKET_PATH, mount + "/ws"), (path, mount)
    return (path + SOCKET_PATH, path + "/ws", given), (path, path.rpartition("/")[0])


def _strip_query(parts: SplitResult) -> str:
    """The query with its question mark, without tokens and without what belongs to one endpoint alone."""
    pairs = strip_query(parts.query).split("&")
    if any(parts.path.rstrip("/").endswith(endpoint) for endpoint in ENDPOINTS):
        pairs = [pair for pair in pairs if pair.partition("=")[0] not in _ENDPOINT_PARAMETERS]
    query = "&".join(pairs)
    return f"?{query}" if query else ""


def is_valid_header(name: str, value: str) -> bool:
    """Whether HTTP allows this header: with an invalid one every attempt to connect would fail."""
    is_name = re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) is not None
    return is_name and re.fullmatch(r"[^\x00-\x08\x0a-\x1f\x7f]*", value) is not None and value == value.strip()


def validate_token(token: str, source: str | None = None) -> str:
    """Return `token` if it can stand in a header, else raise `HubError`, with a message that does not show it."""
    if re.fullmatch(r"[!-~]+", token):
        return token
    place = f" in {source}" if source else ""
    raise HubError(f"the token{place} is invalid; it must be one word of printable ASCII characters")
