"""Authenticators for `Hub(authenticate=...)`: tokens, their keys, and sessions of the host application."""

from __future__ import annotations

from ..protocol.credentials import Credentials, TokenSource, find_token, redact, strip_headers, strip_query
from .jwt.authenticator import MAX_LEEWAY, MAX_TOKEN_LENGTH, TOKEN_DETAILS, JWTAuthenticator
from .jwt.jwks import JWKS
from .jwt.keys import Key
from .jwt.mint import mint
from .sessions import SessionAuthenticator

__all__ = [
    "JWKS",
    "MAX_LEEWAY",
    "MAX_TOKEN_LENGTH",
    "TOKEN_DETAILS",
    "Credentials",
    "JWTAuthenticator",
    "Key",
    "SessionAuthenticator",
    "TokenSource",
    "find_token",
    "mint",
    "redact",
    "strip_headers",
    "strip_query",
]
