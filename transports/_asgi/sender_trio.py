"""Sends from a task for each connection, on Trio. Imported only where Trio runs.

A system task, because one that has no nursery of its own takes 4 KB less for each connection than a child of its task.
"""

from __future__ import annotations

from collections import deque
from contextvars import copy_context

import trio
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, spawn_system_task, wait_task_rescheduled

from .messages import Part
from .scope import Send
from .sender import SenderOwner


class TrioSender:
    """The `Sender` of one connection."""

    __slots__ = ("_owner", "_parked", "_scope", "_send", "_waiting", "unsent")

    def __init__(self, send: Send, owner: SenderOwner) -> None:
        self._send = send
        self._owner = owner
        self._waiting: deque[Part] = deque()
        self._parked: Task | None = None
        self._scope = trio.CancelScope()
        self.unsent = 0
        spawn_system_task(self._run, name="analytics_hub: send", context=copy_context())

    def put(self, part: Part) -> None:
        self._waiting.append(part)
        self.unsent += part[1]
        parked, self._parked = self._parked, None
        if parked is not None:
            reschedule(parked)

    def stop(self) -> None:
        self._waiting.clear()
        self.unsent = 0
        self._scope.cancel()

    async def _run(self) -> None:
        waiting, send = self._waiting, self._send
        with self._scope:
            try:
                while True:
                    while waiting:
                        message, size = waiting.popleft()
                        await send(message.copy())
                        self.unsent -= size
                    self._owner.messages_sent()
                    self._parked = current_task()
                    await wait_task_rescheduled(self._abort)
            except Exception as error:  # noqa: BLE001 - of the server or a middleware
                self.stop()
                self._owner.connection_lost(error)

    def _abort(self, raise_cancel: RaiseCancelT) -> Abort:
        self._parked = None
        return Abort.SUCCEEDED
