"""Enters the hub where the application is the root, and the hub was not entered otherwise."""

from __future__ import annotations

from contextlib import AsyncExitStack

from ...hub import Hub
from .scope import Receive, Send


async def serve_lifespan(hub: Hub, receive: Receive, send: Send) -> None:
    """Enter the hub between startup and shutdown, unless it is open already. Raises what the hub raises."""
    await receive()
    phase = "startup"
    try:
        async with AsyncExitStack() as stack:
            if not hub.is_open:
                await stack.enter_async_context(hub)
            await send({"type": "lifespan.startup.complete"})
            phase = "shutdown"
            await receive()
    except Exception as error:
        await send({"type": f"lifespan.{phase}.failed", "message": f"the hub failed: {error}"})
        raise
    await send({"type": "lifespan.shutdown.complete"})
