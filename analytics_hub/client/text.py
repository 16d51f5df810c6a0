"""Text from a server, made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` on one line, with every character escaped that a terminal could interpret as a command."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
