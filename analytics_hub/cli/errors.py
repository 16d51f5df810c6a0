"""Failures of a command, and output that reports them."""

from __future__ import annotations

import json

from ..exceptions import HubError


class CommandError(HubError):
    """The command cannot continue; the message is shown to the user."""


class OutputError(Exception):
    """Standard output cannot be written."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def write_line(text: str) -> None:
    """Write one line to standard output, with JSON escapes for characters that its encoding lacks.

    Raises `OutputError`, because an `OSError` would be mistaken for one of the connection.
    """
    try:
        try:
            print(text, flush=True)
        except UnicodeEncodeError:  # a terminal that does not use UTF-8
            print("".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text), flush=True)
    except OSError as error:
        raise OutputError(error) from None
