"""The channels that a hub declares, from its AsyncAPI document."""

from __future__ import annotations

import msgspec

from .exceptions import RequestFailed
from .requests import HubRequests, refusal


class _Channel(msgspec.Struct):
    title: str = ""
    mode: str | None = msgspec.field(default=None, name="x-mode")
    """Only the channels of the hub have one, not the descriptions of its connection and its publishing."""


class _Document(msgspec.Struct):
    channels: dict[str, _Channel]


_decoder = msgspec.json.Decoder(_Document)


def fetch_channels(requests: HubRequests) -> list[str]:
    """The names of the channels and, ending in `*`, of the patterns.

    Raises `RequestFailed`, and `TokenRefused` or another `HubError` if the hub refuses.
    """
    answer = requests.send("GET", "/asyncapi.json")
    if answer.status != 200:
        raise refusal(answer)
    try:
        channels = _decoder.decode(answer.body).channels.values()
    except (ValueError, RecursionError):
        message = "the answer is not that of an analytics hub"
        raise RequestFailed(message, is_uncertain=False, is_transient=False) from None
    return [channel.title for channel in channels if channel.mode is not None]
