"""Sends from the flush, on asyncio.

Code inside `send` must not take the flush for its own task: a timeout of a middleware would cancel it, and the hub with
it. So `send` runs as a borrowed task, and in the context of the connection.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections import deque
from contextvars import copy_context
from types import CoroutineType
from typing import Any

from .borrowed_task import BorrowedTask, BorrowedTasks, Call
from .messages import Part
from .scope import Send
from .sender import SenderOwner


class DirectSender:
    """The `Sender` of one connection."""

    __slots__ = ("_context", "_in_progress", "_loop", "_owner", "_send", "_size", "_spare", "_waiting", "unsent")

    def __init__(self, send: Send, owner: SenderOwner, borrowed_tasks: BorrowedTasks) -> None:
        self._send = send
        self._owner = owner
        self._spare = borrowed_tasks.spare
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._in_progress: asyncio.Future[Any] | None = None
        """The `send` that has to wait; None most of the time."""
        self._size = 0
        self._waiting: deque[Part] | None = None
        self.unsent = 0

    def put(self, part: Part) -> None:
        # The hot path: once for each client and frame.
        if self._in_progress is not None:
            self._enqueue(part)
            return
        spare, loop = self._spare, self._loop
        borrowed = spare.pop() if spare else BorrowedTask(spare)
        sending: Any = None
        flushing = asyncio.current_task(loop)  # what follows is `run_as`, without its two calls
        if flushing is not None:
            _leave_task(loop, flushing)
        _enter_task(loop, borrowed.task)
        try:
            sending = self._send(part[0].copy())
            if type(sending) is not CoroutineType:
                if asyncio.isfuture(sending):  # granian's: it has begun already
                    spare.append(borrowed)
                    self._wait_for(sending, part[1])
                    sending.add_done_callback(self._future_done)
                    return
                sending = _await(sending)
            future = self._context.run(sending.send, None)
        except StopIteration:
            spare.append(borrowed)
            return
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - of the server or a middleware
            spare.append(borrowed)
            self._fail(error)
            return
        finally:
            _leave_task(loop, borrowed.task)
            if flushing is not None:
                _enter_task(loop, flushing)
        self._wait_for(borrowed.task, part[1])
        borrowed.continue_call(Call(self, self._context, sending), future)

    def _enqueue(self, part: Part) -> None:
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(part)
        self.unsent += part[1]

    def _wait_for(self, sending: asyncio.Future[Any], size: int) -> None:
        self._in_progress = sending
        self._size = size
        self.unsent += size

    def _future_done(self, future: Any) -> None:
        try:
            future.result()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - as above
            self.call_done(error)
        else:
            self.call_done(None)

    def call_done(self, error: BaseException | None) -> None:
        """The call in progress has returned, or has raised `error`: go on with the messages that wait."""
        if self._in_progress is None:  # stopped meanwhile
            return
        if error is not None:
            self._fail(error)
            return
        self._in_progress = None
        self.unsent -= self._size
        while self._waiting and self._in_progress is None:
            part = self._waiting.popleft()
            self.unsent -= part[1]
            self.put(part)
        if self._in_progress is None and not self._waiting:
            self._waiting = None
            self._owner.messages_sent()

    def _fail(self, error: BaseException) -> None:
        self._clear()
        self._owner.connection_lost(error)

    def stop(self) -> None:
        sending = self._in_progress
        self._clear()
        if sending is not None:
            sending.cancel()

    def _clear(self) -> None:
        self._in_progress = None
        self._waiting = None
        self.unsent = 0


async def _await(sending: Any) -> None:
    """For a `send` that is no coroutine function and returns another kind of awaitable."""
    await sending
