"""Publishing from outside the hub's process, over HTTP: synchronous, for workers, scripts and views.

One request on one connection for each call: nothing is kept that could have gone stale, so a failure says clearly
whether the hub may have got the items.
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
)
from .backoff import Backoff, find_fault, printable
from .exceptions import TokenRefused
from .target import Target, check_token
from .websocket import explain

MAX_ANSWER: Final = 4 * 1024 * 1024

_ERRORS: Final[dict[str, type[HubError]]] = {
    "bad-request": InvalidItem,
    "forbidden": PermissionDenied,
    "journal-failed": JournalError,
    "table-full": TableFull,
    "too-large": ItemTooLarge,
    "too-many-channels": ChannelLimitReached,
    "unknown-channel": UnknownChannel,
}

Outcome = Receipt | HubError | None
"""What became of one of many: where it stands, why it was refused, or None for a key that was not there to delete."""


class PublishFailed(HubError):
    """The hub could not be reached, or gave no usable answer.

    `is_uncertain`: it may have got the items all the same. `is_passing`: another attempt may succeed.
    """

    def __init__(self, sentence: str, *, is_uncertain: bool, is_passing: bool = True) -> None:
        super().__init__(sentence)
        self.is_uncertain = is_uncertain
        self.is_passing = is_passing


class _Problem(msgspec.Struct):
    code: str
    message: str = ""


class _Outcome(msgspec.Struct):
    epoch: str | None = None
    seq: int | None = None
    error: _Problem | None = None

    def result(self) -> Outcome:
        if self.error is not None:
            return _ERRORS.get(self.error.code, HubError)(printable(self.error.message))
        return None if self.epoch is None or self.seq is None else Receipt(self.epoch, self.seq)


_outcome: Final = msgspec.json.Decoder(_Outcome)
_outcomes: Final = msgspec.json.Decoder(list[_Outcome])


class HubPublisher:
    """Publishes to the hub at `url`, which is where it is mounted: `https://example.com/hub`, or just the host.

    `token` is a text, or a function that returns a fresh one for each request. `timeout` in seconds bounds the
    connecting and each wait for the server. It tries up to `attempts` times, with a back-off, while the hub cannot be
    reached or is busy and has surely not got the items; with `may_repeat` also when it may have got them, and then an
    item may be published twice. Threads may share it.
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
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts is {attempts!r}; at least 1 is right")
        self._target = Target.parse(url, schemes=("http", "https"), default_path="/")
        self._token = token if token is not None else self._target.token
        self._timeout = timeout
        self._attempts = attempts
        self._may_repeat = may_repeat
        self._ssl_context = ssl_context
        self._sleep = sleep
        self._jitter = jitter

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is left open between two calls."""

    def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> Receipt:
        """Publish one item and return where it stands; on a durable channel, once its journal has it.

        Raises what `Hub.publish_confirmed` does, `PermissionDenied` if the token may not publish there, `TokenRefused`
        and `PublishFailed`.
        """
        receipt = _outcome_of(self._post({"channel": channel, "data": data} | _given(type=type, key=key)))
        if receipt is None:
            raise PublishFailed("the hub gave no receipt", is_uncertain=True, is_passing=False)
        return receipt

    def delete(self, channel: str, key: str) -> Receipt | None:
        """Remove `key` from a table; None if it was not there."""
        return _outcome_of(self._post({"channel": channel, "key": key, "deleted": True}))

    def publish_many(self, items: Iterable[Mapping[str, Any]]) -> list[Outcome]:
        """Publish `{"channel":..., "data":...}` and the like, in order, in one request; what became of each.

        A refused item does not keep the others from being published. All of them together have to fit in what the hub
        takes in one request, by default 144 KiB.
        """
        wanted = list(items)
        if not wanted:
            return []
        answers = _read(_outcomes, self._post(wanted))
        if len(answers) != len(wanted):
            raise PublishFailed(
                f"the hub answered {len(answers)} of {len(wanted)} items", is_uncertain=True, is_passing=False
            )
        return [answer.result() for answer in answers]

    # --- requests

    def _post(self, content: object) -> bytes:
        """What the hub answered, if it was 200."""
        try:
            body = msgspec.json.encode(content)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidItem(f"this cannot be encoded: {error}") from None
        backoff = Backoff(self._jitter)
        for attempt in range(1, self._attempts + 1):
            try:
                return self._try(body)
            except PublishFailed as error:
                is_safe = self._may_repeat or not error.is_uncertain
                if attempt == self._attempts or not (error.is_passing and is_safe):
                    raise
                self._sleep(backoff.next())
        raise AssertionError("unreachable")  # pragma: no cover

    def _try(self, body: bytes) -> bytes:
        headers = self._headers()  # what a token function raises is no failure of the connection
        connection = self._connection()
        sentence, is_uncertain = f"cannot connect to {self._target.url}", False
        try:
            connection.connect()
            sentence, is_uncertain = f"no answer from {self._target.url}", True
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER)
        except (OSError, HTTPException) as error:
            raise PublishFailed(f"{sentence}: {printable(explain(error))}", is_uncertain=is_uncertain) from None
        finally:
            connection.close()
        if response.status != 200:
            raise self._refusal(response, answer)
        return answer

    def _connection(self) -> HTTPConnection:
        """One that is not connected yet."""
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
            headers["Authorization"] = f"Bearer {check_token(token)}"
        return headers

    def _refusal(self, response: HTTPResponse, answer: bytes) -> HubError:
        try:
            problem = _outcome.decode(answer).error
        except (ValueError, RecursionError):
            problem = None
        is_text = problem is None and "html" not in response.headers.get("Content-Type", "")
        message = answer[:1024].decode("utf-8", "replace").strip() if is_text else ""
        code, message = ("", message) if problem is None else (problem.code, problem.message)
        sentence = printable(f"HTTP {response.status}{f', {message}' if message else ''}")
        if response.status == 401:
            return TokenRefused(f"the hub wants another token ({sentence})", find_fault(message))
        if code in _ERRORS:
            return _ERRORS[code](printable(message))
        is_server = response.status >= 500  # it, or a proxy that stands for it, may have begun
        is_passing = is_server or response.status == HTTPStatus.TOO_MANY_REQUESTS
        is_uncertain = is_server and code != "unavailable"  # the hub's own word that it has done nothing
        return PublishFailed(f"refused ({sentence})", is_uncertain=is_uncertain, is_passing=is_passing)


def _outcome_of(answer: bytes) -> Receipt | None:
    outcome: Outcome = _read(_outcome, answer).result()
    if isinstance(outcome, HubError):
        raise outcome
    return outcome


def _read(decoder: msgspec.json.Decoder[Any], answer: bytes) -> Any:
    try:
        return decoder.decode(answer)
    except (ValueError, RecursionError):
        raise PublishFailed("this is not the answer of a hub", is_uncertain=True, is_passing=False) from None


def _given(**options: str | None) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}
