"""The address of a hub, parsed from a URL, and what may stand in a request to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from ..exceptions import HubError
from ..http import is_loopback
from ..protocol.credentials import find_token, strip_query

DEFAULT_PATH: Final = "/ws/analytics"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect. A token in the URL is kept apart, so that no message shows it."""

    url: str
    host: str
    port: int
    resource: str
    is_secure: bool
    token: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str, schemes: tuple[str, str] = ("ws", "wss"), default_path: str = DEFAULT_PATH) -> Target:
        """`schemes`: the plain and the secure one. Raises `ValueError` with a message that does not repeat the URL."""
        plain, secure = schemes
        try:
            parts = urlsplit(url)
            port, host = parts.port, (parts.hostname or "").encode("idna").decode()
        except ValueError:
            parts, port, host = urlsplit(""), None, ""
        if parts.scheme not in schemes or not re.fullmatch(r"[!-~]+", host):
            raise ValueError(
                f"the URL must begin with {plain}:// or {secure}:// and name a host, as {plain}://localhost:7999 does"
            )
        is_secure = parts.scheme == secure
        found, query = find_token({}, parts.query, ()), strip_query(parts.query)
        resource = (parts.path if parts.path.strip("/") else default_path) + (f"?{query}" if query else "")
        if not resource.isascii() or not resource.isprintable() or " " in resource:
            raise ValueError("the path of the URL has characters that must be percent-encoded")
        port = port or (443 if is_secure else 80)
        netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        shown = f"{parts.scheme}://{netloc}{resource}"
        return cls(shown, host, port, resource, is_secure, found.token if found else None)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        return is_loopback(self.host)


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
