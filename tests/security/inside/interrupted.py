"""Run by `test_interrupts.py` in a process of its own: a server with clients, and Ctrl-C at one moment after the other.

Prints the number of moments. Any other output, warnings included, is a fault.

On Trio, Ctrl-C raises at once in any line of a task, inside anyio and Trio too, unless it is configured to wait for the
next checkpoint of the main task, as asyncio always does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import anyio

import analytics_hub
from analytics_hub import Channel, Hub, anonymous
from analytics_hub.client import HubClient
from analytics_hub.transports import tcp, websocket

from ...cancellation.sweep import on_each_wait

OURS: Final = str(Path(analytics_hub.__file__).parent)
STRIDE: Final = 197
"""Lines of the package between two moments; each line would take minutes."""


class Interrupter:
    """Sends Ctrl-C once, at the `number`th call of `step`."""

    def __init__(self, number: int) -> None:
        self._left = number

    @property
    def has_fired(self) -> bool:
        return self._left <= 0

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGINT)

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not self.has_fired and frame.f_code.co_filename.startswith(OURS):
            return self._trace_line
        return None

    def _trace_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and not self.has_fired:
            self.step()
        return self._trace_line


async def application() -> None:
    """The program of the README, with a client that connects, is served, and leaves."""
    with suppress(RuntimeError):  # on asyncio: its debug mode logs each turn that a busy machine has prolonged
        asyncio.get_running_loop().slow_callback_duration = 60.0
    hub = Hub([Channel("events"), Channel("durable", mode="durable")], authenticate=anonymous, grace=0.05)
    async with hub, anyio.create_task_group() as tasks:
        port = await tasks.start(lambda task_status: websocket.serve(hub, port=0, task_status=task_status))
        await tasks.start(lambda task_status: tcp.serve(hub, port=0, task_status=task_status))
        async with HubClient(f"ws://127.0.0.1:{port}") as client, client.subscribe("events") as items:
            hub.publish("events", 1)
            await anext(items)
            await hub.publish_confirmed("durable", 1)
        tasks.cancel_scope.cancel()


async def interrupted_application(interrupter: Interrupter) -> None:
    with on_each_wait(interrupter.step):
        await application()


def interrupt(number: int, backend: str, options: dict[str, Any], *, in_lines: bool) -> bool:
    """Run the application with Ctrl-C at a moment; False if it ended before that."""
    interrupter = Interrupter(number)
    if in_lines:
        sys.settrace(interrupter.trace)
        if backend == "trio":
            options = {"restrict_keyboard_interrupt_to_checkpoints": True}
    try:
        if in_lines:
            anyio.run(application, backend=backend, backend_options=options)
        else:
            anyio.run(interrupted_application, interrupter, backend=backend, backend_options=options)
    except* KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return interrupter.has_fired


def main(backend: str) -> None:
    options: dict[str, Any] = {}
    if backend == "asyncio+uvloop":
        backend, options = "asyncio", {"use_uvloop": True}
    interrupt(1_000_000, backend, options, in_lines=False)
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    number = 1
    while interrupt(number, backend, options, in_lines=False):
        number += 1
    line = 1
    while interrupt(line, backend, options, in_lines=True):
        line += STRIDE
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    print(number - 1, line // STRIDE)


if __name__ == "__main__":
    main(sys.argv[1])
