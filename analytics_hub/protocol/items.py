"""Encodes and checks published data, in the frame of the caller: errors raise there, later changes have no effect."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from ..channels import MAX_NAME_LENGTH, Channel, check_type, shorten
from ..exceptions import InvalidChannel, InvalidItem
from .control_items import Timestamps, encode

MAX_NESTING: Final = 60
"""Levels of arrays and objects that remote clients may publish. Together with the item and the frame they can be read
by .NET, which stops at 64. Python's limit depends on the caller, so a reader could fail where the hub has not."""

_timestamps: Final = Timestamps()
_NO_TAG: Final = ""
_tags: dict[type, str] = {}
_attributes: dict[tuple[type, str], str] = {}


def encode_data(data: object) -> bytes:
    """`data` as JSON: whatever msgspec encodes, `msgspec.Raw` for JSON that is encoded already.

    Raw JSON is decoded, so that every client can read it, and put on one line, because some transports separate frames
    by lines. Raw values within `data` are not checked; that is left to the caller.
    """
    try:
        if isinstance(data, msgspec.Raw):
            return _check_raw(bytes(data))
        return encode(data)
    except RecursionError:
        raise InvalidItem(f"data of type {type(data).__name__} is nested too deeply or contains itself") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidItem(f"data of type {type(data).__name__} cannot be encoded as JSON: {error}") from error


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


_read: Final = msgspec.json.Decoder().decode


def _check_raw(data: bytes) -> bytes:
    _read(data)  # `format` accepts invalid UTF-8, and numbers that exceed a double
    return bytes(msgspec.json.format(data, indent=-1))


def find_type(channel: Channel, data: object, given: str | None) -> str | None:
    """The type of an item: the one given, the channel's, or the struct's tag; None leaves it to the channel's name."""
    if given is not None:
        try:
            check_type(given)
        except InvalidChannel as error:
            raise InvalidItem(str(error)) from None
        if not given.isascii():
            _check_text("type", given)
        return given
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


def find_key(channel: Channel, data: object, given: str | None) -> str | None:
    """The key of an item: the one given, or the field that the channel names."""
    if given is not None:
        return check_key(given)
    if channel.key is None:
        return None
    try:
        value = data[channel.key] if isinstance(data, Mapping) else getattr(data, _attribute(data, channel.key))
    except (KeyError, AttributeError):
        raise InvalidItem(
            f"data for channel {channel.name!r} has no field {channel.key!r} to take its key from"
        ) from None
    return check_key(value)


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


def check_key(key: object) -> str:
    """Return `key` if an item may have it, else raise `InvalidItem`."""
    if isinstance(key, str) and 0 < len(key) <= MAX_NAME_LENGTH:
        if not key.isascii():
            _check_text("key", key)
        return key
    raise InvalidItem(f"key {shorten(key)} must be a text of 1 to {MAX_NAME_LENGTH} characters")


def _check_text(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidItem(
            f"{what} {shorten(text)} must be a text that UTF-8 can encode; a lone surrogate is not"
        ) from None


def _attribute(data: object, field: str) -> str:
    """The attribute behind a field's name on the wire: a struct may rename `lp_name` to `lpName`."""
    cls = data.__class__
    found = _attributes.get((cls, field))
    if found is None:
        found = field
        if isinstance(data, msgspec.Struct):
            names = {info.encode_name: info.name for info in msgspec.structs.fields(data)}
            found = names.get(field, field)
        _attributes[cls, field] = found
    return found
