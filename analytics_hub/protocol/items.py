"""Checks published items, in the frame of the caller: errors raise there, later changes have no effect."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from ..channels import MAX_NAME_LENGTH, Channel, check_text, check_type, shorten
from ..exceptions import InvalidChannel, InvalidItem
from .control_items import Timestamps
from .encoding import PayloadEncoder

MAX_NESTING: Final = 60
"""Levels of arrays and objects that remote clients may publish. Together with the item and the frame they can be read
by .NET, which stops at 64. Python's limit depends on the caller, so a reader could fail where the hub has not."""

_timestamps: Final = Timestamps()
_NO_TAG: Final = ""
_tags: dict[type, str] = {}
_attributes: dict[tuple[type, str], str | None] = {}

_ENCODER: Final = PayloadEncoder()
encode_data: Final = _ENCODER.encode
"""Encodes the payloads of a hub without a function of the application."""

_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def check_nesting(data: bytes) -> None:
    """Raise `InvalidItem` if JSON is nested deeper than `MAX_NESTING`; 0.6 µs for small items, 15 µs/KB for large."""
    if data.count(b"[") + data.count(b"{") <= MAX_NESTING:
        return
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(data.split(b'"')[::2]).translate(_ALIKE, _NO_BRACKETS)
    for _ in range(MAX_NESTING):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
        if not brackets:
            return
    raise InvalidItem(f"the data is nested too deeply; it must have at most {MAX_NESTING} levels")


def find_type(channel: Channel, data: object, given: str | None) -> str | None:
    """The type of an item: the one given, the channel's, or the struct's tag; None leaves it to the channel's name."""
    if given is not None:
        try:
            return check_type(given)
        except InvalidChannel as error:
            raise InvalidItem(str(error)) from None
    if channel.type is not None:
        return None
    cls = data.__class__
    tag = _tags.get(cls)
    if tag is None:
        tag = _tags[cls] = _tag_of(cls)
    return tag or None


def _tag_of(cls: type) -> str:
    config = getattr(cls, "__struct_config__", None)
    tag = getattr(config, "tag", None)
    return tag if isinstance(tag, str) and not tag.startswith("$") else _NO_TAG


def find_key(
    channel: Channel, data: object, given: object, body: bytes, encoder: PayloadEncoder = _ENCODER
) -> str | None:
    """The key of an item: the one given, or the field that the channel names; `body` is the encoded `data`."""
    if given is not None:
        return check_key(given, encoder)
    if channel.key is None:
        return None
    try:
        if isinstance(data, Mapping):
            value = data[channel.key]
        elif (attribute := _attribute(data, channel.key)) is not None:
            value = getattr(data, attribute)
        else:
            value = msgspec.json.decode(_fields.decode(body)[channel.key])
    except (KeyError, AttributeError, msgspec.DecodeError):
        raise InvalidItem(
            f"data for channel {channel.name!r} has no field {channel.key!r} to take its key from"
        ) from None
    return check_key(value, encoder)


_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def format_timestamp(timestamp: object) -> str:
    """The time of an item on the wire (RFC 3339), given as an aware datetime or in Unix seconds."""
    try:
        if isinstance(timestamp, datetime):
            if timestamp.tzinfo is not None:
                return _timestamps.format(timestamp.timestamp())
        elif isinstance(timestamp, (int, float)) and not isinstance(timestamp, bool):
            return _timestamps.format(timestamp)
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        pass
    raise InvalidItem(f"timestamp is {shorten(timestamp)}; it must be an aware datetime or Unix seconds")


def check_mode(channel: Channel, name: str, key: str | None) -> None:
    """Raise the error that a member of a pattern, which does not exist yet, would raise for this key."""
    if channel.mode == "table" and key is None:
        raise InvalidItem(f"channel {name!r} is a table: an item needs a key, a text that is not empty")
    if channel.mode != "table" and key is not None:
        raise InvalidItem(f"key {key!r} on channel {name!r}; channels of mode {channel.mode!r} have no keys")


def check_key(key: object, encoder: PayloadEncoder = _ENCODER) -> str:
    """The text of `key`, if an item may have it, else raise `InvalidItem`."""
    if type(key) is str and key.isascii() and 0 < len(key) <= MAX_NAME_LENGTH:
        return key
    text = encoder.encode_key(key)
    if not text.isascii():
        try:
            check_text("key", text)
        except InvalidChannel as error:
            raise InvalidItem(str(error)) from None
    return text


def _attribute(data: object, field: str) -> str | None:
    """The attribute behind a field's name on the wire: a struct may rename `lp_name` to `lpName`.

    None where attributes need not be those that are encoded, such as for a model of pydantic: JSON shows the field.
    """
    cls: Any = data.__class__
    try:
        return _attributes[cls, field]
    except KeyError:
        pass
    found = None
    if isinstance(data, msgspec.Struct):
        found = dict(zip(cls.__struct_encode_fields__, cls.__struct_fields__, strict=True)).get(field, field)
    elif hasattr(cls, "__dataclass_fields__") or hasattr(cls, "__attrs_attrs__") or isinstance(data, tuple):
        found = field
    _attributes[cls, field] = found
    return found
