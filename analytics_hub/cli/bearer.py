"""The token of commands that connect to a hub."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..client.target import Target, validate_token
from .errors import CommandError
from .secret import demo_secret

ENVIRONMENT: Final = "ANALYTICS_HUB_TOKEN"


def add_token_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"file with the token; default: ${ENVIRONMENT}, then a token of the local demo",
    )


def token_source(path: str | None, target: Target) -> Callable[[], str | None]:
    """A function that returns the token. It reads the file, or mints a token of the demo, at each call."""
    if path is not None:
        return lambda: _read_token(path)
    if (fixed := os.environ.get(ENVIRONMENT) or target.token) is not None:
        return lambda: validate_token(fixed, ENVIRONMENT if fixed != target.token else "the URL")
    if not target.is_local or demo_secret() is None:
        raise CommandError(f"no token found: set {ENVIRONMENT} or --token-file")
    print("analytics-hub: using a token of the local demo", file=sys.stderr)

    def mint_token() -> str | None:
        from ..auth import mint

        found = demo_secret()
        return mint(found[0], subject="admin", roles=["admin"]) if found is not None else None

    return mint_token


def _read_token(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return validate_token(file.read(16_384).strip(), path)
    except OSError as error:
        raise CommandError(f"cannot read the token in {path}: {error.strerror}") from None
