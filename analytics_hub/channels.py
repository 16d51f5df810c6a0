"""Channels as the application declares them, and the rule for their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from .exceptions import InvalidChannel
from .identity import Identity
from .schema import SchemaDecoder

Mode = Literal["events", "table", "latest", "durable"]
MODES: Final[tuple[str, ...]] = get_args(Mode)

MAX_NAME_LENGTH: Final = 255
MEMBER_SECONDS: Final = 300.0
_NAME: Final = re.compile(r"[A-Za-z0-9._:/-]{1,255}\Z")


def check_name(name: object) -> str:
    """Return `name` if it is a valid channel name, else raise `InvalidChannel`."""
    if isinstance(name, str) and _NAME.match(name):
        return str.__str__(name)
    raise InvalidChannel(
        f"channel name {shorten(name)} is not 1 to {MAX_NAME_LENGTH} characters of A-Z a-z 0-9 . _ : / -"
    )


def shorten(value: object, limit: int = 64) -> str:
    """The `repr` of a peer's value, cut so that error messages stay short."""
    try:
        text = repr(value[: limit + 1] if isinstance(value, str) else value)
    except Exception:  # noqa: BLE001 - an integer of thousands of digits, or a `__repr__` of the application
        text = (
            "a number of thousands of digits" if isinstance(value, int) else f"a value of type {type(value).__name__}"
        )
    return text if len(text) <= limit + 2 else f"{text[:limit]}...'"


def clip(message: str, limit: int = 256) -> str:
    """A message that quotes a peer, cut for the same reason."""
    return message if len(message) <= limit else f"{message[:limit]}..."


def matches(pattern: str, name: str) -> bool:
    """Whether `name` is `pattern`, or a member of it where it ends in `*`."""
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return name == pattern


@dataclass(frozen=True, slots=True)
class Channel:
    """One declared channel; if its `name` ends in `*`, a pattern with members that are created at first use.

    `key` names the field of `data` that keys a `table`. `type` is the default type of its items. `roles` are those that
    may subscribe, None for all clients; `publishers` those that may publish over the network, by default none: the
    application itself always may. `schema` is the type of its `data`, any type that msgspec can decode, such as a
    struct, or a pydantic model: data from the network is checked against it, and the AsyncAPI document describes it.
    `max_keys` bounds a `table`. `keep_items`, `keep_bytes` and `keep_seconds` bound the history in memory of `events`
    and `durable` channels (`last`, `snapshot`, `since`); None is the hub's `burst`. `keep_seconds` is also how long a
    member of a pattern is kept without subscribers.
    """

    name: str
    mode: Mode = "events"
    key: str | None = None
    type: str | None = None
    roles: frozenset[str] | None = None
    publishers: frozenset[str] = frozenset()
    schema: Any = None
    max_keys: int = 10_000
    keep_items: int | None = None
    keep_bytes: int | None = None
    keep_seconds: float | None = None

    def __post_init__(self) -> None:
        check_name(self.name.removesuffix("*") or "*" if self.name != "*" else "a")
        object.__setattr__(self, "name", str.__str__(self.name))
        if self.mode not in MODES:
            raise InvalidChannel(f"channel {self.name!r} has mode {self.mode!r}; the modes are {', '.join(MODES)}")
        if self.key is not None and self.mode != "table":
            raise InvalidChannel(
                f"channel {self.name!r} has the key {self.key!r}; only a channel of mode 'table' has keys"
            )
        if self.key is not None:
            if not isinstance(self.key, str) or not self.key:
                raise InvalidChannel(f"key of channel {self.name!r} is {shorten(self.key)}; it must be a field's name")
            object.__setattr__(self, "key", check_text("key", self.key))
        for field in ("roles", "publishers"):
            names = getattr(self, field)
            if isinstance(names, str):
                raise InvalidChannel(f"{field} of channel {self.name!r} must be a set of names, not the text {names!r}")
            if names is not None:
                object.__setattr__(self, field, frozenset(names))
        if self.type is not None:
            object.__setattr__(self, "type", check_type(self.type))
        if self.schema is not None:
            self.new_decoder()
        for field, least in (("max_keys", 1), ("keep_items", 1), ("keep_bytes", 1), ("keep_seconds", 0)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise InvalidChannel(f"{field} of channel {self.name!r} is {value!r}; it must be at least {least}")

    def new_decoder(self) -> SchemaDecoder:
        """Decodes JSON as `schema`. Raises `InvalidChannel` if msgspec cannot do that, so the constructor calls it."""
        try:
            return SchemaDecoder(self.schema)
        except Exception as error:  # also of annotations, which are code of the application
            reason = clip(str(error) if isinstance(error, TypeError | ValueError | NameError) else repr(error))
            raise InvalidChannel(f"the schema of channel {self.name!r} cannot be decoded: {reason}") from error

    @property
    def member_seconds(self) -> float:
        """How long a member of a pattern is kept without subscribers and publications."""
        return MEMBER_SECONDS if self.keep_seconds is None else self.keep_seconds

    @property
    def is_pattern(self) -> bool:
        return self.name.endswith("*")

    def admits(self, identity: Identity, name: str) -> bool:
        """Whether `identity` may subscribe to `name`, this channel or a member of it."""
        if self.roles is not None and not (self.roles & identity.roles):
            return False
        return self._is_in_reach(identity, name)

    def takes_from(self, identity: Identity, name: str) -> bool:
        """Whether `identity` may publish over the network to `name`, this channel or a member of it."""
        return bool(self.publishers & identity.roles) and self._is_in_reach(identity, name)

    @staticmethod
    def _is_in_reach(identity: Identity, name: str) -> bool:
        return identity.channels is None or any(matches(pattern, name) for pattern in identity.channels)


def check_type(type_: object) -> str:
    """Return `type_` if an item may have it, else raise `InvalidChannel`."""
    if isinstance(type_, str) and type_ and not type_.startswith("$"):
        return check_text("type", type_)
    raise InvalidChannel(f"type {shorten(type_)} must be a text that is not empty and does not start with $")


def check_text(what: str, text: str) -> str:
    """Return `text`, without its subclass, if it can be encoded, else raise `InvalidChannel`."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidChannel(
                f"{what} {shorten(text)} must be a text that UTF-8 can encode; a lone surrogate is not"
            ) from None
    return text if text.__class__ is str else str.__str__(text)
