"""The address and the token of commands that connect to a hub."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..client import TokenRefused
from ..client.target import Address, validate_token
from .errors import CommandError
from .secret import demo_secret

ENVIRONMENT: Final = "ANALYTICS_HUB_TOKEN"
URL_HELP: Final = (
    "URL of the hub, its mount or its WebSocket: http://localhost:7999, https://host/hub or wss://host/hub/ws"
)


def add_token_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"file with the token; default: ${ENVIRONMENT}, then a token of the local demo, if there is one",
    )


def token_source(path: str | None, address: Address) -> Callable[[], str | None] | None:
    """A function that returns the token. It reads the file, or mints a token of the demo, at each call.

    None if there is no token: an open hub needs none.
    """
    if path is not None:
        return lambda: _read_token(path)
    if (fixed := os.environ.get(ENVIRONMENT) or address.token) is not None:
        return lambda: validate_token(fixed, ENVIRONMENT if fixed != address.token else "the URL")
    if not address.is_local or demo_secret() is None:
        return None
    print("analytics-hub: using a token of the local demo", file=sys.stderr)

    def mint_token() -> str | None:
        from ..auth import mint

        found = demo_secret()
        return mint(found[0], subject="admin", roles=["admin"]) if found is not None else None

    return mint_token


def parse_address(url: str) -> Address:
    """Raises `CommandError`."""
    try:
        return Address.parse(url)
    except ValueError as error:
        raise CommandError(str(error)) from None


@contextmanager
def explaining_a_missing_token(tokens: object) -> Iterator[None]:
    """If there was no token and the hub requires one, raise `CommandError` with what to do."""
    try:
        yield
    except TokenRefused:
        if tokens is not None:
            raise
        raise CommandError(f"the hub requires a token: set {ENVIRONMENT} or --token-file") from None


def _read_token(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return validate_token(file.read(16_384).strip(), path)
    except OSError as error:
        raise CommandError(f"cannot read the token in {path}: {error.strerror}") from None
