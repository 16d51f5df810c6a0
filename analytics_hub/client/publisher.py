"""Publishing over HTTP from outside the process of the hub: synchronous, for workers, scripts and views.

Each call is one request (`requests.py`).
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
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
from .backoff import Backoff
from .exceptions import PublishFailed, RequestFailed
from .requests import HubRequests, refusal
from .target import Address
from .text import printable

_ERRORS: Final = (
    InvalidItem, UnknownChannel, ChannelLimitReached, ItemTooLarge, JournalError, PermissionDenied, TableFull,
)  # fmt: skip

Outcome = Receipt | HubError | None
"""The result for one of many items: its receipt, why it was refused, or None for a key that was not in the table."""


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
    """Publishes to the hub at `url`: that of its mount, `https://example.com/hub`, of its WebSocket, or just the host.

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
        self._requests = HubRequests(Address.parse(url), token, timeout=timeout, ssl_context=ssl_context)
        self._attempts = attempts
        self._may_repeat = may_repeat
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
        try:
            answer = self._requests.send("POST", "/publish", body)
            if answer.status != 200:
                raise refusal(answer, _ERRORS)
        except RequestFailed as error:
            raise PublishFailed(str(error), is_uncertain=error.is_uncertain, is_transient=error.is_transient) from None
        return answer.body


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
