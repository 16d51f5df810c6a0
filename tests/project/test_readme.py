"""The example in the README is a program; here it runs, and a client receives its items."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from analytics_hub import Hub
from analytics_hub.http import Respond
from analytics_hub.transports import websocket

from ..conformance.client import Reader
from ..conformance.websocket import dial
from .layout import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
EMBEDDING = EXAMPLES[0]


def test_every_example_is_python() -> None:
    for example in EXAMPLES:
        assert compile(example, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_embedding_example_is_short() -> None:
    assert len([line for line in EMBEDDING.splitlines() if line.strip()]) <= 17


@pytest.mark.anyio
async def test_the_embedding_example_serves_a_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unchanged, except for the port, which may be in use, and the event loop, which is that of the test.

    `test_browsers.py` opens its page.
    """
    programs: list[Callable[[], Coroutine[Any, Any, None]]] = []
    ports: list[int] = []
    is_serving = anyio.Event()
    serve = websocket.serve

    async def serve_anywhere(hub: Hub, *, respond: Respond, task_status: anyio.abc.TaskStatus[int]) -> None:
        async with anyio.create_task_group() as tasks:
            ports.append(await tasks.start(partial(serve, hub, port=0, respond=respond)))
            task_status.started(ports[0])
            is_serving.set()

    (tmp_path / "page.html").write_text("<p>", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(websocket, "serve", serve_anywhere)
    monkeypatch.setattr(anyio, "run", programs.append)
    exec(compile(EMBEDDING, "README.md", "exec"), {"__name__": "__main__"})
    (main,) = programs

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(main)
            await is_serving.wait()
            async with dial("127.0.0.1", ports[0], None) as client:
                reader = Reader(client)
                (answer,) = await reader.subscribe("prices")
                item = await reader.next("prices")

                assert answer["ok"] is True
                assert capsys.readouterr().out.startswith(f"a live price on http://127.0.0.1:{ports[0]}/ ")
                assert json.dumps(item["data"]).startswith('{"EURUSD": 1.')
            tasks.cancel_scope.cancel()
