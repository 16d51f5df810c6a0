"""A record of what an application publishes, whether its hub runs or not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from ..hub import Hub
from ..protocol.items import check_key, check_mode, find_key, find_type

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANY: Final[Any] = object()


class PublishedItem(NamedTuple):
    """One item, with its data as subscribers see it; `type` is None if it is the channel's own."""

    channel: str
    data: Any
    type: str | None = None
    key: str | None = None
    is_deleted: bool = False


class Published:
    """What was published, by any thread and over HTTP, in order."""

    def __init__(self, encode: Callable[[object], bytes]) -> None:
        self._encode = encode
        self.items: list[PublishedItem] = []

    def on(self, channel: str) -> list[PublishedItem]:
        """The items of one channel."""
        return [item for item in self.items if item.channel == channel]

    def clear(self) -> None:
        """Forget what was published so far."""
        self.items.clear()

    def assert_published(
        self, channel: str, data: Any = _ANY, *, type: Any = _ANY, key: Any = _ANY, count: int | None = None
    ) -> list[PublishedItem]:
        """The items of a channel with these properties; raises `AssertionError` unless there are `count`, or any.

        `data` is compared as subscribers see it: a dataclass equals the dict that they receive.
        """
        expected = data if data is _ANY else msgspec.json.decode(self._encode(data))
        found = [
            item
            for item in self.on(channel)
            if expected in (_ANY, item.data) and type in (_ANY, item.type) and key in (_ANY, item.key)
        ]
        if not found if count is None else len(found) != count:
            given = {name: value for name, value in (("data", data), ("type", type), ("key", key)) if value is not _ANY}
            listing = "".join(f"\n  {item!r}" for item in self.items) or " nothing"
            raise AssertionError(
                f"{len(found)} items were published to {channel!r} with {given!r}; expected "
                f"{'at least 1' if count is None else count}. Published in all:{listing}"
            )
        return found

    def assert_not_published(self, channel: str | None = None) -> None:
        """Raise `AssertionError` if anything was published to the channel, or at all."""
        found = self.items if channel is None else self.on(channel)
        if found:
            raise AssertionError(f"published: {found!r}; expected nothing")


@contextmanager
def record(hub: Hub) -> Iterator[Published]:
    """Record what is published to `hub`. Where the hub does not run, that is no error, and nothing is sent."""
    published = Published(hub._encoder.encode)
    recorder = _Recorder(hub, published)
    gateway: Any = hub.gateway
    places: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
        (hub, "publish", recorder.publish),
        (hub, "delete", recorder.delete),
        (gateway, "submit", recorder.submit),  # what is confirmed, and what comes over HTTP
        (gateway, "remove", recorder.remove),
    )
    before = [vars(owner).get(name) for owner, name, _ in places]  # of a recording around this one
    for owner, name, function in places:
        setattr(owner, name, function)
    try:
        yield published
    finally:
        for (owner, name, _), function_before in zip(places, before, strict=True):
            if function_before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, function_before)


class _Recorder:
    """Stands in for the methods of a hub: calls them where the hub runs, checks what they would check elsewhere."""

    def __init__(self, hub: Hub, published: Published) -> None:
        self._hub = hub
        self._items = published.items
        self._publish, self._delete = hub.publish, hub.delete
        self._submit, self._remove = hub.gateway.submit, hub.gateway.remove
        self._is_nested = "publish" in vars(hub)
        """What is called is a recorder, too."""

    def publish(
        self, channel: str, data: object, *, type: str | None = None, key: str | None = None, **options: Any
    ) -> None:
        item = self._make(channel, data, type, key)
        if self._hub.is_open or self._is_nested:
            self._publish(channel, data, type=type, key=key, **options)
        self._items.append(item)

    def delete(self, channel: str, key: str) -> None:
        self._hub.gateway.declaration(channel)
        item = PublishedItem(channel, None, key=check_key(key, self._hub._encoder), is_deleted=True)
        if self._hub.is_open or self._is_nested:
            self._delete(channel, key)
        self._items.append(item)

    def submit(
        self, channel: str, data: object, *, type: str | None = None, key: str | None = None, **options: Any
    ) -> Any:
        submitted = self._submit(channel, data, type=type, key=key, **options)
        self._items.append(self._make(channel, data, type, key))
        return submitted

    def remove(self, channel: str, key: str) -> Any:
        receipt = self._remove(channel, key)
        self._items.append(PublishedItem(channel, None, key=key, is_deleted=True))
        return receipt

    def _make(self, channel: str, data: object, type: str | None, key: str | None) -> PublishedItem:
        encoder = self._hub._encoder
        body = encoder.encode(data)
        declared = self._hub.gateway.declaration(channel)
        item = PublishedItem(
            channel,
            msgspec.json.decode(body),
            find_type(declared, data, type),
            find_key(declared, data, key, body, encoder),
        )
        check_mode(declared, channel, item.key)
        return item
