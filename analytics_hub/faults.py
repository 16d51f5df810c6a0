"""One line about an exception of the application: its type, its message without secrets, and where it was raised."""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import PurePath
from types import CodeType, FrameType
from typing import Final

from .channels import clip
from .contracts import Handshake
from .protocol.credentials import find_token, redact

MAX_MESSAGE: Final = 256
"""Characters of the message that are logged."""
MAX_SEARCHED: Final = 4 * MAX_MESSAGE
PIECE: Final = 8
"""Characters of a piece of a secret that is searched for; a shorter secret is searched for whole."""
HIDDEN: Final = "[redacted]"
_LIBRARIES: Final = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<frozen "}
)
_LIBRARY_FOLDERS: Final = frozenset({"site-packages", "dist-packages"})
_RUNNERS: Final = frozenset({"anyio", "trio", "outcome", "asyncio", "concurrent", "threading", "contextlib", "uvloop"})
"""Modules that may stand between a call of ours and the function of the application."""


def describe_fault(
    error: BaseException, function: Callable[..., object] | None = None, *, secrets: Collection[str] = ()
) -> str:
    """Such as `KeyError: 'sub' at /app/auth.py:12 in check`.

    The place is the application's own frame, where there is one in the traceback of `error`, else where `function` is
    defined. Neither `secrets` nor pieces of them are in it, and no line ends.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    message = clip(_printable(redact(_hide(_message_of(error), secrets))), MAX_MESSAGE)
    own, entry = _find_places(error)
    place = own or _place_of(function) or entry
    return type(error).__name__ + (f": {message}" if message else "") + (f" at {place}" if place else "")


def hide_secrets(text: str, secrets: Collection[str]) -> str:
    """`text` without `secrets`, pieces of them, and whatever else looks like a token."""
    return redact(_hide(text, secrets))


def secrets_of(handshake: Handshake) -> list[str]:
    """What a peer has sent in confidence: its token and its cookies."""
    return [*([] if handshake.token is None else [handshake.token]), *_cookies(handshake.headers)]


def secrets_of_request(headers: Mapping[str, str], query: str) -> list[str]:
    """The same for a request that is not a handshake."""
    found = find_token(headers, query, ())
    basic = headers.get("authorization", "").partition(" ")[2]
    return [*([] if found is None else [found.token]), *([basic] if basic else []), *_cookies(headers)]


def _cookies(headers: Mapping[str, str]) -> list[str]:
    values = [cookie.partition("=")[2].strip() for cookie in headers.get("cookie", "").split(";")]
    return [value for value in values if value]


def _message_of(error: BaseException) -> str:
    try:
        return str(error)[:MAX_SEARCHED]
    except Exception:  # noqa: BLE001 - the application's `__str__` may raise anything
        return "its message cannot be read"


def _hide(text: str, secrets: Collection[str]) -> str:
    """`text` with every piece of a secret replaced, also where the secret was cut."""
    is_secret = [False] * len(text)
    for secret in secrets:
        size = min(PIECE, len(secret))
        for start in range(len(text) - size + 1 if size else 0):
            if text[start : start + size] in secret:
                is_secret[start : start + size] = [True] * size
    kept: list[str] = []
    for at, char in enumerate(text):
        if not is_secret[at]:
            kept.append(char)
        elif at == 0 or not is_secret[at - 1]:
            kept.append(HIDDEN)
    return "".join(kept)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


# --- places


def _find_places(error: BaseException) -> tuple[str | None, str | None]:
    """The innermost frame of the application's own files, and for one that is installed as a library its outermost."""
    entry = own = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _is_ours(frame):
            continue
        place = f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
        if not _is_library(frame.f_code.co_filename):
            own = place
        elif entry is None and _module_of(frame).partition(".")[0] not in _RUNNERS:
            entry = place
    return own, entry


def _place_of(function: Callable[..., object] | None) -> str | None:
    for code in _codes_of(function):
        if not _is_library(code.co_filename):
            return f"{code.co_filename}:{code.co_firstlineno} in {code.co_name}"
    return None


def _codes_of(function: object) -> Iterator[CodeType]:
    while isinstance(function, partial):
        function = function.func
    for each in (function, getattr(function, "__call__", None)):  # noqa: B004 - of an object, its method
        each = inspect.unwrap(each) if callable(each) else each
        code = getattr(each, "__code__", None)
        if isinstance(code, CodeType) and not _is_own_module(getattr(each, "__module__", "") or ""):
            yield code


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_ours(frame: FrameType) -> bool:
    return _is_own_module(_module_of(frame))


def _is_own_module(name: str) -> bool:
    """Whether it is a module of this package; the demo is an application."""
    parts = name.split(".")
    return parts[0] == "analytics_hub" and parts[1:2] != ["demo"]


def _is_library(filename: str) -> bool:
    return filename.startswith(_LIBRARIES) or not _LIBRARY_FOLDERS.isdisjoint(PurePath(filename).parts)
