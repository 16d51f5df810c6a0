"""How items become what a transport writes, and how what it reads becomes commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..protocol import Parsed


class Wire(Protocol):
    """One format on one kind of transport. Stateless: the frame of a batch serves every session of the format."""

    @property
    def name(self) -> str:
        """Sessions whose wires have equal names share cohorts, and by that frames."""
        ...

    def frame(self, items: Sequence[bytes]) -> bytes:
        """The bytes of one server frame, an array of these encoded JSON items. Never fails."""
        ...

    def parse(self, data: str | bytes) -> list[Parsed]:
        """The commands in one client frame; what is none becomes `Refused`. Never raises."""
        ...
