"""The types that a channel may have as its `schema`: whatever msgspec decodes, and pydantic models in any place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec


class SchemaDecoder:
    """Decodes JSON as values of `schema`. Raises `TypeError` if msgspec cannot."""

    __slots__ = ("_decode",)

    def __init__(self, schema: Any) -> None:
        self._decode: Final[Callable[[bytes], Any]] = msgspec.json.Decoder(schema, dec_hook=_validate).decode
        for cls in _custom_types(msgspec.inspect.type_info(schema), set()):
            if not is_model(cls):
                raise TypeError(
                    f"msgspec cannot decode {_name(cls)}; use a struct, a dataclass, a TypedDict or a pydantic model"
                )

    def decode(self, data: bytes) -> Any:
        """Raises `ValueError` with the place for data that does not fit."""
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            raise ValueError(_TWO_PLACES.sub(r" - at `$\2\1`", str(error))) from None


def is_model(cls: object) -> bool:
    """Whether `cls` is a model as pydantic makes them; there is no need to import it."""
    return isinstance(cls, type) and hasattr(cls, "model_validate_json") and hasattr(cls, "model_json_schema")


# A model names the place within itself, and msgspec appends the place of the model.
_TWO_PLACES: Final = re.compile(r" - at `\$([^`]*)` - at `\$([^`]*)`\Z")


def _validate(cls: Any, value: object) -> Any:
    """The hook of the decoder: a model, by the rules that it has for JSON."""
    try:
        return cls.model_validate_json(msgspec.json.encode(value))
    except ValueError as error:
        raise ValueError(_first_fault(error)) from None


def _first_fault(error: Any) -> str:
    """The first fault that pydantic found, in one line as msgspec writes it."""
    if not hasattr(error, "errors"):
        return str(error)
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault["loc"])
    return f"{fault['msg']} - at `${place}`" if place else str(fault["msg"])


def _custom_types(info: Any, seen: set[int]) -> Iterator[Any]:
    """The classes within a type that msgspec leaves to its hook."""
    if isinstance(info, tuple):
        for each in info:
            yield from _custom_types(each, seen)
    elif isinstance(info, msgspec.inspect.CustomType):
        yield info.cls
    elif isinstance(info, msgspec.inspect.Field):
        yield from _custom_types(info.type, seen)
    elif isinstance(info, msgspec.inspect.Type) and id(info) not in seen:
        seen.add(id(info))  # a type may contain itself
        for name in info.__struct_fields__:
            yield from _custom_types(getattr(info, name), seen)


def _name(cls: Any) -> str:
    return getattr(cls, "__qualname__", None) or str(cls)
