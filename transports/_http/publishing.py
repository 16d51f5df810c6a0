"""Publishing over HTTP, for programs other than this one: under the rules of `Hub.publish` and of the channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from anyio.lowlevel import checkpoint

from ...channels import Channel, clip
from ...contracts import Gateway, Peer, Receipt, Submitted
from ...exceptions import (
    AuthorizationUnavailable,
    HubError,
    InvalidItem,
    JournalError,
    PermissionDenied,
)
from ...http import Request, Response, error_response, json_response
from ...identity import Identity
from ...protocol.items import check_nesting
from .._refusal import refusal_response

T = TypeVar("T")
U = TypeVar("U")

MAX_ITEMS: Final = 6000
"""In one request: more than 144 KiB of the shortest. As much of anything else makes an answer sixty times as long."""
_TURN: Final = 64
"""Items after which the event loop gets a turn."""


class _Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One item to publish; `deleted` removes the key instead."""

    channel: str
    data: msgspec.Raw = msgspec.Raw()
    type: str | None = None
    key: str | None = None
    deleted: bool = False


Outcome: TypeAlias = "Submitted | HubError | None"
"""What became of an item; None is a deletion of a key that was not there."""


@dataclass(frozen=True, slots=True)
class _Author:
    """The peer that publishes, and the answers of `authorize` about its channels."""

    peer: Peer
    verdicts: Mapping[str, bool | None]


_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_item: Final = msgspec.json.Decoder(_Item)


class Publishing:
    """Publishes the items of requests."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._decoders = {
            channel.name: channel.new_decoder() for channel in gateway.channels if channel.schema is not None
        }

    async def publish(self, request: Request, peer: Peer) -> Response:
        """Publish the item in the body, or each of an array, in order, and answer once all are accepted or refused."""
        body = request.body
        is_array = body.lstrip(b" \t\r\n")[:1] == b"["
        try:
            body.decode()  # msgspec looks at the texts it decodes, and not at those it passes over
            parts = _items.decode(body) if is_array else [msgspec.Raw(body)]
        except UnicodeDecodeError:
            return error_response(HTTPStatus.BAD_REQUEST, "bad-request", "the body is not valid UTF-8")
        except (ValueError, RecursionError) as error:
            return refusal_response(_malformed(error))
        if len(parts) > MAX_ITEMS:
            return refusal_response(InvalidItem(f"the request has {len(parts)} items; at most {MAX_ITEMS} are allowed"))
        items = await _map(_parse, parts)
        assert peer.identity is not None
        verdicts = await self._gateway.authorize_publish(peer.identity, self._channels(items, peer.identity))
        author = _Author(peer, verdicts)
        if not is_array:
            result = await _receipt_of(self._submit_or_refuse(items[0], author))
            return refusal_response(result) if isinstance(result, HubError) else json_response(200, _describe(result))
        outcomes = await _map(lambda item: self._submit_or_refuse(item, author), items)
        results = [await _receipt_of(outcome) for outcome in outcomes]
        return json_response(HTTPStatus.OK, await _map(_describe, results))

    def _channels(self, items: Iterable[_Item | HubError], identity: Identity) -> Iterable[str]:
        """The channels that the roles of `identity` allow, each once."""
        names = dict.fromkeys(item.channel for item in items if isinstance(item, _Item))
        for name in names:
            try:
                if self._gateway.declaration(name).takes_from(identity, name):
                    yield name
            except HubError:
                pass  # `_submit` raises it again, for the items of the channel

    def _submit_or_refuse(self, item: _Item | HubError, author: _Author) -> Outcome:
        try:
            return item if isinstance(item, HubError) else self._submit(item, author)
        except HubError as error:
            return error
        except (ValueError, RecursionError) as error:
            return _malformed(error)

    def _submit(self, item: _Item, author: _Author) -> Submitted | None:
        """Publish one item; raises what `Hub.publish` does, and the refusals of the author."""
        gateway = self._gateway
        channel = gateway.declaration(item.channel)
        verdict = author.verdicts.get(item.channel)
        if not channel.takes_from(gateway.current_identity(author.peer), item.channel) or verdict is False:
            raise PermissionDenied(f"not allowed to publish to channel {item.channel!r}")
        if verdict is None:
            raise AuthorizationUnavailable(f"permission to publish to channel {item.channel!r} cannot be checked now")
        if item.deleted:
            if bytes(item.data) not in (b"", b"null"):
                raise InvalidItem("a deletion must not have data")
            if channel.mode != "table" or item.key is None:
                raise InvalidItem("a deletion must have the key of a table")
            return gateway.remove(item.channel, item.key)
        if not bytes(item.data):
            raise InvalidItem("an item must have data; null is allowed")
        check_nesting(bytes(item.data))
        data = item.data if channel.schema is None else self._convert(channel, item)
        return gateway.submit(item.channel, data, type=item.type, key=item.key)

    def _convert(self, channel: Channel, item: _Item) -> Any:
        """The data as the application itself would publish it, without the fields that the schema does not have."""
        try:
            return self._decoders[channel.name].decode(item.data)
        except ValueError as error:
            raise InvalidItem(f"data for channel {item.channel!r}: {clip(str(error))}") from None


async def _map(function: Callable[[T], U], values: Iterable[T]) -> list[U]:
    """`[function(value) for value in values]`, with turns for the event loop."""
    results = []
    for number, value in enumerate(values, 1):
        results.append(function(value))
        if number % _TURN == 0:
            await checkpoint()
    return results


async def _receipt_of(outcome: Outcome) -> Receipt | HubError | None:
    if outcome is None or isinstance(outcome, Receipt | HubError):
        return outcome
    try:
        return await outcome.wait()
    except JournalError:
        # The message of a journal is for the operator's log: it may name hosts and files.
        return JournalError("the journal did not take the item")


def _parse(part: msgspec.Raw) -> _Item | HubError:
    try:
        return _item.decode(part)
    except (ValueError, RecursionError) as error:
        return _malformed(error)


def _malformed(error: Exception) -> InvalidItem:
    if isinstance(error, RecursionError):
        return InvalidItem("the JSON is nested too deeply")
    return InvalidItem(f"the item is malformed: {clip(str(error))}")


def _describe(result: Receipt | HubError | None) -> dict[str, object]:
    if isinstance(result, HubError):
        return {"error": {"code": result.http_code, "message": result.public_message}}
    return {"epoch": result and result.epoch, "seq": result and result.seq}
