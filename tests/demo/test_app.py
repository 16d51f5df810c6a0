"""The demo as its users run it: the real command in a process of its own, and real clients."""

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
"""Seconds after which a process that hangs is killed; nothing is measured with it."""
FOUR = [channel.name for channel in CHANNELS]
SECRET = "s" * 32


class Program:
    """A command of `analytics-hub` under way."""

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
        """Signal it, and return its exit code; afterwards `output` is all that it printed."""
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
        """What `curl -X POST -d` does: JSON under the content type of a form."""
        body = json.dumps({"username": name, "password": name}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/login", data=body) as answer:
            token: str = json.load(answer)["token"]
        return token

    def connect(self, token: str | None = None, *channels: Any) -> Client:
        url = f"ws://127.0.0.1:{self.port}/ws/analytics?token={token or self.login()}"
        # Who does not read does not see the end either, and would wait for it in vain.
        socket = connect(url, proxy=None, ping_interval=None, close_timeout=0.1)
        return Client(self._clients.enter_context(socket), *channels)

    def abandon(self) -> None:
        super().abandon()
        self._clients.close()


class Client:
    """A client that only subscribes and reads, and what it has received."""

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


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in ("ANALYTICS_HUB_SECRET", "ANALYTICS_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts a demo; whatever is still running after the test is killed."""
    running: list[Program] = []

    def begin(*arguments: str, kind: type[Program] = Demo, **options: Any) -> Program:
        more = options.pop("environment", {})
        running.append(kind(*arguments, environment=environment | more, **options))
        return running[-1]

    yield begin
    for program in running:
        program.abandon()


def test_the_main_job(start: Start) -> None:
    """Log in, connect, subscribe; and what arrives is what the simulation with the same seed says, item by item."""
    demo = start("--rate", "900", "--seed", "7")
    client = demo.connect(None, *({"channel": name, "last": 1000} for name in FOUR))
    client.receive_until(lambda items: set(FOUR) <= {item.get("channel") for item in items})

    assert demo.end() == 0
    closed = client.receive_to_the_end()

    assert closed.rcvd is not None
    assert closed.rcvd.code == 1012
    assert [item["type"] for item in client.items if item["type"].startswith("$")] == [
        "$hello",
        "$subscribed",
        "$drain",
    ]
    told: dict[str, list[Any]] = {name: [] for name in FOUR}
    office = BackOffice(7)
    for channel in FOUR:
        for item in client.of(channel):
            while len(told[channel]) < item["seq"]:
                event = next(office)
                told[event.channel].append(json.loads(encode(event.data)))
            assert item["data"] == told[channel][item["seq"] - 1]
    for channel in ("routing-metrics", "alerts"):
        numbers = [item["seq"] for item in client.of(channel)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "and nothing is missing"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_it_ends_in_peace_also_with_a_client_that_never_reads(start: Start, number: int) -> None:
    demo = start("--rate", "20000")
    demo.connect(None, *FOUR)
    idle = demo.connect()
    idle.receive_until(bool)

    assert demo.end(number) == 0
    assert demo.output.endswith("Draining.\n")


def test_over_tls_and_a_new_certificate_on_sighup(start: Start, tmp_path: Path) -> None:
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
    assert f"https://127.0.0.1:{demo.port}/ " in demo.read_until("page").string
    write_certificate(path)
    assert not is_trusted()
    demo.process.send_signal(signal.SIGHUP)
    while not is_trusted():  # until the signal has been taken; `GUARD` ends the demo, and with it this
        pass
    assert demo.end() == 0


def test_roles_decide_what_each_account_sees(start: Start) -> None:
    demo = start()
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

    assert demo.end() == 0
    assert allowed == {
        "admin": set(FOUR),
        "trader": {"exposure-updates", "alerts"},
        "monitor": {"alerts", "lp-performance"},
    }


def test_the_day_has_begun_before_the_first_client_comes(start: Start) -> None:
    """At one event a second nobody would live to see the first alert."""
    demo = start("--rate", "1")
    client = demo.connect(None, {"channel": "alerts", "last": 1})

    client.receive_until(lambda items: any(item.get("channel") == "alerts" for item in items))
    assert demo.end() == 0


def test_an_admin_publishes_by_hand_what_the_introduction_says(start: Start) -> None:
    demo = start("--rate", "1")
    client = demo.connect(None, "alerts")
    client.receive_until(lambda items: len(items) >= 2)
    data = json.loads(demo.read_until(r'\{"severity".*\}')[0])

    hub = f"http://127.0.0.1:{demo.port}"
    receipt = HubPublisher(hub, token=demo.login("admin")).publish("alerts", data)
    client.receive_until(lambda items: any(item.get("seq") == receipt.seq for item in items))
    (item,) = [item for item in client.of("alerts") if item["seq"] == receipt.seq]
    assert item["data"] == data | {"suggestedActions": []}
    with pytest.raises(PermissionDenied):
        HubPublisher(hub, token=demo.login("trader")).publish("alerts", data)
    assert demo.end() == 0


def test_a_secret_of_the_users_own(start: Start) -> None:
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


def test_the_http_next_to_the_socket(start: Start) -> None:
    demo = start()

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
    assert demo.end() == 0


def feed_line(channel: str, number: int) -> str:
    return json.dumps({"channel": channel, "type": "tick", "data": {"number": number}}) + "\n"


def test_a_feed_from_a_pipe_is_published_as_it_comes(start: Start) -> None:
    demo = start("--feed", "-", stdin=subprocess.PIPE)
    stdin: IO[str] = demo.process.stdin
    client = demo.connect(None, "ticks:EURUSD", "routing-metrics")
    client.receive_until(lambda items: len(items) >= 2)

    stdin.write(feed_line("ticks:EURUSD", 1) + "no JSON\n" + feed_line("routing-metrics", 2))
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


def test_ctrl_c_ends_it_while_it_waits_for_a_feed(start: Start) -> None:
    demo = start("--feed", "-", stdin=subprocess.PIPE)

    demo.process.send_signal(signal.SIGINT)
    demo.read_until("Draining")

    assert demo.process.wait() == 0


def test_a_feed_from_a_file(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "feed.ndjson"
    file.write_text("".join(feed_line("alerts", number) for number in range(300)))
    demo = start("--feed", str(file))
    demo.read_until("ended after 300 items")

    client = demo.connect(None, {"channel": "alerts", "last": 300})
    client.receive_until(lambda items: len(items) >= 302)

    assert [item["data"]["number"] for item in client.of("alerts")] == list(range(300))
    assert demo.end() == 0


class TestTail:
    def test_it_finds_the_token_of_the_demo_and_prints_items(self, start: Start) -> None:
        demo = start()
        tail = start("tail", f"ws://127.0.0.1:{demo.port}", kind=Program)

        tail.read_until("using a token of the demo")
        tail.read_until(r"^[0-9:.]{12} routing-metrics +[0-9]+ routing-decision +symbol=[A-Z]{6} side=")

        assert tail.end() == 0
        assert demo.end() == 0

    def test_json_is_one_item_a_line(self, start: Start) -> None:
        demo = start()
        tail = start("tail", f"ws://127.0.0.1:{demo.port}", "--json", "--channel", "routing-metrics", kind=Program)

        item = json.loads(tail.read_until(r"^\{.*\}$")[0])

        assert (item["channel"], item["type"]) == ("routing-metrics", "routing-decision")
        assert tail.end() == 0

    def test_a_restart_is_survived_and_what_it_cost_is_shown(self, start: Start, tmp_path: Path) -> None:
        demo = start()
        (tmp_path / "token").write_text(demo.login() + "\n")
        url = f"ws://127.0.0.1:{demo.port}"
        tail = start("tail", url, "routing-metrics", "--token-file", str(tmp_path / "token"), kind=Program)
        tail.read_until("routing-decision")

        assert demo.end() == 0
        tail.read_until("the server drains and asks to come back")
        tail.read_until(r"disconnected \(1012")
        start(port=demo.port)
        tail.read_until("resumed, but not everything was kept")
        tail.read_until("gap: some items")
        tail.read_until("routing-decision")

        assert tail.end() == 0

    def test_a_reader_that_has_enough_ends_it_quietly(self, start: Start) -> None:
        demo = start()
        tail = start("tail", f"ws://127.0.0.1:{demo.port}", kind=Program)
        tail.read_until("routing-decision")

        tail.process.stdout.close()

        assert tail.process.wait() == 0

    def test_a_token_that_is_not_good_ends_it(self, start: Start) -> None:
        demo = start()
        forged = {"ANALYTICS_HUB_TOKEN": mint("x" * 32, subject="ann")}
        tail = start("tail", f"ws://127.0.0.1:{demo.port}", kind=Program, environment=forged)

        assert tail.wait() == 1
        assert "wants another token (HTTP 401" in tail.output
        assert forged["ANALYTICS_HUB_TOKEN"] not in tail.output


class TestOpenToOthers:
    """Off this machine everybody's passwords open nothing unless the operator says so."""

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

    def test_the_introduction_names_what_works(self) -> None:
        local = introduction(DemoOptions(secret=SECRET), 7999)
        remote = introduction(DemoOptions(secret=SECRET, host="::", has_login=False, feed="x.ndjson"), 80)

        assert "http://127.0.0.1:7999/ " in local
        assert "/login -d" in local
        assert "publishes 100 events a second" in local
        assert "http://localhost:80/ " in remote
        assert "/login" not in remote
        assert "publishes x.ndjson" in remote
        assert "ws://[::1]:7999" in introduction(DemoOptions(secret=SECRET, host="::1"), 7999)
        assert SECRET not in f"{local}{remote}{DemoOptions(secret=SECRET)!r}"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "chromium")
    yield opened
    opened.close()


def text(selector: str) -> str:
    return f"document.querySelector('{selector}').innerText"


def test_the_page_shows_the_four_channels_and_comes_back_after_a_restart(start: Start, browser: Browser) -> None:
    demo = start("--rate", "2000")
    browser.call("Page.navigate", url=f"http://127.0.0.1:{demo.port}/")
    browser.wait_for("document.readyState === 'complete' && typeof connect === 'function'")

    browser.wait_for(f"{text('#state')} === 'connected as admin'")
    for condition in (
        "document.querySelectorAll('#routing tr').length === 20",
        "document.querySelectorAll('#lps tr').length === 5",
        "document.querySelectorAll('#symbols tr').length === 8",
        "document.querySelectorAll('#alerts li').length > 0",
        "document.querySelector('#gauge').value > 0",
        "document.querySelector('#lost').value > 0",
    ):
        browser.wait_for(condition)
    assert demo.end() == 0
    browser.wait_for(f"{text('#state')}.startsWith('disconnected (')")
    start("--rate", "100", port=demo.port)
    browser.wait_for(f"{text('#state')} === 'connected as admin'")

    refused = [complaint for complaint in browser.complaints if "ERR_CONNECTION_REFUSED" not in complaint]
    assert refused == [], "neither exceptions nor the content security policy"


def test_the_page_says_what_a_role_may_not_see(start: Start, browser: Browser) -> None:
    demo = start()
    token = demo.login("monitor")
    browser.call("Page.navigate", url=f"http://127.0.0.1:{demo.port}/")
    browser.wait_for("document.readyState === 'complete' && typeof connect === 'function'")
    browser.wait_for(f"{text('#state')} === 'connected as admin'")

    browser.evaluate(f"document.querySelector('#token').value = '{token}'; document.querySelector('button').click()")
    browser.wait_for(f"{text('#note-routing-metrics')} === 'not for this user (forbidden)'")
    browser.evaluate("document.querySelector('#token').value = 'a.b.c'; document.querySelector('button').click()")
    browser.wait_for(f"{text('#state')} === 'disconnected: the token is invalid or has expired'")
    shown = base64.b64decode(browser.call("Page.captureScreenshot")["data"])

    assert shown.startswith(b"\x89PNG")
    assert browser.complaints == []
