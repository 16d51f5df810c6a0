"""Requests to a hub's own HTTP, synchronous, and the search for its mount.

Each request has its own connection. Because none is reused, none can be stale, and a failure says reliably whether the
hub may have received the request.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final, NamedTuple

import msgspec

from ..exceptions import HubError, find_error
from .backoff import token_fault
from .exceptions import RequestFailed, TokenRefused
from .target import Address, Target, validate_token
from .text import printable
from .websocket import describe_error

MAX_ANSWER: Final = 4 * 1024 * 1024
_MISSES: Final = frozenset({403, 404, 405})
"""What a server answers at a path that is not the hub's; some demand a token against forgery before they look."""


class Answer(NamedTuple):
    """An HTTP answer, and the error in its body if it has the form of the hub's errors."""

    status: int
    body: bytes
    is_html: bool
    code: str = ""
    message: str = ""


class _Problem(msgspec.Struct):
    code: str
    message: str = ""


class _Refusal(msgspec.Struct):
    error: _Problem


class _Health(msgspec.Struct):
    status: str


class HubRequests:
    """Sends requests to the hub at `address`. `timeout` in seconds bounds the connecting and each wait. Thread-safe.

    If the address may name several mounts and the first one does not answer as a hub, the others are asked for their
    `/healthz` before the request is sent there: below a path that the caller has not named may be anything.
    """

    def __init__(
        self,
        address: Address,
        token: str | Callable[[], str | None] | None,
        *,
        timeout: float,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._token = token if token is not None else address.token
        self._timeout = timeout
        self._ssl_context = ssl_context
        self._mounts = address.mounts

    def send(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """The answer to a request for one of the hub's own paths. Raises `RequestFailed` or what the token raises."""
        headers = self._headers()
        mount = self._mounts[0]
        answer = self._send(mount, method, path, body, headers)
        if len(self._mounts) > 1:
            is_miss = answer.status in _MISSES and not answer.code
            found = next((each for each in self._mounts[1:] if is_miss and self._is_hub(each)), None)
            if found is not None:
                answer = self._send(found, method, path, body, headers)
            if found is not None or not is_miss:
                self._mounts = (found or mount,)
        return answer

    def _is_hub(self, mount: Target) -> bool:
        try:
            msgspec.json.decode(self._send(mount, "GET", "/healthz", None, {}).body, type=_Health)
        except (RequestFailed, ValueError, RecursionError):
            return False
        return True

    def _send(self, mount: Target, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        connection = self._connection(mount)
        message, is_uncertain = f"cannot connect to {mount.url}", False
        try:
            connection.connect()
            message, is_uncertain = f"no answer from {mount.url}", True
            connection.request(method, mount.below(path), body, {**headers, "Connection": "close"})
            response = connection.getresponse()
            content = response.read(MAX_ANSWER)
        except (OSError, HTTPException) as error:
            raise RequestFailed(f"{message}: {printable(describe_error(error))}", is_uncertain=is_uncertain) from None
        finally:
            connection.close()
        is_html = "html" in response.headers.get("Content-Type", "")
        try:
            problem = msgspec.json.decode(content, type=_Refusal).error
        except (ValueError, RecursionError):
            return Answer(response.status, content, is_html)
        return Answer(response.status, content, is_html, problem.code, problem.message)

    def _connection(self, target: Target) -> HTTPConnection:
        """A connection that is not established yet."""
        if not target.is_secure:
            return HTTPConnection(target.host, target.port, timeout=self._timeout)
        context = self._ssl_context if self._ssl_context is not None else ssl.create_default_context()
        return HTTPSConnection(target.host, target.port, timeout=self._timeout, context=context)

    def _headers(self) -> dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        authorization = {} if token is None else {"Authorization": f"Bearer {validate_token(token)}"}
        return {"Content-Type": "application/json", **authorization}


def refusal(answer: Answer, expected: Iterable[type[HubError]] = ()) -> HubError:
    """The exception for an answer with another status than 200: that of its code if it is `expected`."""
    message = answer.message
    if not answer.code and not answer.is_html:
        message = answer.body[:1024].decode("utf-8", "replace").strip()
    details = printable(f"HTTP {answer.status}{f', {message}' if message else ''}")
    if answer.status == 401:
        return TokenRefused(f"the hub rejected the token ({details})", token_fault(message))
    if (error := find_error(answer.code, expected)) is not HubError:
        return error(printable(message))
    is_server_error = answer.status >= 500  # the hub, or a proxy before it, may have begun to process the request
    is_uncertain = is_server_error and answer.code != "unavailable"  # with this code the hub has done nothing
    is_transient = is_server_error or answer.status == 429
    return RequestFailed(f"refused ({details})", is_uncertain=is_uncertain, is_transient=is_transient)
