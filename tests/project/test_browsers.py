"""The pages and scripts of the documentation, in a browser, against real hubs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event

import anyio
import anyio.from_thread
import pytest

from analytics_hub import Channel, Hub, Tuning, anonymous
from analytics_hub.http import respond_page
from analytics_hub.transports.websocket import serve

from ..hosts.process import Server
from ..support.browser import Browser
from .layout import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

README = (ROOT / "README.md").read_text("utf-8")
BROWSERS = (ROOT / "docs" / "browsers.md").read_text("utf-8")
SCRIPTS = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs" / "browser").glob("*.js")}
(PAGE,) = re.findall(r"^```html\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PROGRAM = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[0]
(MOUNTED,) = re.findall(r"^```python\n(.*?)^```", BROWSERS, re.MULTILINE | re.DOTALL)
GUARD = 60.0


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    shared_browser.complaints.clear()
    yield shared_browser
    shared_browser.call("Page.navigate", url="about:blank")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.html").write_text(PAGE, "utf-8")
    return tmp_path


def text(id: str) -> str:
    return f"document.getElementById('{id}')?.textContent"


class Live:
    """A hub, and a server for it that can be stopped and started again on the same port."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal) -> None:
        self._portal = portal
        self.port = 0
        self._hub: Hub
        self._life: Future[None]
        self._server: Future[None]
        self._serving: anyio.CancelScope
        self._is_over: anyio.Event
        self._page = respond_page("/", f"<!doctype html><script>{SCRIPTS['follow']}{SCRIPTS['events']}</script>")
        self.enter()
        self.start()

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{'ws/analytics' if scheme == 'ws' else ''}"

    def enter(self) -> None:
        """Enter a new hub."""
        self._life, self._hub = self._portal.start_task(self._run)

    async def _run(self, *, task_status: anyio.abc.TaskStatus[Hub]) -> None:
        tuning = Tuning(reconnect_min=0.01, reconnect_max=0.1)
        async with Hub([Channel("ticks", keep_items=5)], authenticate=anonymous, tuning=tuning, grace=0.1) as hub:
            self._is_over = anyio.Event()
            task_status.started(hub)
            await self._is_over.wait()

    def leave(self) -> None:
        self._portal.call(self._is_over.set)
        self._life.result(GUARD)

    def start(self) -> None:
        self._server, self.port = self._portal.start_task(self._serve)

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[int]) -> None:
        with anyio.CancelScope() as self._serving:
            await serve(self._hub, port=self.port, respond=self._page, task_status=task_status)

    def stop(self) -> None:
        """Cut the clients off; the hub lives on."""
        self._portal.call(self._serving.cancel)
        self._server.result(GUARD)

    def publish(self, *numbers: int) -> None:
        for number in numbers:
            self._hub.publish("ticks", number)


@pytest.fixture(scope="module")
def hub() -> Iterator[Live]:
    with anyio.from_thread.start_blocking_portal() as portal:
        live = Live(portal)
        yield live
        live.stop()
        live.leave()


@contextmanager
def answering(status: int, body: str = "", port: int = 0) -> Iterator[tuple[str, Event]]:
    """A server that gives every request this answer; its URL, and an event that is set when it has."""
    has_answered = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())
            has_answered.set()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """It is the browser's."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", has_answered
        server.shutdown()
        thread.join()


# --- the page of the README


def test_the_program_of_the_readme_shows_data_on_its_page(folder: Path, browser: Browser) -> None:
    """Unchanged, except for the port, which may be in use."""
    program = PROGRAM.replace("partial(serve, hub, ", "partial(serve, hub, port=0, ")
    assert program != PROGRAM
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program], cwd=folder, env=None, stdout=subprocess.PIPE, text=True
    )
    guard = threading.Timer(GUARD, process.kill)
    guard.start()
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:[0-9]+/", process.stdout.readline())
    assert found is not None, "it prints what it does"

    browser.call("Page.navigate", url=found[0])
    browser.wait_for(f"/^1[.]08/.test({text('price')}) && {text('state')} === 'live'")
    complaints = list(browser.complaints)
    process.send_signal(signal.SIGINT)
    browser.wait_for(f"/^disconnected: 10/.test({text('state')})")
    process.communicate()
    guard.cancel()

    assert complaints == []


def test_the_same_page_on_a_mounted_hub(folder: Path, browser: Browser) -> None:
    (folder / "app.py").write_text(MOUNTED, "utf-8")
    command = [sys.executable, "-m", "uvicorn", "--timeout-graceful-shutdown", "1", "app:app", "--port"]
    with Server(lambda port: [*command, str(port)], folder, environment={}) as server:
        origin = f"http://127.0.0.1:{server.port}"
        browser.call("Page.navigate", url=f"{origin}/hub/")
        browser.wait_for(f"{text('state')} === 'live'")
        browser.evaluate(f"fetch('{origin}/prices/1.5', {{ method: 'POST' }}).then(() => 1)")
        browser.wait_for(f"{text('price')} === '1.5000'")

    assert browser.complaints == []


def test_a_page_whose_origin_is_refused_says_so(browser: Browser, hub: Live) -> None:
    other = PAGE.replace('new URL("ws/analytics", location.href.replace("http", "ws"))', f'"{hub.url("ws")}"')
    assert other != PAGE
    with answering(200, other) as (url, _):
        browser.call("Page.navigate", url=url)
        browser.wait_for(f"/^disconnected: 4403 ./.test({text('state')})")


# --- the scripts


def open_scripts(browser: Browser, hub: Live, start: str) -> None:
    """Open a page with the scripts, and run `start`, which collects what it gets in `got`."""
    browser.call("Page.navigate", url=hub.url())
    browser.wait_for("document.readyState === 'complete' && typeof follow === 'function'")
    browser.evaluate(f"Math.random = () => 0.02; window.got = []; window.states = []; window.client = {start}; 1")


FOLLOW = """follow(location.href.replace("http", "ws") + "ws/analytics", { ticks: {} }, {
  onItem: (item) => got.push(item.data), onGap: (channel, count) => got.push(`${channel} lost ${count}`),
  onState: (text) => states.push(text),
})"""


def test_the_script_resumes_counts_gaps_and_begins_anew_in_another_life(browser: Browser, hub: Live) -> None:
    open_scripts(browser, hub, FOLLOW)
    probe(browser, hub)

    hub.stop()
    hub.publish(1, 2, 3)
    hub.start()
    browser.wait_for("got.at(-1) === 3")
    assert browser.evaluate("got") == [0, 1, 2, 3], "everything that the hub keeps follows"

    hub.stop()
    hub.publish(*range(4, 16))
    hub.start()
    browser.wait_for("got.at(-1) === 15")
    received = browser.evaluate("got")[4:]
    (lost,) = [value for value in received if isinstance(value, str)]
    assert received[0] == lost
    assert int(lost.removeprefix("ticks lost ")) + len(received) - 1 == 12
    assert received[1:] == list(range(16 - len(received) + 1, 16))

    hub.stop()
    hub.leave()
    hub.enter()
    hub.publish(16)
    hub.start()
    browser.wait_for("got.at(-1) === 16")
    assert browser.evaluate("got.slice(-2)") == ["ticks lost null", 16]

    browser.evaluate("client.close()")
    browser.wait_for("/^closed: 1000/.test(states.at(-1))")


def probe(browser: Browser, hub: Live) -> None:
    """Publish until the page is subscribed and has the first item, and discard the others."""
    while not browser.evaluate("got.length"):
        hub.publish(0)
        browser.evaluate("new Promise((done) => setTimeout(done, 20))")
    hub.publish(-1)
    browser.wait_for("got.at(-1) === -1")
    browser.evaluate("got.splice(0, got.length, 0); 1")


def test_the_script_says_why_a_channel_is_refused(browser: Browser, hub: Live) -> None:
    open_scripts(browser, hub, FOLLOW.replace("{ ticks: {} }", "{ tocks: {}, ticks: {} }"))
    probe(browser, hub)

    assert browser.evaluate("states") == ["connected", "tocks: channel 'tocks' is not declared"]
    browser.evaluate("client.close(); 1")


def test_the_script_keeps_its_position_until_the_gap_after_it_is_named(browser: Browser, hub: Live) -> None:
    """A connection may be cut between the answer to `subscribe` and the `$gap` that follows."""
    open_scripts(browser, hub, "1")
    browser.evaluate("""
      window.selections = [];
      const known = { channel: "a", ok: true, epoch: "e" };
      const gap = { type: "$gap", channel: "a", from: 7, to: 9, count: 3 };
      const frames = [
        [{ type: "$subscribed", channels: [{ ...known, seq: 5 }] }, { channel: "a", type: "t", seq: 6, data: 6 }],
        [{ type: "$subscribed", channels: [{ ...known, seq: 9, recovered: false }] }],
        [{ type: "$subscribed", channels: [{ ...known, seq: 9, recovered: false }] }, gap],
        [],
      ];
      window.WebSocket = class {
        constructor() { setTimeout(() => this.run()); }
        run() {
          this.onopen();
          this.onmessage?.({ data: JSON.stringify(frames.shift()) });
          this.onclose?.({ code: 1006, reason: "" });
        }
        send(text) {
          selections.push(JSON.parse(text).channels[0]);
          if (selections.length === 4) this.onclose = null;
        }
        close() {}
      };
      const onGap = (channel, count) => got.push(-count);
      window.client = follow("ws://hub", { a: { last: 3 } }, { onItem: (item) => got.push(item.data), onGap });
      1""")

    browser.wait_for("selections.length === 4")
    since = [{"channel": "a", "since": {"epoch": "e", "seq": seq}} for seq in (6, 6, 9)]
    assert browser.evaluate("selections") == [{"channel": "a", "last": 3}, *since]
    assert browser.evaluate("got") == [6, -3]
    browser.evaluate("client.close(); 1")


@pytest.mark.parametrize("script", ["the script", "a plain EventSource"])
def test_an_event_source_that_met_a_502_is_replaced_and_resumes(script: str, browser: Browser, hub: Live) -> None:
    url = "'/events?channels=ticks'"
    push = "(item) => item.type[0] !== '$' && got.push(item.data)"
    plain = f"""(() => {{
      const source = new EventSource({url});
      source.addEventListener("batch", (event) => JSON.parse(event.data).forEach({push}));
      return source;
    }})()"""
    start = f"followEvents({url}, {push}, (text) => states.push(text))"
    open_scripts(browser, hub, start if script == "the script" else plain)
    probe(browser, hub)

    hub.stop()
    with answering(502, port=hub.port) as (_, has_answered):
        assert has_answered.wait(GUARD)
        hub.publish(1, 2)
    hub.start()
    if script == "the script":
        browser.wait_for("got.at(-1) === 2")
        assert browser.evaluate("got") == [0, 1, 2]
    else:  # what the script is for
        browser.wait_for("client.readyState === EventSource.CLOSED")
        assert browser.evaluate("got") == [0]
    browser.evaluate("client.close(); 1")
