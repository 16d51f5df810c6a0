"""Event streams behind real proxies that compress: every event arrives when it is published."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from ..project.layout import ROOT
from ..support.programs import go_without, need
from .process import TIMEOUT, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals here")

APP: Final = """
from analytics_hub import Channel, Hub, anonymous
from analytics_hub.http import Response
from analytics_hub.transports.asgi import HubApp

hub = Hub([Channel("a")], authenticate=anonymous)


def respond(request):
    hub.publish("a", request.query)
    return Response(200, b"{}", "application/json")


app = HubApp(hub, respond=respond)
"""
COMPRESSING: Final = ROOT / "tests" / "hosts" / "compressing"
NGINX: Final = """
daemon off;
master_process off;
error_log stderr;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    gzip on;
    gzip_min_length 1;
    gzip_proxied any;
    gzip_types text/event-stream application/json;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass {target}; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the hub."""
    folder = tmp_path_factory.mktemp("origin")
    (folder / "app.py").write_text(APP)

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "uvicorn", "--port", str(port), "app:app"]

    with Server(command, folder, environment={}) as server:
        yield f"http://127.0.0.1:{server.port}"


def node_command(origin: str) -> list[list[str]]:
    node = need("node")
    if not (COMPRESSING / "node_modules" / "compression").is_dir():
        go_without("compression is not installed; to get it: npm --prefix tests/hosts/compressing ci")
    return [[node, str(COMPRESSING / "proxy.mjs")], [origin]]


def check(proxy: str, origin: str) -> None:
    """The proxy compresses, except for streams; each event passes before the next one is published."""
    headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
    with httpx.Client(timeout=TIMEOUT, trust_env=False) as client:
        document = client.get(f"{proxy}/asyncapi.json", headers={"Accept-Encoding": "gzip"})
        assert document.headers["Content-Encoding"] == "gzip"
        with client.stream("GET", f"{proxy}/events?channels=a", headers=headers) as stream:
            lines = stream.iter_lines()
            read_items(lines, "$subscribed")
            for number in range(3):
                httpx.get(f"{origin}/say?{number}", timeout=TIMEOUT, trust_env=False)
                assert read_items(lines, "a")[-1]["data"] == str(number)


def read_items(lines: Iterator[str], type_: str) -> list[dict[str, Any]]:
    """The items of the next event with one of this type."""
    for line in lines:
        if line.startswith("data: "):
            items: list[dict[str, Any]] = json.loads(line.removeprefix("data: "))
            if any(item["type"] == type_ for item in items):
                return items
    raise EOFError


def test_an_express_server_with_compression_passes_each_event_on(origin: str, tmp_path: Path) -> None:
    program, arguments = node_command(origin)

    with Server(lambda port: [*program, str(port), *arguments], tmp_path, environment={}) as proxy:
        check(f"http://127.0.0.1:{proxy.port}", origin)


def test_nginx_that_compresses_event_streams_passes_each_event_on(origin: str, tmp_path: Path) -> None:
    nginx = need("nginx")

    def command(port: int) -> list[str]:
        path = tmp_path / "nginx.conf"
        path.write_text(NGINX.format(folder=tmp_path, port=port, target=origin))
        return [nginx, "-e", "stderr", "-c", str(path)]

    with Server(command, tmp_path, environment={}) as proxy:
        check(f"http://127.0.0.1:{proxy.port}", origin)
