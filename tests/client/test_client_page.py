"""The examples of `docs/client.md`, run against a real hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.to_thread
import pytest

from analytics_hub import Channel, Handshake, Hub, Identity
from analytics_hub.transports.websocket import serve

from ..project.layout import ROOT

PAGE = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
FOLLOW, ROWS, TYPED, TOKENS, PUBLISH = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CHANNELS = (
    Channel("alerts", mode="durable", publishers=frozenset({"any"})),
    Channel("lp-performance", mode="table", key="lpName"),
)


def authenticate(handshake: Handshake) -> Identity:
    assert handshake.token == "..."
    return Identity(id="reader", roles=frozenset({"any"}))


class Output:
    """The output of an example."""

    def __init__(self) -> None:
        self.text = ""
        self._has_printed = anyio.Event()

    def print(self, *words: object) -> None:
        self.text += " ".join(map(str, words)) + "\n"
        self._has_printed.set()

    async def wait_for(self, pattern: str, publish: Callable[[], None]) -> None:
        """Publish until the output matches."""
        while not re.search(pattern, self.text):
            self._has_printed = anyio.Event()
            publish()
            with anyio.move_on_after(0.05):
                await self._has_printed.wait()


Main = Callable[[], Coroutine[Any, Any, None]]


def load(example: str, port: int, output: Output, monkeypatch: pytest.MonkeyPatch) -> Main:
    """The function `main` of an example, without running it."""
    mains: list[Any] = []
    monkeypatch.setattr(anyio, "run", mains.append)
    exec(
        compile(example.replace(":7999", f":{port}"), "docs/client.md", "exec"),
        {"__name__": "__main__", "print": output.print},
    )
    main: Main = mains[0]
    return main


@pytest.mark.anyio
async def test_the_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def publish() -> None:
        hub.publish("lp-performance", {"lpName": "LMAX", "executionQuality": 0.97})
        hub.publish("alerts", {"message": "spread widens"})

    with anyio.fail_after(30):
        async with Hub(CHANNELS, authenticate=authenticate, grace=0.1) as hub, anyio.create_task_group() as tasks:
            port = await tasks.start(lambda task_status: serve(hub, port=0, task_status=task_status))

            for example, pattern in ((FOLLOW, "^[0-9]+ spread widens\n"), (TYPED, "LMAX 0.97")):
                output = Output()
                async with anyio.create_task_group() as readers:
                    readers.start_soon(load(example, port, output, monkeypatch))
                    await output.wait_for(pattern, publish)
                    readers.cancel_scope.cancel()

            output = Output()
            await load(TOKENS, port, output, monkeypatch)()
            assert output.text == "the client is open\nrefreshed\n"

            output = Output()
            names = {"print": output.print}
            await anyio.to_thread.run_sync(exec, PUBLISH.replace(":7999", f":{port}"), names)
            assert output.text.count("Receipt(") == 2
            tasks.cancel_scope.cancel()
