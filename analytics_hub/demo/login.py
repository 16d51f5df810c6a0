"""`/login` of the demo: three accounts with publicly known passwords. For the demo only, never for an application.

An application lets its own login `mint` a token, or uses the tokens of its identity provider.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import msgspec

from ..auth import mint
from ..http import Request, Respond, Response, is_loopback, json_response, route
from ..transports._origins import Origins, preflight

ACCOUNTS: Final = {"admin": "admin", "trader": "trader", "monitor": "monitor"}
"""Name -> password; each account has the one role of its name."""

TTL: Final = 3600
MAX_BODY: Final = 4096
_MALFORMED: Final = (
    "the body must be a JSON object with the strings username and password, "
    'for example {"username":"admin","password":"admin"}'
)


class _Credentials(msgspec.Struct):
    username: str
    password: str


_decoder: Final = msgspec.json.Decoder(_Credentials)


def respond_login(
    secret: str,
    *,
    local_only: bool = True,
    origins: Origins | None = None,
    ttl: int = TTL,
    clock: Callable[[], float] = time.time,
) -> Respond:
    """Answers POST of a JSON object with a token. The Content-Type is ignored, because `curl -d` sends that of a form.

    Pages of other sites are refused, except those of `origins`. With DNS rebinding a page of another site appears to be
    one of this machine; therefore `local_only` refuses requests to any host name except the loopback ones.
    """
    pages = origins if origins is not None else Origins()

    def answer(request: Request) -> Response:
        if not pages.admits(request.headers, is_secure=False):
            response = _refuse(HTTPStatus.FORBIDDEN, "this origin is not allowed")
        elif request.method == "OPTIONS":
            response = Response(HTTPStatus.NO_CONTENT, headers=preflight(request.headers, ["POST"]))
        else:
            response = login(request)
        return replace(response, headers=[*response.headers, *pages.share(request.headers)])

    def login(request: Request) -> Response:
        if local_only and not _names_this_machine(request.headers.get("host", "")):
            return _refuse(HTTPStatus.FORBIDDEN, "log in at http://localhost; these accounts are for this machine only")
        if len(request.body) > MAX_BODY:
            return _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body must not exceed {MAX_BODY} bytes")
        try:
            given = _decoder.decode(request.body)
        except (ValueError, RecursionError):
            return _refuse(HTTPStatus.BAD_REQUEST, _MALFORMED)
        if not _is_valid(given):
            return _refuse(HTTPStatus.UNAUTHORIZED, "wrong username or password")
        token = mint(
            secret, subject=given.username, roles=[given.username], ttl=ttl, now=clock(), account=given.username
        )
        return json_response(HTTPStatus.OK, {"token": token, "expiresIn": ttl})

    return route("/login", {"POST": answer, "OPTIONS": answer})


def refuse_login(reason: str) -> Respond:
    """`/login` where it would be accessible to other machines: 403 with `reason`."""
    return route("/login", {"POST": lambda request: _refuse(HTTPStatus.FORBIDDEN, reason)})


def _names_this_machine(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _is_valid(given: _Credentials) -> bool:
    # Constant time: an unknown name takes as long as a wrong password.
    password = ACCOUNTS.get(given.username, "")
    matches = hmac.compare_digest(given.password.encode(), password.encode())
    return matches and given.username in ACCOUNTS


def _refuse(status: HTTPStatus, message: str) -> Response:
    return json_response(status, {"error": message})
