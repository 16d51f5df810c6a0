"""`analytics-hub asyncapi`: what a hub sends and accepts, for readers and for code generators."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from ..asyncapi import describe
from ..asyncapi.schemas import json_schemas
from ..channels import Channel
from ..exceptions import HubError
from ..hub import Hub

_EXPECTED: Final = "expected module:name, where name is a Hub, a list of channels, or a function that returns either"


class AppError(HubError):
    """The channels cannot be loaded; the message says why."""


def add_asyncapi(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the AsyncAPI document of a hub."
    parser.add_argument(
        "app",
        nargs="?",
        metavar="APP",
        help="module:name of a Hub, of a list of channels, or of a function that returns either; default: the trading "
        "profile",
    )
    parser.add_argument("--title", default="Analytics hub", help="title of the document (%(default)s)")
    parser.add_argument("--api-version", default="1.0.0", metavar="VERSION", help="version of your API (%(default)s)")
    parser.add_argument("--url", help="where clients connect, such as wss://example.org/ws/analytics")
    parser.add_argument("--schemas", metavar="DIR", help="write a JSON Schema for each channel into DIR instead")
    parser.set_defaults(command=_asyncapi)


def _asyncapi(options: argparse.Namespace) -> int:
    channels = find_channels(options.app)
    if options.schemas is not None:
        _write(Path(options.schemas), json_schemas(channels))
        return 0
    try:
        document = describe(channels, title=options.title, version=options.api_version, server_url=options.url)
    except ValueError as error:
        raise AppError(str(error)) from None
    sys.stdout.write(pretty(document))
    return 0


def pretty(document: dict[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _write(folder: Path, schemas: dict[str, dict[str, Any]]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, schema in schemas.items():
            (folder / f"{name}.json").write_text(pretty(schema), "utf-8")
    except OSError as error:
        raise AppError(f"cannot write to {folder}: {error.strerror}") from None
    print(f"{len(schemas)} schemas in {folder}", file=sys.stderr)


def find_channels(app: str | None) -> Iterable[Channel]:
    """The channels of `module:name`, imported from the working directory as servers do; None: the trading profile."""
    if app is None:
        from ..trading import CHANNELS

        return CHANNELS
    found = _import(app)
    if inspect.isfunction(found):
        found = found()
    if isinstance(found, Hub):
        return found.channels
    try:
        channels = list(found)
    except TypeError:
        channels = []
    if channels and all(isinstance(channel, Channel) for channel in channels):
        return channels
    raise AppError(f"{app} is of type {type(found).__name__}; {_EXPECTED}")


def _import(app: str) -> Any:
    name, _, attribute = app.partition(":")
    if not name or not attribute:
        raise AppError(f"{app!r} has no module or no name; {_EXPECTED}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise AppError(f"there is no module {error.name!r} in {here} or among the installed packages") from None
        raise
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise AppError(f"{name} has no {attribute!r}; {_EXPECTED}")
        found = getattr(found, part)
    return found
