"""The client that the tests use, whatever the transport: its contract, and a reader on top of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from analytics_hub import Hub
from analytics_hub.core.statistics import Ledger

from .abilities import Abilities

Item = dict[str, Any]
Batch = list[Item]


class Closed(Exception):
    """The connection has ended, with the close code, or the code of the `$close` item."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(f"closed: {code} {reason}")
        self.code = code
        self.reason = reason


class Refused(Exception):
    """The handshake was answered with an HTTP status instead of a connection."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused: {status}")
        self.status = status


class Client(Protocol):
    """One client. It reads from its transport inside `receive` only: while that is not called, it does not read."""

    async def send(self, *commands: Mapping[str, Any]) -> None:
        """Send each command as a frame of its own."""

    async def send_raw(self, data: str | bytes) -> None:
        """Send one frame as it is: text as `str`, binary as `bytes`."""

    async def receive(self) -> Batch:
        """The next frame, heartbeats included; raises `Closed` at the end."""
        ...

    async def vanish(self) -> None:
        """Leave without a close handshake, as a process that is killed."""

    async def close(self) -> None:
        """Close the connection in order."""


class Connect(Protocol):
    """Connects a client; raises `Refused`. Without a token the client is to send one as its first message."""

    def __call__(self, token: str | None = ...) -> AbstractAsyncContextManager[Client]: ...


@dataclass(frozen=True, slots=True)
class TransportUnderTest:
    """A transport, and a context manager that serves a hub with it."""

    abilities: Abilities
    serve: Callable[[Hub], AbstractAsyncContextManager[Connect]]

    @property
    def name(self) -> str:
        return self.abilities.transport


class Reader:
    """Reads for a test and keeps all items and frames, in order."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.frames: list[Batch] = []
        self.items: list[Item] = []

    async def until(self, condition: Callable[[Item], bool]) -> Item:
        """Read up to the frame with the first new item that meets `condition`, and return that item."""
        while True:
            batch = await self.client.receive()
            self.frames.append(batch)
            self.items += batch
            for item in batch:
                if condition(item):
                    return item

    async def next(self, type_: str) -> Item:
        """Read up to the next item of this type."""
        return await self.until(lambda item: item["type"] == type_)

    async def reach(self, channel: str, seq: int) -> None:
        """Read until everything of `channel` up to number `seq` was received or is in a gap."""

        def is_reached(item: Item) -> bool:
            return item.get("channel") == channel and seq <= (item.get("seq") or item.get("to") or 0)

        if not any(map(is_reached, self.items)):
            await self.until(is_reached)

    async def closed(self) -> int | None:
        """Read to the end; the close code."""
        try:
            await self.until(lambda item: False)
        except Closed as closed:
            return closed.code
        raise AssertionError("never gets here")

    async def subscribe(self, *channels: str | Mapping[str, Any], id: int = 1) -> list[dict[str, Any]]:
        """Subscribe; the answers for each channel."""
        await self.client.send({"action": "subscribe", "id": id, "channels": list(channels)})
        answer = await self.until(lambda item: item["type"] == "$subscribed" and item.get("id") == id)
        answers: list[dict[str, Any]] = answer["channels"]
        return answers

    async def ping(self, id: int = 4711) -> None:
        """Wait for a pong: the commands before it were carried out, and their answers have arrived."""
        await self.client.send({"action": "ping", "id": id})
        await self.until(lambda item: item["type"] == "$pong" and item.get("id") == id)

    # --- what was received

    def of(self, channel: str) -> list[Item]:
        """The data items of a channel."""
        return [item for item in self.items if item.get("channel") == channel and "seq" in item]

    def seqs(self, channel: str) -> list[int]:
        return [item["seq"] for item in self.of(channel)]

    def data(self, channel: str) -> list[Any]:
        return [item["data"] for item in self.of(channel)]

    def control(self, type_: str) -> list[Item]:
        return [item for item in self.items if item["type"] == type_]

    def gaps(self, channel: str) -> list[Item]:
        return [item for item in self.control("$gap") if item["channel"] == channel]

    @property
    def session_id(self) -> str:
        session: str = self.control("$hello")[0]["session"]
        return session

    def ledger(self, hub: Hub, channel: str) -> Ledger:
        """The hub's account of this client and channel, which is still open."""
        (session,) = [session for session in hub.sessions if session.id == self.session_id]
        return hub.ledger(session)[channel]


def missing(gaps: Sequence[Item]) -> list[int]:
    """The sequence numbers that `$gap` items cover."""
    return [seq for gap in gaps for seq in range(gap["from"], gap["to"] + 1)]
