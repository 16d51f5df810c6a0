"""How messages reach a server's `send`, which is a coroutine function: one at a time for each connection, in order.

On asyncio the flush itself takes the coroutine as far as it goes. Most servers have then handed the message to the
socket, and no task had to wake up; where one has to wait, what it waits for goes on with it (`courier`).
Trio cannot be stepped into like that, so there each connection has a task that sends (`trio`). The spike
`benchmarks/spikes/asgi_send.py` has the figures.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections import deque
from contextvars import copy_context
from types import CoroutineType
from typing import Any, Protocol

from .borrowed_task import BorrowedTask, BorrowedTasks, Call
from .messages import Part
from .scope import Send


class Owner(Protocol):
    """Whose messages they are."""

    def drained(self) -> None:
        """Everything was sent."""

    def lost(self, error: BaseException) -> None:
        """`send` raised, and nothing will be sent any more."""


class Sender(Protocol):
    unsent: int
    """Bytes that `send` has not finished with."""

    def put(self, part: Part) -> None:
        """Send a message, after those before it. Returns at once and raises nothing."""

    def stop(self) -> None:
        """Send nothing more, and let go of what is under way. Must be called in the end."""


def open_sender(send: Send, owner: Owner, couriers: BorrowedTasks) -> Sender:
    """What sends for the connection that this task is for."""
    task = None
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop of asyncio's
        pass
    if task is None:
        from .sender_trio import TrioSender  # Trio need not be installed where it does not run

        return TrioSender(send, owner)
    return DirectSender(send, owner, couriers)


class DirectSender:
    """Sends from the flush, on asyncio.

    Whatever runs inside `send` must not take the flush for its own task: a timeout of a middleware would cancel it, and
    with it the hub. So `send` runs as the task of a courier, and in the context of the connection.
    """

    __slots__ = ("_context", "_loop", "_owner", "_send", "_size", "_spare", "_under_way", "_waiting", "unsent")

    def __init__(self, send: Send, owner: Owner, couriers: BorrowedTasks) -> None:
        self._send = send
        self._owner = owner
        self._spare = couriers.spare
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._under_way: asyncio.Future[Any] | None = None
        """The `send` that has to wait; None most of the time."""
        self._size = 0
        self._waiting: deque[Part] | None = None
        self.unsent = 0

    def put(self, part: Part) -> None:
        # The hot path: once for each client and frame.
        if self._under_way is not None:
            self._wait_behind(part)
            return
        spare, loop = self._spare, self._loop
        courier = spare.pop() if spare else BorrowedTask(spare)
        sending: Any = None
        flushing = asyncio.current_task(loop)  # what follows is `run_as`, without its two calls
        if flushing is not None:
            _leave_task(loop, flushing)
        _enter_task(loop, courier.task)
        try:
            sending = self._send(part[0].copy())
            if type(sending) is not CoroutineType:
                if asyncio.isfuture(sending):  # granian's: it is under way already
                    spare.append(courier)
                    self._wait(sending, part[1])
                    sending.add_done_callback(self._done)
                    return
                sending = _wait_for(sending)
            future = self._context.run(sending.send, None)
        except StopIteration:
            spare.append(courier)
            return
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the server's, and whatever is around it
            spare.append(courier)
            self._fail(error)
            return
        finally:
            _leave_task(loop, courier.task)
            if flushing is not None:
                _enter_task(loop, flushing)
        self._wait(courier.task, part[1])
        courier.carry(Call(self, self._context, sending), future)

    def _wait_behind(self, part: Part) -> None:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(part)
        self.unsent += part[1]

    def _wait(self, under_way: asyncio.Future[Any], size: int) -> None:
        self._under_way = under_way
        self._size = size
        self.unsent += size

    def _done(self, future: Any) -> None:
        try:
            future.result()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as above
            self.ended(error)
        else:
            self.ended(None)

    def ended(self, error: BaseException | None) -> None:
        """What was under way is sent, or has raised: go on with what waits."""
        if self._under_way is None:  # stopped meanwhile
            return
        if error is not None:
            self._fail(error)
            return
        self._under_way = None
        self.unsent -= self._size
        while self._waiting and self._under_way is None:
            part = self._waiting.popleft()
            self.unsent -= part[1]
            self.put(part)
        if self._under_way is None and not self._waiting:
            self._waiting = None
            self._owner.drained()

    def _fail(self, error: BaseException) -> None:
        self._forget()
        self._owner.lost(error)

    def stop(self) -> None:
        under_way = self._under_way
        self._forget()
        if under_way is not None:
            under_way.cancel()

    def _forget(self) -> None:
        self._under_way = None
        self._waiting = None
        self.unsent = 0


async def _wait_for(sending: Any) -> None:
    """For servers whose `send` is no coroutine function and returns something else to await."""
    await sending
