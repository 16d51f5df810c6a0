"""Publishing over HTTP from outside the process of the hub: synchronous, for workers, scripts and views.

Each call is one request on one connection. Because no connection is reused, none can be stale, and a failure says
reliably whether the hub may have received the items.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from ..contracts import Receipt
from ..exceptions import (
    ChannelLimitReached,
    HubError,
    InvalidItem,
    ItemTooLarge,
    JournalError,
    PermissionDenied,
    TableFull,
    UnknownChannel,
    find_error,
)
from ..protocol.encoding import Encode, PayloadEncoder
from ..protocol.items import check_key
from .backoff import Backoff, token_fault
from .exceptions import TokenRefused
from .target import Target, validate_token
from .text import printable
from .websocket import describe_error

MAX_ANSWER: Final = 4 * 1024 * 1024

# `HubError` comes first because the others inherit its code, `internal-error`.
_ERRORS: Final = (
    HubError, InvalidItem, UnknownChannel, ChannelLimitReached, ItemTooLarge, JournalError, PermissionDenied, TableFull,
)  # fmt: skip

Outcome = Receipt | HubError | None
"""The result for one of many items: its receipt, why it was refused, or None for a key that was not in the table."""


class PublishFailed(HubError):
    """The hub could not be reached, or its answer is unusable.

    `is_uncertain`: the hub may have received the items nevertheless. `is_transient`: another attempt may succeed.
    """

    def __init__(self, message: str, *, is_uncertain: bool, is_transient: bool = True) -> None:
        super().__init__(message)
        self.is_uncertain = is_uncertain
        self.is_transient = is_transient


class _Problem(msgspec.Struct):
    code: str
    message: str = ""


class _Outcome(msgspec.Struct):
    epoch: str | None = None
    seq: int | None = None
    error: _Problem | None = None

    def result(self) -> Outcome:
        if self.error is not None:
            return find_error(self.error.code, _ERRORS)(printable(self.error.message))
        return None if self.epoch is None or self.seq is None else Receipt(self.epoch, self.seq)


_outcome_decoder: Final = msgspec.json.Decoder(_Outcome)
_outcomes_decoder: Final = msgspec.json.Decoder(list[_Outcome])


class HubPublisher:
    """Publishes to the hub at `url`, the URL of its mount: `https://example.com/hub`, or just the host.

    `token` is a text, or a function that returns a fresh one for each request. `timeout` in seconds bounds the
    connecting and each wait for the server. It tries up to `attempts` times, with a back-off, if the hub cannot be
    reached, or is busy and has certainly not received the items; with `may_repeat` also if it may have received them:
    then an item may be published twice. `encode` is that of `Hub`. Instances are thread-safe.
    """

    def __init__(
        self,
        url: str,
        token: str | Callable[[], str | None] | None = None,
        *,
        timeout: float = 10.0,
        attempts: int = 1,
        may_repeat: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        encode: Encode | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts is {attempts!r}; it must be at least 1")
        self._target = Target.parse(url, schemes=("http", "https"), default_path="/")
        self._token = token if token is not None else self._target.token
        self._timeout = timeout
        self._attempts = attempts
        self._may_repeat = may_repeat
        self._ssl_context = ssl_context
        self._encoder = PayloadEncoder(encode)
        self._sleep = sleep
        self._jitter = jitter

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Does nothing: no connection outlives a call."""

    def publish(self, channel: str, data: object, *, type: str | None = None, key: object = None) -> Receipt:
        """Publish one item and return its receipt; on a durable channel, once its journal has the item.

        Raises what `Hub.publish_confirmed` does, `PermissionDenied` if the token does not allow publishing to the
        channel, `TokenRefused` and `PublishFailed`.
        """
        options: dict[str, object] = {} if type is None else {"type": type}
        if key is not None:
            options["key"] = check_key(key, self._encoder)
        receipt = _receipt(self._post({"channel": channel, "data": data, **options}))
        if receipt is None:
            raise PublishFailed("the hub returned no receipt", is_uncertain=True, is_transient=False)
        return receipt

    def delete(self, channel: str, key: object) -> Receipt | None:
        """Remove `key` from a table; None if it was not there."""
        return _receipt(self._post({"channel": channel, "key": check_key(key, self._encoder), "deleted": True}))

    def publish_many(self, items: Iterable[Mapping[str, Any]]) -> list[Outcome]:
        """Publish items such as `{"channel": ..., "data": ...}` in order, in one request; returns the outcome of each.

        A refused item does not prevent the others from being published. The request must not exceed what the hub
        accepts, by default 144 KiB.
        """
        batch = list(items)
        if not batch:
            return []
        answers = _decode(_outcomes_decoder, self._post(batch))
        if len(answers) != len(batch):
            message = f"the hub answered {len(answers)} of {len(batch)} items"
            raise PublishFailed(message, is_uncertain=True, is_transient=False)
        return [answer.result() for answer in answers]

    # --- requests

    def _post(self, content: object) -> bytes:
        """The body of the answer, if its status is 200."""
        body = self._encoder.encode(content)
        backoff = Backoff(self._jitter)
        for attempt in range(1, self._attempts + 1):
            try:
                return self._request(body)
            except PublishFailed as error:
                is_safe = self._may_repeat or not error.is_uncertain
                if attempt == self._attempts or not (error.is_transient and is_safe):
                    raise
                self._sleep(backoff.next_delay())
        raise AssertionError("unreachable")  # pragma: no cover

    def _request(self, body: bytes) -> bytes:
        headers = self._headers()  # an exception of the token function is not a failure of the connection
        connection = self._connection()
        message, is_uncertain = f"cannot connect to {self._target.url}", False
        try:
            connection.connect()
            message, is_uncertain = f"no answer from {self._target.url}", True
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER)
        except (OSError, HTTPException) as error:
            raise PublishFailed(f"{message}: {printable(describe_error(error))}", is_uncertain=is_uncertain) from None
        finally:
            connection.close()
        if response.status != 200:
            raise _error(response, answer)
        return answer

    def _connection(self) -> HTTPConnection:
        """A connection that is not established yet."""
        target = self._target
        if not target.is_secure:
            return HTTPConnection(target.host, target.port, timeout=self._timeout)
        context = self._ssl_context if self._ssl_context is not None else ssl.create_default_context()
        return HTTPSConnection(target.host, target.port, timeout=self._timeout, context=context)

    @property
    def _path(self) -> str:
        path, _, query = self._target.resource.partition("?")
        return f"{path.rstrip('/')}/publish" + (f"?{query}" if query else "")

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        token = self._token() if callable(self._token) else self._token
        if token is not None:
            headers["Authorization"] = f"Bearer {validate_token(token)}"
        return headers


def _error(response: HTTPResponse, answer: bytes) -> HubError:
    """The exception for an answer with another status than 200."""
    try:
        problem = _outcome_decoder.decode(answer).error
    except (ValueError, RecursionError):
        problem = None
    is_text = problem is None and "html" not in response.headers.get("Content-Type", "")
    message = answer[:1024].decode("utf-8", "replace").strip() if is_text else ""
    code, message = ("", message) if problem is None else (problem.code, problem.message)
    details = printable(f"HTTP {response.status}{f', {message}' if message else ''}")
    if response.status == 401:
        return TokenRefused(f"the hub rejected the token ({details})", token_fault(message))
    if (error := find_error(code, _ERRORS)) is not HubError:
        return error(printable(message))
    is_server_error = response.status >= 500  # the hub, or a proxy before it, may have begun to process the request
    is_transient = is_server_error or response.status == HTTPStatus.TOO_MANY_REQUESTS
    is_uncertain = is_server_error and code != "unavailable"  # with this code the hub has done nothing
    return PublishFailed(f"refused ({details})", is_uncertain=is_uncertain, is_transient=is_transient)


def _receipt(answer: bytes) -> Receipt | None:
    outcome: Outcome = _decode(_outcome_decoder, answer).result()
    if isinstance(outcome, HubError):
        raise outcome
    return outcome


def _decode(decoder: msgspec.json.Decoder[Any], answer: bytes) -> Any:
    try:
        return decoder.decode(answer)
    except (ValueError, RecursionError):
        message = "the answer is not that of an analytics hub"
        raise PublishFailed(message, is_uncertain=True, is_transient=False) from None
