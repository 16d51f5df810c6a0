"""Publishing over HTTP, for programs that are not this one: under the rules of `Hub.publish` and of the channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec
from anyio.lowlevel import checkpoint

from ...channels import Channel, clip
from ...contracts import Handshake
from ...exceptions import (
    AuthenticationError,
    ChannelLimitReached,
    HubClosed,
    HubError,
    InvalidChannel,
    InvalidItem,
    ItemTooLarge,
    JournalError,
    PermissionDenied,
    TableFull,
    UnknownChannel,
)
from ...http import RETRY_SOON, Request, Response, error_response, json_response
from ...hub import Hub
from ...hub.journal import Receipt, Waiter
from ...identity import Identity
from ...protocol.items import check_nesting, find_key


class _Unjudged(HubError):
    """The application failed to say whether this may be."""


MAX_ITEMS: Final = 6000
"""In one request: more than 144 KiB of the shortest. As much of anything else makes an answer sixty times as long."""
_TURN: Final = 64
"""Items after which the event loop has its turn."""

# In this order: the first that fits says what is answered.
_ANSWERS: Final[tuple[tuple[type[HubError], int, str], ...]] = (
    (AuthenticationError, HTTPStatus.UNAUTHORIZED, "unauthenticated"),
    (PermissionDenied, HTTPStatus.FORBIDDEN, "forbidden"),
    (UnknownChannel, HTTPStatus.NOT_FOUND, "unknown-channel"),
    (ItemTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large"),
    (InvalidItem, HTTPStatus.BAD_REQUEST, "bad-request"),
    (InvalidChannel, HTTPStatus.BAD_REQUEST, "bad-request"),
    (TableFull, HTTPStatus.CONFLICT, "table-full"),
    (ChannelLimitReached, HTTPStatus.CONFLICT, "too-many-channels"),
    (JournalError, HTTPStatus.SERVICE_UNAVAILABLE, "journal-failed"),
    (HubClosed, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    (_Unjudged, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
)


class _Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One item to publish; `deleted` removes the key instead."""

    channel: str
    data: msgspec.Raw = msgspec.Raw()
    type: str | None = None
    key: str | None = None
    deleted: bool = False


Outcome: TypeAlias = "Receipt | Waiter | HubError | None"
"""What became of an item; None is a deletion of a key that was not there."""


@dataclass(frozen=True, slots=True)
class _Author:
    """Who publishes, and to which channels the application lets it."""

    identity: Identity
    handshake: Handshake
    verdicts: Mapping[str, bool | None]


_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_item: Final = msgspec.json.Decoder(_Item)
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Publishing:
    """Takes items into a hub. Raises `InvalidChannel` if a channel's schema is nothing that msgspec can decode."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._decoders = {channel.name: _decoder(channel) for channel in hub.channels if channel.schema is not None}

    async def publish(self, request: Request, identity: Identity, handshake: Handshake) -> Response:
        """Publish the item in the body, or each of an array, in order, and answer once all are accepted or refused."""
        body = request.body
        is_array = body.lstrip(b" \t\r\n")[:1] == b"["
        try:
            body.decode()  # msgspec looks at the texts it decodes, and not at those it passes over
            parts = _items.decode(body) if is_array else [msgspec.Raw(body)]
        except UnicodeDecodeError:
            return error_response(HTTPStatus.BAD_REQUEST, "bad-request", "the body is not valid UTF-8")
        except (ValueError, RecursionError) as error:
            return _refuse(_malformed(error))
        if len(parts) > MAX_ITEMS:
            return _refuse(InvalidItem(f"{len(parts)} items in one request; at most {MAX_ITEMS} are right"))
        items: list[_Item | HubError] = []
        for number, part in enumerate(parts, 1):
            items.append(_parse(part))
            if number % _TURN == 0:
                await checkpoint()
        verdicts = await self._hub.ask_to_publish(identity, self._channels(items, identity))
        author = _Author(identity, handshake, verdicts)
        if not is_array:
            result = await _settle(self._try(items[0], author))
            return _refuse(result) if isinstance(result, HubError) else json_response(HTTPStatus.OK, _describe(result))
        outcomes: list[Outcome] = []
        for number, item in enumerate(items, 1):
            outcomes.append(self._try(item, author))
            if number % _TURN == 0:
                await checkpoint()
        answers: list[dict[str, object]] = []
        for number, outcome in enumerate(outcomes, 1):
            answers.append(_describe(await _settle(outcome)))
            if number % _TURN == 0:
                await checkpoint()
        return json_response(HTTPStatus.OK, answers)

    def _channels(self, items: Iterable[_Item | HubError], identity: Identity) -> Iterable[str]:
        """Those that the roles allow, each once."""
        names = dict.fromkeys(item.channel for item in items if isinstance(item, _Item))
        for name in names:
            try:
                if self._hub.declaration(name).takes_from(identity, name):
                    yield name
            except HubError:
                pass  # which is answered in its place

    def _try(self, item: _Item | HubError, author: _Author) -> Outcome:
        try:
            return item if isinstance(item, HubError) else self._take(item, author)
        except HubError as error:
            return error
        except (ValueError, RecursionError) as error:
            return _malformed(error)

    def _take(self, item: _Item, author: _Author) -> Receipt | Waiter | None:
        """Publish one item; raises what `Hub.publish` does, and `PermissionDenied` or `AuthenticationError`."""
        hub = self._hub
        channel = hub.declaration(item.channel)
        verdict = author.verdicts.get(item.channel)
        if not channel.takes_from(hub.settle(author.identity, author.handshake), item.channel) or verdict is False:
            raise PermissionDenied(f"not allowed to publish to channel {item.channel!r}")
        if verdict is None:
            raise _Unjudged(f"whether channel {item.channel!r} takes this cannot be found out now")
        if item.deleted:
            if bytes(item.data) not in (b"", b"null"):
                raise InvalidItem("a deletion has no data")
            if channel.mode != "table" or item.key is None:
                raise InvalidItem("a deletion is for the key of a table")
            return hub.remove(item.channel, item.key)
        if not bytes(item.data):
            raise InvalidItem("an item needs data, if only null")
        check_nesting(bytes(item.data))
        if channel.schema is not None:
            return hub.submit(item.channel, self._convert(channel, item), type=item.type, key=item.key)
        key = item.key
        if key is None and channel.key is not None:
            key = find_key(channel, _only(channel.key, item.data), None)
        return hub.submit(item.channel, item.data, type=item.type, key=key)

    def _convert(self, channel: Channel, item: _Item) -> Any:
        """The data as the application itself would publish it, fields that the schema does not know left out."""
        try:
            return self._decoders[channel.name].decode(item.data)
        except msgspec.ValidationError as error:
            raise InvalidItem(f"data for channel {item.channel!r}: {clip(str(error))}") from None


def _decoder(channel: Channel) -> msgspec.json.Decoder[Any]:
    try:
        return msgspec.json.Decoder(channel.schema)
    except (TypeError, ValueError, NameError) as error:
        raise InvalidChannel(f"the schema of channel {channel.name!r} cannot be decoded: {error}") from error


def _only(field: str, data: msgspec.Raw) -> dict[str, Any]:
    """That one field of `data`, if it is an object and has it."""
    try:
        value = _fields.decode(data).get(field)
    except msgspec.ValidationError:
        return {}
    return {} if value is None else {field: msgspec.json.decode(value)}


async def _settle(outcome: Outcome) -> Receipt | HubError | None:
    if not isinstance(outcome, Waiter):
        return outcome
    try:
        return await outcome.wait()
    except JournalError:
        # What a journal says is for the operator's log: it may name hosts and files.
        return JournalError("the journal did not take the item")


def _parse(part: msgspec.Raw) -> _Item | HubError:
    try:
        return _item.decode(part)
    except (ValueError, RecursionError) as error:
        return _malformed(error)


def _malformed(error: Exception) -> InvalidItem:
    if isinstance(error, RecursionError):
        return InvalidItem("the JSON is nested too deeply")
    return InvalidItem(f"this is no item: {clip(str(error))}")


def _answer(error: HubError) -> tuple[int, str]:
    for kind, status, code in _ANSWERS:
        if isinstance(error, kind):
            return status, code
    return HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error"


def _describe(result: Receipt | HubError | None) -> dict[str, object]:
    if isinstance(result, HubError):
        return {"error": {"code": _answer(result)[1], "message": str(result)}}
    return {"epoch": result and result.epoch, "seq": result and result.seq}


def _refuse(error: HubError) -> Response:
    status, code = _answer(error)
    return error_response(status, code, str(error), (RETRY_SOON,) if status == HTTPStatus.SERVICE_UNAVAILABLE else ())
