"""Payloads as JSON: what msgspec encodes, and the other values that applications have (`docs/payloads.md`).

msgspec encodes what it knows, and calls a hook for the rest. The hook recognizes values by their attributes, so that
no library has to be imported for its types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from dataclasses import fields
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from operator import attrgetter, methodcaller
from typing import Any, Final

import msgspec
from msgspec import Raw

from ..channels import MAX_NAME_LENGTH, clip, shorten
from ..exceptions import InvalidItem

Encode = Callable[[Any], object]
"""Converts a value of a type that is not known otherwise."""

_MAX_PATH: Final = 100
_MAX_STEPS: Final = 1000


class PayloadEncoder:
    """Encodes payloads. `convert`, if given, is called with each value that is not known otherwise.

    It returns a value that is known, or raises an exception, which becomes the reason of an `InvalidItem`.
    """

    __slots__ = ("_convert_unknown", "_encode")

    def __init__(self, convert: Encode | None = None) -> None:
        self._convert_unknown = convert
        self._encode = msgspec.json.Encoder(enc_hook=self._convert).encode

    def encode(self, data: object) -> bytes:
        """`data` as JSON; `msgspec.Raw` is JSON that is encoded already. Raises `InvalidItem` with the place.

        Raw JSON is decoded, so that every client can read it, and put on one line, because some transports separate
        frames by lines. Raw values within `data` are not checked; that is left to the caller.
        """
        try:
            if isinstance(data, Raw):
                return _check_raw(bytes(data))
            return self._encode(data)
        except RecursionError:
            raise InvalidItem(f"data of type {type(data).__name__} is nested too deeply or contains itself") from None
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - also those of properties, `model_dump` and the like
            cause = None if isinstance(error, _UnknownType) else error
            raise InvalidItem(self._explain(data, error)) from cause

    def encode_key(self, key: object) -> str:
        """The key of an item on the wire: what JSON shows of `key`, if that is a text or an integer."""
        if type(key) is str:
            text = key
        else:
            body = self.encode(key)
            if body.startswith(b'"'):
                text = msgspec.json.decode(body)
            elif body.removeprefix(b"-").isdigit():
                text = body.decode()
            else:
                text = ""
        if not 0 < len(text) <= MAX_NAME_LENGTH:
            raise InvalidItem(
                f"key {shorten(key)} must be a text of 1 to {MAX_NAME_LENGTH} characters, or a value that JSON shows "
                "as a text or an integer, such as a UUID"
            )
        return text

    def _convert(self, value: Any) -> Any:
        converted = _convert_known(value)
        if converted is NotImplemented:
            if self._convert_unknown is not None:
                converted = self._convert_unknown(value)
            if converted is NotImplemented or converted is value:
                raise _UnknownType
        return converted

    # --- explaining failures

    def _explain(self, data: object, error: Exception) -> str:
        """Why `data` cannot be encoded, with the path to the value that is the reason."""
        path, value, is_key = "$", data, False
        for _ in range(_MAX_STEPS):
            found = self._find_fault(value)
            if found is None:
                break
            step, value, error = found
            path += step
            is_key = step.startswith(_KEY)
        message = f"data of type {type(data).__name__} cannot be encoded as JSON"
        if path != "$":
            message += f": {path if len(path) <= _MAX_PATH else f'...{path[-_MAX_PATH:]}'} is of type {_name(value)}"
        if isinstance(error, _UnknownType):
            return f"{message}; {_ADVICE_ON_KEYS if is_key else _advise(value)}"
        reason = str(error) if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: {error}"
        return f"{message}: {clip(reason, _MAX_PATH)}"

    def _find_fault(self, value: Any) -> tuple[str, Any, Exception] | None:
        """The first part of `value` that cannot be encoded, the step to it, and the error; None if it has no parts."""
        try:
            for step, part, probe in self._parts(value):
                try:
                    self._encode(probe)
                except RecursionError:
                    return None
                except Exception as error:  # noqa: BLE001 - as in `encode`
                    return step, part, error
        except Exception:  # noqa: BLE001 - `value` itself is at fault, and its error is known
            return None
        return None

    def _parts(self, value: Any) -> Iterator[tuple[str, Any, Any]]:
        """The parts of a value as msgspec sees them: the step to each, and what shows whether it can be encoded."""
        cls = type(value)
        if issubclass(cls, Raw):
            return
        if issubclass(cls, dict):
            for key, part in dict.items(value):
                yield f"{_KEY}{shorten(key)}", key, {key: None}
                yield _step(key), part, part
        elif issubclass(cls, list | tuple | set | frozenset):
            for index, part in enumerate(value):
                yield f"[{index}]", part, part
        elif (names := _field_names(cls)) is not None:
            for name, attribute in names:
                part = getattr(value, attribute)
                if part is not msgspec.UNSET:
                    yield _step(name), part, part
        else:
            part = value.value if issubclass(cls, Enum) else self._convert(value)
            yield "", part, part


class _UnknownType(TypeError):
    """No conversion is known for a value."""


def _field_names(cls: Any) -> list[tuple[str, str]] | None:
    """The fields of a struct, dataclass or attrs class, each with its attribute; None for other classes."""
    if issubclass(cls, msgspec.Struct):
        return list(zip(cls.__struct_encode_fields__, cls.__struct_fields__, strict=True))
    if hasattr(cls, "__dataclass_fields__"):
        return [(field.name, field.name) for field in fields(cls)]
    if hasattr(cls, "__attrs_attrs__"):
        return [(attribute.name, attribute.name) for attribute in cls.__attrs_attrs__]
    return None


def _step(key: object) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{shorten(key)}]"


def _name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


_KEY: Final = " key "
_ADVICE_ON_KEYS: Final = "keys are texts, numbers, times, UUIDs and Enums"


def _advise(value: object) -> str:
    """What the publisher of a value of an unknown type can do."""
    cls = type(value)
    if hasattr(cls, "__await__"):
        return "await it first"
    if hasattr(cls, "to_dict"):
        return "publish its `to_dict()`, or pass the hub `encode=`, a function that converts it"
    if hasattr(cls, "__iter__"):
        return "publish a list of it, or pass the hub `encode=`, a function that converts it"
    return "publish a dict, a dataclass or another type of docs/payloads.md, or pass the hub `encode=` to convert it"


# --- conversions ------------------------------------------------------------------------------------------------------


def _convert_known(value: Any) -> Any:
    """A value that msgspec does not know as one that it knows; `NotImplemented` if there is none."""
    cls: Any = type(value)
    return _find_conversion(cls)(value)


@lru_cache(maxsize=512)
def _find_conversion(cls: type) -> Callable[[Any], Any]:
    """The conversion for the values of a class.

    Containers of the standard library, structs, dataclasses, Booleans and None come here only as the keys of dicts.
    """
    for base, convert in _BASES:
        if issubclass(cls, base):
            return convert
    if issubclass(cls, Enum):
        return attrgetter("value")
    if issubclass(cls, dict | list | tuple | set | frozenset) or _field_names(cls) is not None:
        return _convert_nothing
    for methods, convert in _METHODS:
        if all(hasattr(cls, method) for method in methods):
            return convert
    if cls.__name__ == "NAType":  # pandas.NA
        return _convert_to_none
    if issubclass(cls, Mapping) or (hasattr(cls, "keys") and hasattr(cls, "__getitem__")):  # also rows of databases
        return dict
    if issubclass(cls, Sequence | AbstractSet | ValuesView) and not hasattr(cls, "casefold"):
        return list
    return _convert_proxy


def _convert_nothing(_: object) -> Any:
    return NotImplemented


def _convert_to_none(_: object) -> None:
    return None


def _convert_datetime(value: datetime) -> datetime | None:
    if value != value:  # noqa: PLR0124 - pandas.NaT
        return None
    return datetime(
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond,
        tzinfo=value.tzinfo, fold=value.fold,
    )  # fmt: skip


def _convert_time(value: time) -> time:
    return time(value.hour, value.minute, value.second, value.microsecond, tzinfo=value.tzinfo, fold=value.fold)


# The methods of the bases: subclasses may have others, and `str()` of Django's SafeString is a SafeString.
_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (float, float.__float__),
    (bool, lambda value: "true" if value else "false"),
    (type(None), lambda _: "null"),
    (int, int.__int__),
    (bytes, bytes),
    (bytearray, bytes),
    (datetime, _convert_datetime),
    (date, lambda value: date(value.year, value.month, value.day)),
    (time, _convert_time),
    (timedelta, lambda value: timedelta(value.days, value.seconds, value.microseconds)),
    (Decimal, Decimal),
)


def _convert_array(value: Any) -> Any:
    """An array or a scalar of NumPy, or what behaves like one."""
    dtype: Any = getattr(value, "dtype", None)
    if (names := getattr(dtype, "names", None)) is not None:
        return list(value) if getattr(value, "ndim", 0) else {name: value[name] for name in names}
    plain: Any = value.tolist()
    kind = getattr(dtype, "kind", "")
    if kind in ("M", "m") and _has_integers(plain):  # of a unit for which Python has no type, such as nanoseconds
        plain = value.astype(f"{kind}8[us]").tolist()
        if dtype.str.endswith("8") or _has_integers(plain):
            raise ValueError("times must have a unit, and lie in the years 1 to 9999")
    if type(plain) is type(value):  # numpy.longdouble
        return float(value) if kind == "f" else NotImplemented
    return plain


def _has_integers(plain: object) -> bool:
    return any(map(_has_integers, plain)) if isinstance(plain, list) else isinstance(plain, int)


def _convert_proxy(value: Any) -> Any:
    """A lazy translation or another proxy: it passes on the methods of a text, or claims the class of its object."""
    fold = getattr(value, "casefold", None)
    if callable(fold):
        text = str.__str__(str(value))
        return text if fold() == text.casefold() else NotImplemented
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | AbstractSet):
        return list(value)
    return NotImplemented


# By what the classes have; the first that fits.
_METHODS: Final[tuple[tuple[tuple[str, ...], Callable[[Any], Any]], ...]] = (
    (("model_dump",), methodcaller("model_dump", mode="json")),  # a model of pydantic
    (("to_dicts",), methodcaller("to_dicts")),  # a table of polars
    (("to_dict", "itertuples"), methodcaller("to_dict", orient="records")),  # a table of pandas
    (("to_dict", "tolist"), methodcaller("to_dict")),  # a row or column of pandas, which has labels
    (("tolist",), _convert_array),  # NumPy, `array`, other arrays of pandas
    (("to_list",), methodcaller("to_list")),  # a column of polars
)


# --- raw JSON ---------------------------------------------------------------------------------------------------------

_read: Final = msgspec.json.Decoder().decode


def _check_raw(data: bytes) -> bytes:
    _read(data)  # `format` accepts invalid UTF-8, and numbers that exceed a double
    return bytes(msgspec.json.format(data, indent=-1))
