"""The AsyncAPI 3 document of a hub: a pure function over its channels.

Roles are left out: they would show an attacker which role is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from ..channels import Channel
from .schemas import Schema, Types, as_json, identify, items, publications

ASYNCAPI_VERSION: Final = "3.1.0"

_CONNECTION: Final = "connection"
_PUBLISH: Final = "publish:"  # the names of `identify` have no colon
_ANSWERS: Final = {
    "subscribe": "subscribed",
    "unsubscribe": "unsubscribed",
    "auth": "authenticated",
    "ping": "pong",
}
_MODES: Final = {
    "events": "Every item; a slow client loses the oldest, as `$gap` reports.",
    "table": "The last item of every key; a slow client skips what is superseded.",
    "latest": "The last item; a slow client skips what is superseded.",
    "durable": "Every item, from a journal; a client that comes back in time loses nothing.",
}
_ABOUT: Final = (
    "Server frames are JSON arrays of items: data items of the subscribed channels, and control items, which have a "
    "`type` that starts with `$`. Ignore control items of an unknown type. A client frame is one command or an array "
    "of them."
)
_SECURITY: Final[dict[str, Schema]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token in the header `Authorization` of the handshake. Browsers cannot set it: they offer "
        "the subprotocols `analytics-hub.v1.json` and `bearer.<token>`, or send the command `auth` first.",
    },
    "query": {"type": "httpApiKey", "name": "token", "in": "query", "description": "The token in the URL."},
}


def describe(
    channels: Iterable[Channel],
    *,
    title: str = "Analytics hub",
    version: str = "1.0.0",
    server_url: str | None = None,
) -> Schema:
    """The AsyncAPI document of a hub with these channels; `title` and `version` are those of the application's API.

    `server_url` is where clients connect, such as `wss://example.org/ws/analytics`; an invalid one raises `ValueError`.
    A schema that can be decoded and not described is shown as any value.
    """
    named = identify(channels)
    types = Types.of(named.values(), "#/components/schemas/{name}")
    document: Schema = {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {"title": title, "version": version, "description": _ABOUT},
        "defaultContentType": "application/json",
    }
    if server_url is not None:
        document["servers"] = {"hub": _server(server_url)}
    document["channels"] = described = {_CONNECTION: _connection(types)}
    document["operations"] = operations = _commands(types)
    for (id, channel), data, accepted in zip(named.items(), types.data, types.accepted, strict=True):
        described[id] = _channel(channel, data)
        operations[f"deliver-{id}"] = _operation("send", id, described[id]["messages"])
        if channel.publishers:
            described[_PUBLISH + id] = _publishing(channel, accepted)
            operations[f"publish-{id}"] = _operation("receive", _PUBLISH + id, described[_PUBLISH + id]["messages"])
    document["components"] = {"schemas": types.components, "securitySchemes": _SECURITY}
    return as_json(document)


def _server(url: str) -> Schema:
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
        raise ValueError(f"server_url is {url!r}; it must be like ws://localhost:7999 or wss://host/ws/analytics")
    return {
        "host": parts.netloc.rpartition("@")[2],
        **({"pathname": parts.path} if parts.path else {}),
        "protocol": parts.scheme,
        "description": "WebSocket with the subprotocol `analytics-hub.v1.json` or none; `analytics-hub.v1.msgpack` "
        "is the same in MessagePack.",
        "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in _SECURITY],
    }


def _connection(types: Types) -> Schema:
    return {
        "address": None,
        "title": "The connection",
        "description": "Commands of the client, and control items of the hub.",
        "messages": {
            name: {"name": name, "title": title, "payload": payload}
            for shapes, title in ((types.commands, "Command"), (types.controls, "Control item"))
            for name, payload in shapes.items()
        },
    }


def _channel(channel: Channel, data: Schema) -> Schema:
    described: Schema = {
        "address": channel.name.replace("*", "{member}"),
        "title": channel.name,
        "description": _MODES[channel.mode],
    }
    if channel.is_pattern:
        described["parameters"] = {"member": {"description": "The rest of the name of a channel."}}
    described["messages"] = _named(items(channel, data))
    described["x-mode"] = channel.mode
    if channel.key is not None:
        described["x-key"] = channel.key
    return described


def _publishing(channel: Channel, data: Schema) -> Schema:
    """Publishing to a channel over HTTP, at an address that all channels share."""
    return {
        "address": "/publish",
        "title": f"Publishing to {channel.name}",
        "description": "By HTTP POST: one of these messages, or an array of them, answered with receipts.",
        "messages": _named(publications(channel, data)),
    }


def _named(payloads: dict[str, Schema]) -> Schema:
    return {name: {"name": name, "title": payload["title"], "payload": payload} for name, payload in payloads.items()}


def _commands(types: Types) -> dict[str, Schema]:
    operations = {name: _operation("receive", _CONNECTION, [name]) for name in types.commands}
    for name, answer in _ANSWERS.items():
        operations[name]["reply"] = {
            "channel": {"$ref": f"#/channels/{_CONNECTION}"},
            "messages": _messages(_CONNECTION, [answer, "error"]),
        }
    unsolicited = [name for name in types.controls if name not in _ANSWERS.values()]
    return operations | {"control": _operation("send", _CONNECTION, unsolicited)}


def _operation(action: str, channel: str, messages: Iterable[str]) -> Schema:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "messages": _messages(channel, messages)}


def _messages(channel: str, names: Iterable[str]) -> list[Schema]:
    return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]
