"""Where commands that talk to a hub find their token."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..client.target import Target
from .errors import CommandError
from .secret import demo_secret

ENVIRONMENT: Final = "ANALYTICS_HUB_TOKEN"


def add_token_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"the token; else ${ENVIRONMENT}, else the demo's on this machine"
    )


def token_source(path: str | None, target: Target) -> Callable[[], str | None]:
    """Where a token comes from, each time one is needed: files change, and a minted one is fresh each time."""
    if path is not None:
        return lambda: _read_token(path)
    if (fixed := os.environ.get(ENVIRONMENT) or target.token) is not None:
        return lambda: _check_token(fixed, ENVIRONMENT if fixed != target.token else "the URL")
    if not target.is_local or demo_secret() is None:
        raise CommandError(f"there is no token: set {ENVIRONMENT} or --token-file")
    print("analytics-hub: using a token of the demo on this machine", file=sys.stderr)

    def minted() -> str | None:
        from ..auth import mint

        found = demo_secret()
        return mint(found[0], subject="admin", roles=["admin"]) if found is not None else None

    return minted


def _read_token(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return _check_token(file.read(16_384).strip(), path)
    except OSError as error:
        raise CommandError(f"cannot read the token in {path}: {error.strerror}") from None


def _check_token(token: str, source: str) -> str:
    if re.fullmatch(r"[!-~]+", token):
        return token
    raise CommandError(f"{source} holds no token: one word of plain characters was expected")
