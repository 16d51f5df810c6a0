"""The demo in a process of its own, and real clients."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from analytics_hub.auth import mint
from analytics_hub.client import HubPublisher
from analytics_hub.demo.app import DemoOptions, introduction, respond_demo
from analytics_hub.demo.office import BackOffice
from analytics_hub.exceptions import PermissionDenied
from analytics_hub.http import Request
from analytics_hub.protocol import encode
from analytics_hub.trading import CHANNELS

from ..support.browser import Browser
from ..transports.certificates import write_certificate

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

GUARD = 120.0
"""Seconds after which a process that hangs is killed; not used to measure anything."""
FOUR = [channel.name for channel in CHANNELS]
SECRET = "s" * 32


class Program:
    """A running command of `analytics-hub`."""

    def __init__(self, *arguments: str, environment: dict[str, str], stdin: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "analytics_hub", *arguments],
            env=os.environ | environment | {"PYTHONUNBUFFERED": "1"},
            cwd=Path(__file__).parents[2],
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._guard = threading.Timer(GUARD, self.process.kill)
        self._guard.start()
        self.output = ""

    def read_until(self, pattern: str) -> re.Match[str]:
        """Read lines until one matches."""
        stdout = self.process.stdout
        assert stdout is not None
        for line in stdout:
            self.output += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"ended without {pattern!r}:\n{self.output}")

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal, and return the exit code; afterwards `output` is everything that was printed."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        rest, _ = self.process.communicate()
        self.output += rest
        self._guard.cancel()
        assert "Traceback" not in self.output, self.output
        assert "Warning" not in self.output, self.output
        return self.process.returncode

    def abandon(self) -> None:
        self._guard.cancel()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Demo(Program):
    """A running `analytics-hub demo`."""

    def __init__(self, *arguments: str, port: int = 0, environment: dict[str, str], stdin: int | None = None) -> None:
        super().__init__("demo", "--port", str(port), *arguments, environment=environment, stdin=stdin)
        self._clients = ExitStack()
        self.port = int(self.read_until(r"listens on 127\.0\.0\.1:([0-9]+)")[1])

    def login(self, name: str = "admin") -> str:
        """As `curl -X POST -d` does: JSON with the content type of a form."""
        body = json.dumps({"username": name, "password": name}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/login", data=body) as answer:
            token: str = json.load(answer)["token"]
        return token

    def connect(self, token: str | None = None, *channels: Any) -> Client:
        url = f"ws://127.0.0.1:{self.port}/ws/analytics?token={token or self.login()}"
        # A client that does not read cannot receive the close frame either.
        socket = connect(url, proxy=None, ping_interval=None, close_timeout=0.1)
        return Client(self._clients.enter_context(socket), *channels)

    def abandon(self) -> None:
        super().abandon()
        self._clients.close()


class Client:
    """A client that only subscribes and reads, and the items that it has received."""

    def __init__(self, socket: ClientConnection, *channels: Any) -> None:
        self.socket = socket
        self.items: list[dict[str, Any]] = []
        if channels:
            self.socket.send(json.dumps({"action": "subscribe", "channels": channels}))

    def receive_until(self, is_enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        while not is_enough(self.items):
            self.items += json.loads(self.socket.recv(timeout=GUARD))
        return self.items

    def receive_to_the_end(self) -> ConnectionClosed:
        try:
            while True:
                self.items += json.loads(self.socket.recv(timeout=GUARD))
        except ConnectionClosed as closed:
            return closed

    def of(self, channel: str) -> list[dict[str, Any]]:
        return [item for item in self.items if item.get("channel") == channel]


Start = Callable[..., Any]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ANALYTICS_HUB_SECRET", "ANALYTICS_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        yield {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts a command, which is killed if it is still running after the test."""
    running: list[Program] = []

    def begin(*arguments: str, kind: type[Program] = Demo, **options: Any) -> Program:
        more = options.pop("environment", {})
        running.append(kind(*arguments, environment=environment | more, **options))
        return running[-1]

    yield begin
    for program in running:
        program.abandon()


@pytest.fixture(scope="module")
def demo(environment: dict[str, str]) -> Iterator[Demo]:
    """A demo with the default options, for the tests that only connect to it."""
    shared = Demo(environment=environment)
    try:
        yield shared
        assert shared.end() == 0
    finally:
        shared.abandon()


def test_a_client_receives_the_events_of_the_simulation(start: Start) -> None:
    """Log in, connect, subscribe; every item is that of a simulation with the same seed."""
    demo = start("--rate", "900", "--seed", "7")
    client = demo.connect(None, *({"channel": name, "last": 1000} for name in FOUR))
    client.receive_until(lambda items: set(FOUR) <= {item.get("channel") for item in items})

    assert demo.end() == 0
    closed = client.receive_to_the_end()

    assert closed.rcvd is not None
    assert closed.rcvd.code == 1012
    control = [item["type"] for item in client.items if item["type"].startswith("$")]
    assert control == ["$hello", "$subscribed", "$drain"]
    expected: dict[str, list[Any]] = {name: [] for name in FOUR}
    office = BackOffice(7)
    for channel in FOUR:
        for item in client.of(channel):
            while len(expected[channel]) < item["seq"]:
                event = next(office)
                expected[event.channel].append(json.loads(encode(event.data)))
            assert item["data"] == expected[channel][item["seq"] - 1]
    for channel in ("routing-metrics", "alerts"):
        numbers = [item["seq"] for item in client.of(channel)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no item is missing"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_client_that_never_reads_does_not_delay_the_end(start: Start, number: int) -> None:
    demo = start("--rate", "20000")
    demo.connect(None, *FOUR)
    idle = demo.connect()
    idle.receive_until(bool)

    assert demo.end(number) == 0
    assert demo.output.endswith("Draining.\n")


def test_sighup_reloads_the_certificate(start: Start, tmp_path: Path) -> None:
    path = write_certificate(tmp_path / "localhost.pem")
    demo = start("--certfile", str(path))
    health = f"https://localhost:{demo.port}/healthz"

    def is_trusted() -> bool:
        context = ssl.create_default_context(cafile=str(path))
        try:
            with urllib.request.urlopen(health, context=context, timeout=GUARD) as answer:
                return bool(answer.status == 200)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLError):
                return False
            raise

    assert is_trusted()
    assert f"https://localhost:{demo.port}/ " in demo.read_until("page").string
    write_certificate(path)
    assert not is_trusted()
    demo.process.send_signal(signal.SIGHUP)
    while not is_trusted():  # until the signal was processed; `GUARD` ends the demo, and thereby this loop
        pass
    assert demo.end() == 0


def test_each_account_sees_the_channels_of_its_role(demo: Demo) -> None:
    allowed = {
        name: {
            answer["channel"]
            for item in demo.connect(demo.login(name), *FOUR).receive_until(lambda items: len(items) >= 2)
            if item["type"] == "$subscribed"
            for answer in item["channels"]
            if answer["ok"]
        }
        for name in ("admin", "trader", "monitor")
    }

    assert allowed == {
        "admin": set(FOUR),
        "trader": {"exposure-updates", "alerts"},
        "monitor": {"alerts", "lp-performance"},
    }


def test_at_the_lowest_rate_there_are_alerts_at_once_and_an_admin_can_publish_another_one(start: Start) -> None:
    """Without the warm-up, the first alert would take more than an hour at one event a second."""
    demo = start("--rate", "1")
    data = json.loads(demo.read_until(r'\{"severity".*\}')[0])  # as the introduction says
    client = demo.connect(None, {"channel": "alerts", "last": 1})
    client.receive_until(lambda items: any(item.get("channel") == "alerts" for item in items))

    hub = f"http://127.0.0.1:{demo.port}"
    receipt = HubPublisher(hub, token=demo.login("admin")).publish("alerts", data)
    client.receive_until(lambda items: any(item.get("seq") == receipt.seq for item in items))
    (item,) = [item for item in client.of("alerts") if item["seq"] == receipt.seq]
    assert item["data"] == data | {"suggestedActions": []}
    with pytest.raises(PermissionDenied):
        HubPublisher(hub, token=demo.login("trader")).publish("alerts", data)
    assert demo.end() == 0


def test_a_configured_secret(start: Start) -> None:
    demo = start(environment={"ANALYTICS_HUB_SECRET": SECRET})
    good, bad = mint(SECRET, subject="ann", roles=["admin"]), mint("x" * 32, subject="ann", roles=["admin"])

    demo.connect(good).receive_until(bool)
    with pytest.raises(InvalidStatus) as caught:
        demo.connect(bad)

    assert caught.value.response.status_code == 401
    assert demo.end() == 0
    assert SECRET not in demo.output
    assert bad not in demo.output
    assert "demo-secret" not in demo.output


def test_the_http_endpoints(demo: Demo) -> None:
    def get(path: str, method: str = "GET") -> tuple[int, str, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{demo.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    page = get("/")
    assert page[:2] == (200, "text/html; charset=utf-8")
    assert b"<!doctype html>" in page[2]
    assert get("/", "HEAD") == (200, "text/html; charset=utf-8", b"")
    assert get("/healthz") == (200, "application/json", b'{"status":"ok"}\n')
    assert [get(path)[0] for path in ("/nothing", "/login", "/ws/analytics")] == [404, 405, 426]


def feed_line(channel: str, number: int) -> str:
    return json.dumps({"channel": channel, "type": "tick", "data": {"number": number}}) + "\n"


def test_the_lines_of_a_pipe_are_published_as_they_come(start: Start) -> None:
    demo = start("--feed", "-", stdin=subprocess.PIPE)
    stdin: IO[str] = demo.process.stdin
    client = demo.connect(None, "ticks:EURUSD", "routing-metrics")
    client.receive_until(lambda items: len(items) >= 2)

    stdin.write(feed_line("ticks:EURUSD", 1) + "not JSON\n" + feed_line("routing-metrics", 2))
    stdin.flush()
    client.receive_until(lambda items: len(items) >= 4)
    stdin.close()
    demo.read_until("feed: line 2: ")
    demo.read_until("ended after 2 items, 1 refused")

    assert [item["data"]["number"] for item in client.items[2:]] == [1, 2]
    late = demo.connect(None, {"channel": "ticks:EURUSD", "last": 5})
    assert late.receive_until(lambda items: len(items) >= 3)[2]["data"] == {"number": 1}
    assert demo.process.poll() is None
    demo.process.stdin = None
    assert demo.end() == 0


def test_ctrl_c_ends_a_demo_that_waits_for_its_feed(start: Start) -> None:
    demo = start("--feed", "-", stdin=subprocess.PIPE)

    demo.process.send_signal(signal.SIGINT)
    demo.read_until("Draining")

    assert demo.process.wait() == 0


class TestTail:
    @staticmethod
    def start(start: Start, demo: Demo, *arguments: str, **options: Any) -> Any:
        return start("tail", f"ws://127.0.0.1:{demo.port}", *arguments, kind=Program, **options)

    def test_it_uses_a_token_of_the_demo_and_prints_items(self, demo: Demo, start: Start) -> None:
        tail = self.start(start, demo)

        tail.read_until("using a token of the local demo")
        tail.read_until(r"^[0-9:.]{12} routing-metrics +[0-9]+ routing-decision +symbol=[A-Z]{6} side=")

        assert tail.end() == 0

    def test_json_is_one_item_a_line(self, demo: Demo, start: Start) -> None:
        tail = self.start(start, demo, "--json", "--channel", "routing-metrics")

        item = json.loads(tail.read_until(r"^\{.*\}$")[0])

        assert (item["channel"], item["type"]) == ("routing-metrics", "routing-decision")
        assert tail.end() == 0

    def test_it_ends_without_an_error_when_its_output_is_closed(self, demo: Demo, start: Start) -> None:
        tail = self.start(start, demo)
        tail.read_until("routing-decision")

        tail.process.stdout.close()

        assert tail.process.wait() == 0

    def test_a_rejected_token_ends_it(self, demo: Demo, start: Start) -> None:
        forged = {"ANALYTICS_HUB_TOKEN": mint("x" * 32, subject="ann")}
        tail = self.start(start, demo, environment=forged)

        assert tail.wait() == 1
        assert "rejected the token (HTTP 401" in tail.output
        assert forged["ANALYTICS_HUB_TOKEN"] not in tail.output


class TestReachableFromOtherMachines:
    """The publicly known passwords are valid on other machines only if the operator allows it."""

    @staticmethod
    def login(options: DemoOptions, host: str = "hub.example") -> int:
        body = b'{"username":"admin","password":"admin"}'
        response = respond_demo(options)(Request("POST", "/login", headers={"host": host}, body=body))
        assert response is not None
        return response.status

    def test_logins_are_for_this_machine(self) -> None:
        assert self.login(DemoOptions(secret=SECRET), "localhost:7999") == 200
        assert self.login(DemoOptions(secret=SECRET)) == 403
        assert self.login(DemoOptions(secret=SECRET, host="0.0.0.0", has_login=False), "localhost") == 403
        assert self.login(DemoOptions(secret=SECRET, host="0.0.0.0")) == 200

    def test_the_introduction_contains_only_what_works(self) -> None:
        local = introduction(DemoOptions(secret=SECRET), 7999)
        remote = introduction(DemoOptions(secret=SECRET, host="::", has_login=False, feed="x.ndjson"), 80)

        assert "http://localhost:7999/ " in local
        assert "/login -d" in local
        assert "publishes 100 events a second" in local
        assert "http://localhost:80/ " in remote
        assert "/login" not in remote
        assert "publishes x.ndjson" in remote
        assert "ws://[::1]:7999" in introduction(DemoOptions(secret=SECRET, host="::1"), 7999)
        assert SECRET not in f"{local}{remote}{DemoOptions(secret=SECRET)!r}"


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    """With an empty page, and without the messages of the page before."""
    shared_browser.call("Page.navigate", url="about:blank")
    shared_browser.wait_for("document.readyState === 'complete'")
    shared_browser.complaints.clear()
    return shared_browser


def text(selector: str) -> str:
    return f"document.querySelector('{selector}').innerText"


def open_page(browser: Browser, demo: Demo) -> None:
    """Open the page of the demo, which logs in by itself."""
    browser.call("Page.navigate", url=f"http://127.0.0.1:{demo.port}/")
    browser.wait_for("document.readyState === 'complete' && typeof connect === 'function'")
    browser.wait_for(f"{text('#state')} === 'connected as admin'")


def test_the_page_shows_the_four_channels_and_reconnects_after_a_restart(start: Start, browser: Browser) -> None:
    demo = start("--rate", "2000")
    open_page(browser, demo)

    for condition in (
        "document.querySelectorAll('#routing tr').length === 20",
        "document.querySelectorAll('#lps tr').length === 5",
        "document.querySelectorAll('#symbols tr').length === 8",
        "document.querySelectorAll('#alerts li').length > 0",
        "document.querySelector('#gauge').value > 0",
        "document.querySelector('#lost').value > 0",
        "document.querySelector('#password').value === ''",
    ):
        browser.wait_for(condition)
    assert demo.end() == 0
    browser.wait_for(f"{text('#state')}.startsWith('disconnected (')")
    start("--rate", "100", port=demo.port)
    browser.wait_for(f"{text('#state')} === 'connected as admin'")

    errors = [complaint for complaint in browser.complaints if "ERR_CONNECTION_REFUSED" not in complaint]
    assert errors == [], "neither exceptions nor violations of the content security policy"


def test_the_page_shows_that_a_channel_is_forbidden_and_that_a_token_is_invalid(demo: Demo, browser: Browser) -> None:
    token = demo.login("monitor")
    open_page(browser, demo)

    browser.evaluate(f"document.querySelector('#token').value = '{token}'; document.querySelector('button').click()")
    browser.wait_for(f"{text('#note-routing-metrics')} === 'not for this user (forbidden)'")
    browser.evaluate("document.querySelector('#token').value = 'a.b.c'; document.querySelector('button').click()")
    browser.wait_for(f"{text('#state')} === 'disconnected: the token is invalid or has expired'")
    shown = base64.b64decode(browser.call("Page.captureScreenshot")["data"])

    assert shown.startswith(b"\x89PNG")
    assert browser.complaints == []
