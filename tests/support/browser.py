"""A browser, for tests of pages."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from .programs import need

GUARD = 120.0
"""Seconds after which a browser that hangs is killed; no duration is measured with it."""


class Browser:
    """A headless Chromium, driven over its DevTools protocol."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [need("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._guard = threading.Timer(GUARD, self.process.kill)
        self._guard.start()
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"ws://127\.0\.0\.1:([0-9]+)/", line):
                break
        else:
            raise AssertionError("Chromium did not start")
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/json") as answer:
            (page,) = [tab for tab in json.load(answer) if tab["type"] == "page"]
        self._stack = ExitStack()
        self._socket = self._stack.enter_context(
            connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None, ping_interval=None)
        )
        self.complaints: list[str] = []
        self.call("Runtime.enable")
        self.call("Log.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._socket.send(json.dumps({"id": 1, "method": method, "params": parameters}))
        while True:
            message: dict[str, Any] = json.loads(self._socket.recv(timeout=GUARD))
            if message.get("id") == 1:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))

    def evaluate(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until the JavaScript `condition` is true; it is evaluated in the page every 20 ms."""
        self.evaluate(
            f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 20); look(); }})"
        )

    def close(self) -> None:
        self._guard.cancel()
        self._stack.close()
        self.process.terminate()
        self.process.communicate()
