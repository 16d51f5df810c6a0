"""JSON Schemas of commands and items, generated from the declared types.

They are draft 7, the dialect that AsyncAPI and most code generators share.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, get_args

import msgspec

from ..channels import MAX_NAME_LENGTH, Channel
from ..exceptions import InvalidChannel
from ..protocol import MAX_SEQ, Command
from ..protocol.control_items import ControlItem, Timestamp

DIALECT: Final = "http://json-schema.org/draft-07/schema#"

RESERVED: Final = ("connection", "commands", "control")
"""Names that channels must not have."""

Schema = dict[str, Any]

_TYPE: Final[Schema] = {"type": "string", "pattern": "^[^$]"}
_KEY: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}


def json_schemas(channels: Iterable[Channel]) -> dict[str, Schema]:
    """One schema each for the items of every channel, for `commands` and for `control` items, by a short name."""
    named = identify(channels)
    types = Types.of(named.values(), "#/definitions/{name}")
    schemas = {
        "commands": types.complete("command", list(types.commands.values())),
        "control": types.complete("control item", list(types.controls.values())),
    }
    for (id, channel), data in zip(named.items(), types.data, strict=True):
        schemas[id] = types.complete(channel.name, list(items(channel, data).values()))
    return as_json(schemas)


def as_json(document: Schema) -> Schema:
    """The document in plain JSON values: defaults and names of enums may be of any type of the application."""
    pure: Schema = msgspec.json.decode(msgspec.json.encode(document))
    return pure


def identify(channels: Iterable[Channel]) -> dict[str, Channel]:
    """Each channel with a name that is valid in a reference and as a file name: `user:*` is `user-member`."""
    named: dict[str, Channel] = {}
    for channel in channels:
        slug = re.sub(r"[^A-Za-z0-9._]+", "-", channel.name.replace("*", "-member")).strip("-.") or "channel"
        id, count = slug, 2
        while id in named or id in RESERVED:
            id, count = f"{slug}-{count}", count + 1
        named[id] = channel
    return named


class Types(NamedTuple):
    """Schemas of commands and items, and the `components` that they refer to."""

    data: Sequence[Schema]
    commands: dict[str, Schema]
    controls: dict[str, Schema]
    components: dict[str, Schema]
    template: str

    @classmethod
    def of(cls, channels: Iterable[Channel], template: str) -> Types:
        declared = [_described(channel) for channel in channels]
        commands, controls = get_args(Command), get_args(ControlItem)
        found, components = msgspec.json.schema_components([*declared, *commands, *controls], ref_template=template)
        schemas = [_draft7(schema) for schema in found]
        data, rest = schemas[: len(declared)], schemas[len(declared) :]
        return cls(
            data,
            dict(zip(map(_tag, commands), rest, strict=False)),
            dict(zip(map(_tag, controls), rest[len(commands) :], strict=True)),
            {name: _draft7(schema) for name, schema in components.items()},
            template,
        )

    def complete(self, title: str, alternatives: Sequence[Schema]) -> Schema:
        """One schema with all definitions that it refers to."""
        needed: dict[str, Schema] = {}
        names = _references(alternatives, self.template)
        while names:
            name = names.pop()
            if name not in needed:
                needed[name] = self.components[name]
                names |= _references(needed[name], self.template)
        content = alternatives[0] if len(alternatives) == 1 else {"oneOf": alternatives}
        return {
            "$schema": DIALECT,
            "title": title,
            **content,
            "definitions": {name: self.components[name] for name in self.components if name in needed},
        }


def _described(channel: Channel) -> Any:
    """The type of a channel's data, if msgspec can describe it."""
    if channel.schema is None:
        return Any
    try:
        msgspec.json.schema(channel.schema)
    except (TypeError, ValueError, NameError, AttributeError) as error:
        reason = str(error).splitlines()[-1]
        raise InvalidChannel(f"the schema of channel {channel.name!r} cannot be described: {reason}") from error
    return channel.schema


def _tag(command_or_item: type[msgspec.Struct]) -> str:
    return str(command_or_item.__struct_config__.tag).removeprefix("$")


def _references(schema: object, template: str) -> set[str]:
    start = template.format(name="")
    text = msgspec.json.encode(schema).decode()
    return set(re.findall(rf'"\$ref":"{re.escape(start)}([^"]*)"', text))


# --- from msgspec's dialect to draft 7 -------------------------------------------------------------------------------

_SCHEMA: Final = frozenset({"items", "additionalProperties", "additionalItems", "propertyNames", "contains", "not"})
_SCHEMAS: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_NAMED_SCHEMAS: Final = frozenset({"properties", "patternProperties"})


def _draft7(schema: Any) -> Any:
    """The schema in draft 7: tuples have another form there, and keywords beside a `$ref` are ignored.

    `discriminator` is removed: msgspec writes that of OpenAPI, the one of AsyncAPI names components, and the tags are
    in the alternatives anyway. Docstrings lose their indentation, as newer versions of Python do it themselves.
    """
    if not isinstance(schema, dict):
        return schema
    changed: Schema = {}
    for name, value in schema.items():
        if name in _SCHEMA:
            changed[name] = _draft7(value)
        elif name in _SCHEMAS:
            changed[name] = [_draft7(each) for each in value]
        elif name in _NAMED_SCHEMAS:
            changed[name] = {key: _draft7(each) for key, each in value.items()}
        elif name == "description":
            changed[name] = inspect.cleandoc(value)
        elif name != "discriminator":
            changed[name] = value
    if "prefixItems" in changed:
        if "items" in changed:
            changed["additionalItems"] = changed.pop("items")
        if places := changed.pop("prefixItems"):
            changed["items"] = places
    if "$ref" in changed and len(changed) > 1:
        changed["allOf"] = [*changed.get("allOf", ()), {"$ref": changed.pop("$ref")}]
    return changed


# --- items -----------------------------------------------------------------------------------------------------------


def items(channel: Channel, data: Schema) -> dict[str, Schema]:
    """The items of a channel (`docs/protocol.md` §2), and its deletions if it has keys."""
    head = {
        "channel": _name(channel),
        "seq": {"type": "integer", "minimum": 1, "maximum": MAX_SEQ},
        "type": _TYPE if channel.type is None else {**_TYPE, "default": channel.type},
        "timestamp": msgspec.json.schema(Timestamp),
    }
    if channel.mode != "table":
        return {"item": _object(f"{channel.name} item", head | {"data": data})}
    head["key"] = _KEY
    return {
        "item": _object(f"{channel.name} item", head | {"data": data}, {"deleted": {"const": False}}),
        "deletion": _object(f"{channel.name} deletion", head | {"data": {"type": "null"}, "deleted": {"const": True}}),
    }


def publications(channel: Channel, data: Schema) -> dict[str, Schema]:
    """The messages that publish to a channel over HTTP."""
    item = {"channel": _name(channel), "data": data}
    if channel.mode != "table":
        return {"item": _object(f"publish to {channel.name}", item, {"type": _TYPE}, is_closed=True)}
    needed, optional = ({}, {"key": _KEY}) if channel.key else ({"key": _KEY}, {})
    removed = {"channel": _name(channel), "key": _KEY, "deleted": {"const": True}}
    return {
        "item": _object(
            f"publish to {channel.name}",
            item | needed,
            optional | {"type": _TYPE, "deleted": {"const": False}},
            is_closed=True,
        ),
        "deletion": _object(f"remove from {channel.name}", removed, {"data": {"type": "null"}}, is_closed=True),
    }


def _name(channel: Channel) -> Schema:
    if not channel.is_pattern:
        return {"const": channel.name}
    return {"type": "string", "pattern": "^" + channel.name[:-1].replace(".", r"\.")}


def _object(title: str, required: Schema, optional: Schema | None = None, *, is_closed: bool = False) -> Schema:
    schema = {
        "title": title,
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
    }
    return schema | {"additionalProperties": False} if is_closed else schema
