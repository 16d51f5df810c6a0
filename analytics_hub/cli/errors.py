"""What stands in the way of a command."""

from __future__ import annotations

import json

from ..exceptions import HubError


class CommandError(HubError):
    """The message is the sentence that the user gets."""


class OutputError(Exception):
    """Standard output takes no more."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def write(text: str) -> None:
    """One line on standard output, with the escapes of JSON for characters that it cannot take.

    Raises `OutputError`: an `OSError` would be taken for one of the connection's.
    """
    try:
        try:
            print(text, flush=True)
        except UnicodeEncodeError:  # a terminal with an encoding of its own
            print("".join(char if char.isascii() else json.dumps(char)[1:-1] for char in text), flush=True)
    except OSError as error:
        raise OutputError(error) from None
