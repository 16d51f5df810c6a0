"""How messages reach a server's `send`, which is a coroutine function: one at a time for each connection, in order.

On asyncio the flush itself runs the coroutine as far as it goes (`sender_asyncio`). Most servers have then passed the
message to the socket, and no task had to wake up; where one has to wait, the future that it waits for continues it
(`borrowed_task`). Trio cannot be stepped into like that, so there each connection has a task that sends
(`sender_trio`). The spike `benchmarks/spikes/asgi_send.py` has the figures.
"""

from __future__ import annotations

from typing import Final, Protocol

from .messages import Part


class SenderOwner(Protocol):
    """The connection that a sender belongs to."""

    def messages_sent(self) -> None:
        """Everything was sent."""

    def connection_lost(self, error: BaseException) -> None:
        """`send` raised, and nothing will be sent any more."""


class Sender(Protocol):
    unsent: int
    """Bytes that `send` has not finished with."""

    def put(self, part: Part) -> None:
        """Send a message, after those before it. Returns at once and raises nothing."""

    def stop(self) -> None:
        """Send nothing more, and cancel the call in progress. Must be called in the end."""


class _StoppedSender:
    """Takes the place of a sender that was stopped, and of all that it refers to."""

    unsent = 0

    def put(self, part: Part) -> None: ...

    def stop(self) -> None: ...


STOPPED: Final = _StoppedSender()
