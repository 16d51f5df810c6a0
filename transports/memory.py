"""The in-process subscriber, which is also the test double of a network client.

It has the whole protocol, commands and control items included, except bytes on a wire.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import anyio
import msgspec

from ..contracts import Handshake, Peer
from ..core.session import Session
from ..exceptions import HubClosed, HubError, InvalidChannel, PermissionDenied, UnknownChannel, find_error
from ..hub import Hub
from ..identity import Identity
from ..protocol import Parsed, encode, parse_json

Item = dict[str, Any]
Batch = list[Item]

ROOM: Final = 16
"""Writes that may wait for the subscriber before it counts as congested; each is up to 256 KiB."""


_END: Final = b"\x1e"  # RFC 7464's separator: no JSON text contains it, while a line feed may stand between tokens


class _Records:
    """Frames with a separator at their end, so that a write of several can be split."""

    name = "memory.json"
    has_cursor = False

    def frame(self, items: Sequence[bytes]) -> bytes:
        return b"[" + b",".join(items) + b"]" + _END

    def parse(self, data: str | bytes) -> list[Parsed]:
        return parse_json(data)


WIRE: Final = _Records()
_decode: Final = msgspec.json.Decoder(Batch).decode


def split_write(write: bytes) -> list[Batch]:
    """The batches of one write; heartbeats are left out."""
    return [batch for frame in write.split(_END)[:-1] if (batch := _decode(frame))]


class MemoryClient:
    """One client in this process. An async iterator of batches, data and control items in the order of the wire.

    It ends when the session does, with `close_code` and `close_reason` set. Heartbeats are left out.
    """

    def __init__(self, hub: Hub, room: int = ROOM) -> None:
        self._gateway = hub.gateway
        self._room = room
        self._writes: deque[bytes] = deque()
        self._batches: deque[Batch] = deque()
        self._changed = anyio.Event()
        self._is_full = False
        self.session: Session | None = None
        self.is_reading_paused = False
        self.close_code: int | None = None
        self.close_reason: str | None = None

    # --- as a transport

    def write(self, frame: bytes) -> bool:
        if self.close_code is not None:
            return True
        self._writes.append(frame)
        self._changed.set()
        self._is_full = len(self._writes) >= self._room
        return not self._is_full

    def close(self, code: int, reason: str) -> None:
        self.close_code = code
        self.close_reason = reason
        self._changed.set()

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def confirmed(self, frames: int) -> None:
        """Nothing to do: what was read is known without it."""

    # --- as a client

    def send(self, command: Mapping[str, Any] | str | bytes) -> None:
        """Send one command, or any text or bytes that a peer might send."""
        assert self.session is not None
        data = command if isinstance(command, (str, bytes)) else encode(dict(command)).decode()
        self._gateway.receive_data(self.session, data)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        while not self._batches:
            if self._writes:
                self._unpack(self._writes.popleft())
            elif self.close_code is not None:
                raise StopAsyncIteration
            else:
                await self._wait()
        return self._batches.popleft()

    def _unpack(self, write: bytes) -> None:
        self._batches.extend(split_write(write))
        if self._is_full and not self._writes and self.session is not None:
            self._is_full = False
            self._gateway.resumed(self.session)

    async def _wait(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    def leave(self) -> None:
        """Leave without a close handshake, as a peer that vanishes."""
        if self.session is not None:
            self._gateway.disconnect(self.session)
        if self.close_code is None:
            self.close(1000, "left")


@asynccontextmanager
async def connect(
    hub: Hub, *, identity: Identity | None = None, token: str | None = None, room: int = ROOM
) -> AsyncIterator[MemoryClient]:
    """A client without subscriptions. Without `identity` the hub's `authenticate` decides, as over a network."""
    handshake = Handshake(token=token, transport="memory")
    if identity is None:
        peer = await hub.gateway.admit(handshake)
    else:
        peer = Peer(handshake, identity)
    client = MemoryClient(hub, room)
    client.session = hub.gateway.connect(client, WIRE, peer)
    try:
        yield client
    finally:
        client.leave()


@asynccontextmanager
async def subscribe(
    hub: Hub,
    *channels: str | Mapping[str, Any],
    identity: Identity | None = None,
    token: str | None = None,
    room: int = ROOM,
) -> AsyncIterator[MemoryClient]:
    """Subscribe within this process: `async with subscribe(hub, "alerts") as batches: async for batch in batches: ...`

    `channels` are names, or mappings with the options of the protocol (`{"channel": "alerts", "last": 5}`). Raises
    `UnknownChannel`, `PermissionDenied` or `InvalidChannel` if one of them is refused, and without `identity` what
    `Gateway.authenticate` raises.
    """
    if identity is None:
        identity = (await hub.gateway.authenticate(Handshake(token=token, transport="memory"))).identity
    async with connect(hub, identity=identity, room=room) as client:
        client.send({"action": "subscribe", "channels": list(channels)})
        async for batch in client:
            if _is_answered(client, batch):
                break
        else:
            raise HubClosed(f"{client.close_reason} ({client.close_code})")
        yield client


def is_subscribed(item: Item) -> bool:
    """Whether it is the answer to a subscribe command; raises what that was refused with."""
    if item["type"] == "$error":
        raise HubError(item["message"])
    if item["type"] != "$subscribed":
        return False
    for answer in item["channels"]:
        if not answer["ok"]:
            raise find_error(answer["code"], _ERRORS)(answer["message"])
    return True


def _is_answered(client: MemoryClient, batch: Batch) -> bool:
    for place, item in enumerate(batch):
        if is_subscribed(item):
            if batch[place + 1 :]:
                client._batches.appendleft(batch[place + 1 :])
            return True
    return False


_ERRORS: Final = (UnknownChannel, PermissionDenied, InvalidChannel)
