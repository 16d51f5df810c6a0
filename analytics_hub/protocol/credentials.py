"""Finds the token of a request, and removes tokens from what is logged or passed on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote_plus

TokenSource = Literal["header", "subprotocol", "query"]


class Credentials(NamedTuple):
    """A token and where it was found."""

    token: str
    source: TokenSource


_SUBPROTOCOL: Final = "bearer."


def find_token(headers: Mapping[str, str], query: str, subprotocols: Iterable[str]) -> Credentials | None:
    """The token of a handshake: header before subprotocol entry before query (`docs/protocol.md` §8).

    `headers` has lower-case names. An `Authorization` of another scheme is ignored, and so are empty tokens.
    """
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and (token := credentials.strip()):
        return Credentials(token, "header")
    for entry in subprotocols:
        if entry.startswith(_SUBPROTOCOL) and (token := entry.removeprefix(_SUBPROTOCOL)):
            return Credentials(token, "subprotocol")
    for name, value in parse_qsl(query):
        if name == "token":
            return Credentials(value, "query")
    return None


def strip_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """`headers` without the places where `find_token` looks, for the application and for logs."""
    kept = {name: value for name, value in headers.items() if name != "authorization"}
    if offered := kept.pop("sec-websocket-protocol", ""):
        entries = [entry for entry in map(str.strip, offered.split(",")) if not entry.startswith(_SUBPROTOCOL)]
        if entries:
            kept["sec-websocket-protocol"] = ", ".join(entries)
    return kept


def strip_query(query: str) -> str:
    """`query` without its `token` parameters, however their name is percent-encoded; the rest is untouched."""
    return "&".join(part for part in query.split("&") if unquote_plus(part.partition("=")[0]) != "token")


def _spelled(word: str) -> str:
    """A pattern for `word` in which every character may be percent-encoded."""
    return "".join(f"(?:{char}|%{ord(char):02x}|%{ord(char.upper()):02x})" for char in word)


_PARAMETER: Final = re.compile(rf"((?:{_spelled('token')}|{_spelled('ticket')})(?:=|%3d))[^&\s]*", re.IGNORECASE)
_BEARER: Final = re.compile(r"(bearer(?:\.|\s+))[^\s,]+", re.IGNORECASE)
# Only words that end in a dot are searched, and once: trying it at each `eyJ` of a long word took seconds.
_LOOKS_LIKE_JWT: Final = re.compile(
    r"(?<![A-Za-z0-9_-])(?=[A-Za-z0-9_-]+\.)([A-Za-z0-9_-]*?)eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]*"
)
_LOOKS_LIKE_TICKET: Final = re.compile(r"(ticket(?:\.|%2e))[A-Za-z0-9_-]+", re.IGNORECASE)


def redact(text: str) -> str:
    """`text`, a request target or anything else that is about to be logged, without tokens.

    Removes rather too much than too little: also `access_token=`, and everything that looks like a JWT or a ticket.
    """
    for pattern in (_PARAMETER, _BEARER, _LOOKS_LIKE_TICKET, _LOOKS_LIKE_JWT):
        text = pattern.sub(r"\1[redacted]", text)
    return text
