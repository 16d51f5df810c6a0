"""A hub with hooks and a journal that take some turns of the event loop to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from anyio.lowlevel import checkpoint

from analytics_hub import AuthenticationError, Handshake, Hub, Identity
from analytics_hub.journals.memory import MemoryJournal

from ..hub import rig

CHANNELS: Final = tuple(replace(channel, publishers=frozenset({"trader"})) for channel in rig.CHANNELS)


async def patient_authenticate(handshake: Handshake) -> Identity:
    """Accepts every token except `wrong`."""
    await checkpoint()
    await checkpoint()
    if handshake.token is None:
        raise AuthenticationError("missing")
    if handshake.token == "wrong":
        raise AuthenticationError("invalid")
    return Identity(id="alice", roles=frozenset({"trader"}))


async def patient_authorize(identity: Identity, *question: str) -> bool:
    await checkpoint()
    return True


class PatientJournal(MemoryJournal):
    async def append(self, channel: str, first: int, items: Sequence[bytes]) -> int:
        for _ in range(3):
            await checkpoint()
        return await super().append(channel, first, items)


def patient_hub(**options: Any) -> Hub:
    settings: dict[str, Any] = {
        "authenticate": patient_authenticate,
        "authorize": patient_authorize,
        "journal": PatientJournal(),
        "tuning": replace(rig.FAST, token_failures=None),
        "proxies": (),  # so that connections are counted by their address
    }
    return rig.new_hub(CHANNELS, **settings | options)
