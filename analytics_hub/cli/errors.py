"""What stands in the way of a command."""

from __future__ import annotations

from ..exceptions import HubError


class CommandError(HubError):
    """The message is the sentence that the user gets."""


class OutputError(Exception):
    """Standard output takes no more."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def write(text: str) -> None:
    """One line on standard output. Raises `OutputError`: an `OSError` would be taken for one of the connection's."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise OutputError(error) from None
