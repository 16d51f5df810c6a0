"""Who may come in: where a token is looked for, how it is kept out of logs, and the check of JSON Web Tokens.

Nothing here touches a network but `download`, for the keys of `analytics_hub.jwks`.
"""

from __future__ import annotations

from .authenticator import MAX_LEEWAY, MAX_TOKEN_LENGTH, TOKEN_DETAILS, JWTAuthenticator
from .finding import Found, TokenSource, find_token, redact, strip_headers, strip_query
from .keys import Key
from .minting import mint

__all__ = [
    "MAX_LEEWAY",
    "MAX_TOKEN_LENGTH",
    "TOKEN_DETAILS",
    "Found",
    "JWTAuthenticator",
    "Key",
    "TokenSource",
    "find_token",
    "mint",
    "redact",
    "strip_headers",
    "strip_query",
]
