"""permessage-deflate over sockets, with several kinds of clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pytest
from websockets.sync.client import connect

from analytics_hub import Channel, Hub, anonymous
from analytics_hub.http import Request, Response
from analytics_hub.transports.websocket import Compression, serve

from ..support.browser import Browser
from .deflating import BOMB, OFFER, RSV1, deflate, inflate
from .fake_gateway import FakeGateway
from .peer import CONTINUATION, PATH, TEXT, Peer, frame, is_served, serving, upgrade

pytestmark = pytest.mark.anyio

ALL = Compression(threshold=0)
ITEM = {"symbol": "EURUSD", "side": "buy", "volume": 2.5, "decision": "B-book", "note": "x" * 80}


async def test_compression_is_off_by_default() -> None:
    async with serving(FakeGateway()) as port, await Peer.connect(port) as peer:
        await peer.send(upgrade(f"{OFFER}; server_max_window_bits=invalid") + frame(TEXT, deflate(b"data"), rsv=RSV1))

        assert "sec-websocket-extensions" not in (await peer.read_head()).headers
        assert (await peer.read_close()).code == 1002


async def test_a_number_is_not_a_valid_compression() -> None:
    with pytest.raises(TypeError, match="compression is 6; it must be True, False or Compression"):
        await serve(cast("Hub", FakeGateway()), port=0, compression=cast("Any", 6))


async def test_an_idle_client_has_no_decoder() -> None:
    gateway = FakeGateway()
    async with serving(gateway, compression=True) as port, await Peer.open(port, OFFER) as peer:
        packed = deflate(b"hello hello hello hello")
        await peer.send_frame(TEXT, packed[:3], rsv=RSV1, fin=False)
        await peer.send_frame(CONTINUATION, packed[3:])
        await peer.send_frame(TEXT, b"plain")
        await gateway.until(lambda: len(gateway.session.received) == 2)
        protocol: Any = gateway.session.transport.protocol  # type: ignore[attr-defined]
        async with await Peer.open(port) as other:
            await other.send_frame(TEXT, packed, rsv=RSV1)  # with the decoder that the first has released

            assert (await other.read_close()).code == 1002

        assert gateway.sessions[0].received == ["hello hello hello hello", "plain"]
        assert protocol._decoder is None
        assert await is_served(port)


async def test_a_decompression_bomb_is_refused_and_not_delivered() -> None:
    gateway = FakeGateway()
    async with serving(gateway, compression=True) as port, await Peer.open(port, OFFER) as peer:
        await peer.send(frame(TEXT, deflate(b"first"), rsv=RSV1) + frame(TEXT, BOMB[:60_000], rsv=RSV1))
        close = await peer.read_close()

        assert (close.code, close.reason) == (1009, "a message may have at most 65536 bytes in 1024 fragments")
        assert gateway.session.received == ["first"]


def talk(port: int, subprotocols: list[Any], count: int) -> list[Any]:
    """The data that a client of `websockets` receives with its default compression."""
    read: Any = msgspec.msgpack.decode if subprotocols else json.loads
    write: Any = msgspec.msgpack.encode if subprotocols else json.dumps
    with connect(f"ws://127.0.0.1:{port}{PATH}", subprotocols=subprotocols or None, proxy=None) as client:
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        client.send(write({"action": "subscribe", "channels": [{"channel": "orders", "last": 1000}]}))
        data: list[Any] = []
        while len(data) < count:
            data += [item["data"] for item in read(client.recv(timeout=20)) if item.get("channel") == "orders"]
        return data


@pytest.mark.parametrize("subprotocols", [[], ["analytics-hub.v1.msgpack"]], ids=["json", "msgpack"])
async def test_the_websockets_client_with_its_default_compression(subprotocols: list[str]) -> None:
    hub = Hub([Channel("orders")], authenticate=anonymous)
    async with hub, serving(hub, compression=True) as port:
        for _ in range(200):
            hub.publish("orders", ITEM)
        received = await anyio.to_thread.run_sync(talk, port, subprotocols, 200)

        assert received == [ITEM] * 200


async def test_a_frame_is_compressed_once_for_all_clients_with_compression() -> None:
    hub = Hub([Channel("orders")], authenticate=anonymous)
    subscribe = b'{"action":"subscribe","channels":["orders"]}'
    packed = deflate(subscribe)
    async with (
        hub,
        serving(hub, compression=ALL) as port,
        await Peer.open(port, OFFER, then=frame(TEXT, subscribe)) as first,
        await Peer.open(port, f"{OFFER}; client_max_window_bits", then=frame(TEXT, packed, rsv=RSV1)) as second,
        await Peer.open(port, then=frame(TEXT, subscribe)) as plain,
    ):
        while hub.statistics().subscriptions < 3:
            await anyio.lowlevel.checkpoint()
        cohorts = hub.statistics().cohorts
        for _ in range(100):
            hub.publish("orders", ITEM)
        wires = [await read_until(peer, b"orders") for peer in (first, second, plain)]

        assert cohorts == 2
        assert wires[0] == wires[1]
        assert len(wires[0]) * 8 < len(wires[2])


async def read_until(peer: Peer, text: bytes) -> bytes:
    """The payload of the first frame with data, compressed or not."""
    while True:
        first, second = await peer.read(2)
        length = second if second < 126 else int.from_bytes(await peer.read(2), "big")
        payload = await peer.read(length)
        if text in (plain := inflate(payload) if first & 0x40 else payload) and b'"seq":1,' in plain:
            return payload


PAGE = b"""<!doctype html><script>
const seen = [];
const socket = new WebSocket(`ws://${location.host}/ws/analytics`);
socket.onopen = () => socket.send(JSON.stringify({action: "subscribe", channels: Array(50).fill("orders")}));
socket.onmessage = (message) => seen.push(...JSON.parse(message.data).filter((item) => item.channel === "orders"));
</script>"""


def browse(folder: Path, port: int) -> None:
    browser = Browser(folder)
    try:
        browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
        browser.wait_for("typeof seen === 'object' && seen.length >= 100")
        extensions = browser.evaluate("socket.extensions")
        assert extensions.startswith("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
        assert browser.evaluate("seen.map((item) => item.data)")[:100] == [ITEM] * 100
    finally:
        browser.close()


async def test_a_browser_receives_compressed_frames(tmp_path: Path, anyio_backend: tuple[str, dict[str, Any]]) -> None:
    if anyio_backend[1] != {"use_uvloop": False}:
        pytest.skip("one loop is enough for a browser")
    hub = Hub([Channel("orders")], authenticate=anonymous)

    def respond(request: Request) -> Response:
        return Response(200, PAGE, "text/html")

    async with hub, serving(hub, compression=True, respond=respond) as port, anyio.create_task_group() as tasks:

        async def publish() -> None:
            while True:
                for _ in range(20):
                    hub.publish("orders", ITEM)
                await anyio.sleep(0.05)

        tasks.start_soon(publish)
        await anyio.to_thread.run_sync(browse, tmp_path / "chromium", port)
        tasks.cancel_scope.cancel()
