"""The server under test: the native transport, with a hub that sends every message back as one frame of its kind.

Everything but the gateway is the transport's own: the handshake, `WebSocketProtocol`, the decoder, the frames, the
compression. Prints its port, and ends with its standard input, so that it ends with its parent process.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import anyio
import anyio.abc

from analytics_hub.hub import Hub
from analytics_hub.protocol import Parsed
from analytics_hub.transports._websocket.frames import FrameWire
from analytics_hub.transports.websocket import Compression, Limits, serve

from ...transports.fake_gateway import FakeHub, FakeSession

BACKENDS: Final = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
LIMITS: Final = Limits(
    max_message=16 * 1024 * 1024,  # the largest message of the suite
    max_fragments=128 * 1024,  # 4 MiB in fragments of 64 bytes
    # A ping of ours would be one frame more than the suite expects.
    ping_interval=3600.0,
    silence_timeout=3600.0,
    message_timeout=3600.0,
)
COMPRESSION: Final = Compression(threshold=0)  # short messages too


@dataclass(frozen=True)
class Plain:
    """The format of frames that contain the bytes of a message unchanged."""

    is_binary: bool
    name = "plain"
    subprotocol = "plain"

    def join(self, items: Sequence[bytes]) -> bytes:
        return b"".join(items)

    def parse(self, data: str | bytes) -> list[Parsed]:
        raise AssertionError("the echo reads no commands")


def echo(session: FakeSession, data: str | bytes) -> None:
    session.received.clear()
    assert isinstance(session.wire, FrameWire)
    wire = FrameWire(Plain(isinstance(data, bytes)), session.wire._deflater)
    if not session.transport.write(wire.frame([data.encode() if isinstance(data, str) else data])):
        session.transport.pause_reading()


async def run(compression: Compression | None) -> None:
    hub = FakeHub()
    hub.gateway.on_data = echo
    hub.gateway.on_resumed = lambda session: session.transport.resume_reading()
    async with anyio.create_task_group() as tasks:

        async def listen(*, task_status: anyio.abc.TaskStatus[int]) -> None:
            await serve(
                cast("Hub", hub),
                port=0,
                path="/",
                has_endpoints=False,
                limits=LIMITS,
                compression=compression or False,
                task_status=task_status,
            )

        print(await tasks.start(listen), flush=True)


def end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    parser.add_argument("--no-compression", action="store_true")
    options = parser.parse_args()
    threading.Thread(target=end_with_input, daemon=True).start()
    backend, backend_options = BACKENDS[options.backend]
    anyio.run(run, None if options.no_compression else COMPRESSION, backend=backend, backend_options=backend_options)


if __name__ == "__main__":
    main()
