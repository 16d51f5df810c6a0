"""JSON Schemas of commands and items, generated from the declared types.

They are draft 7, the dialect that AsyncAPI and most code generators share.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from ..channels import MAX_NAME_LENGTH, Channel
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
    """Schemas of commands and items, and the `components` that they refer to.

    `accepted` is what may be published over HTTP. It differs from `data` where a model of pydantic accepts other values
    than those that it shows.
    """

    data: Sequence[Schema]
    accepted: Sequence[Schema]
    commands: dict[str, Schema]
    controls: dict[str, Schema]
    components: dict[str, Schema]
    template: str

    @classmethod
    def of(cls, channels: Iterable[Channel], template: str) -> Types:
        commands, controls = get_args(Command), get_args(ControlItem)
        found, definitions = msgspec.json.schema_components([*commands, *controls], ref_template=template)
        components = Components({name: _draft7(schema) for name, schema in definitions.items()}, template)
        schemas = [_draft7(schema) for schema in found]
        declared = [channel.schema for channel in channels]
        return cls(
            [components.describe(schema, "serialization") for schema in declared],
            [components.describe(schema, "validation") for schema in declared],
            dict(zip(map(_tag, commands), schemas, strict=False)),
            dict(zip(map(_tag, controls), schemas[len(commands) :], strict=True)),
            components.schemas,
            template,
        )

    def complete(self, title: str, alternatives: Sequence[Schema]) -> Schema:
        """One schema with all definitions that it refers to."""
        needed: dict[str, Schema] = {}
        names = _references(alternatives, self.template)
        while names:
            name = names.pop()
            if name in self.components and name not in needed:
                needed[name] = self.components[name]
                names |= _references(needed[name], self.template)
        content = alternatives[0] if len(alternatives) == 1 else {"oneOf": alternatives}
        return {
            "$schema": DIALECT,
            "title": title,
            **content,
            "definitions": {name: self.components[name] for name in self.components if name in needed},
        }


_UNKNOWN: Final[Schema] = {"description": "Any value: the schema of this channel cannot be expressed."}

Mode = Literal["serialization", "validation"]
"""Whether a model of pydantic describes what it shows, or what it accepts."""


class Components:
    """Named schemas, to which those of channels are added under names that are still free."""

    def __init__(self, schemas: dict[str, Schema], template: str) -> None:
        self.schemas: Final = schemas
        self._template: Final = template

    def describe(self, type_: Any, mode: Mode) -> Schema:
        """The schema of a channel's data. Never raises: a type that can be decoded need not have a schema.

        Each type is described by itself, so that no channel depends on the others.
        """
        if type_ is None:
            return {}
        try:
            schema, definitions = self._generate(type_, mode)
            schema, definitions = as_json({"schema": _draft7(schema), "definitions": definitions}).values()
        except Exception:  # noqa: BLE001 - defaults, docstrings and models are the application's
            return dict(_UNKNOWN)
        return self._add(schema, definitions)

    def _generate(self, type_: Any, mode: Mode) -> tuple[Schema, dict[str, Schema]]:
        """The schema and what it refers to, with the names that msgspec and pydantic have given."""
        models: list[Any] = []

        def refer(cls: Any) -> Schema:
            if cls not in models:
                models.append(cls)
            return {"$ref": _MODEL.format(name=models.index(cls))}

        (schema,), found = msgspec.json.schema_components([type_], schema_hook=refer, ref_template=self._template)
        inner = Components({name: _draft7(each) for name, each in found.items()}, self._template)
        names: dict[str, str] = {}
        template = self._template.format(name="{model}")  # as pydantic writes it
        for index, model in enumerate(models):
            root = model.model_json_schema(mode=mode, ref_template=template)
            definitions = {name: _draft7(each) for name, each in root.pop("$defs", {}).items()}
            root = _draft7(root)
            name = re.sub(r"[^A-Za-z0-9._]+", "-", model.__name__)
            if self._name_of(root) not in definitions:  # a model that contains itself is a definition already
                while name in definitions:
                    name += "-root"
                definitions[name], root = root, {"$ref": self._template.format(name=name)}
            names[_MODEL.format(name=index)] = inner._add(root, definitions)["$ref"]
        return _replace(schema, names), {name: _replace(each, names) for name, each in inner.schemas.items()}

    def _name_of(self, schema: Schema) -> str | None:
        start, end = self._template.split("{name}")
        ref = schema.get("$ref", "")
        return ref[len(start) : len(ref) - len(end)] if set(schema) == {"$ref"} else None

    def _add(self, schema: Schema, definitions: dict[str, Schema]) -> Schema:
        """Add `definitions`, and return `schema` with references to the names that they have got."""
        names = {name: name for name in definitions}
        numbers = dict.fromkeys(definitions, 1)
        while True:
            refs = {self._template.format(name=old): self._template.format(name=new) for old, new in names.items()}
            renamed = {names[name]: _replace(each, refs) for name, each in definitions.items()}
            taken = [old for old, new in names.items() if self.schemas.get(new, renamed[new]) != renamed[new]]
            taken += [old for old, new in names.items() if old != new and new in definitions]
            if not taken:
                break
            for name in taken:
                numbers[name] += 1
                names[name] = f"{name}-{numbers[name]}"
        self.schemas.update(renamed)
        found: Schema = _replace(schema, refs)
        return found


_MODEL: Final = "#model/{name}"


def _replace(schema: Any, refs: Mapping[str, str]) -> Any:
    """A copy with other references."""
    if isinstance(schema, list):
        return [_replace(each, refs) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: refs.get(value, value) if name == "$ref" and isinstance(value, str) else _replace(value, refs)
        for name, value in schema.items()
    }


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
