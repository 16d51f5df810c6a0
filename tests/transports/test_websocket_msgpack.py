"""MessagePack, by subprotocol, and JSON on the same port."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from analytics_hub import Channel, Hub, anonymous

from .peer import BINARY, TEXT, Peer, serving

pytestmark = pytest.mark.anyio

PROTOCOL = "Sec-WebSocket-Protocol: analytics-hub.v1"
SUBSCRIBE = {"action": "subscribe", "id": 1, "channels": ["orders"]}


async def read_items(peer: Peer, opcode: int) -> list[dict[str, Any]]:
    received = await peer.read_frame()
    assert received.opcode == opcode
    decode = msgspec.msgpack.decode if opcode == BINARY else msgspec.json.decode
    items: list[dict[str, Any]] = decode(received.payload)
    return items


async def read_until(peer: Peer, opcode: int, type_: str) -> dict[str, Any]:
    while True:
        for item in await read_items(peer, opcode):
            if item["type"] == type_:
                return item


async def test_both_formats_have_the_same_values() -> None:
    hub = Hub([Channel("orders")], authenticate=anonymous)
    async with (
        hub,
        serving(hub) as port,
        await Peer.open(port, f"{PROTOCOL}.msgpack") as packed,
        await Peer.open(port, f"{PROTOCOL}.json") as plain,
    ):
        await packed.send_frame(BINARY, msgspec.msgpack.encode(SUBSCRIBE))
        await plain.send_frame(TEXT, msgspec.json.encode(SUBSCRIBE))
        answers = [await read_until(packed, BINARY, "$subscribed"), await read_until(plain, TEXT, "$subscribed")]
        hub.publish("orders", {"price": 1.5, "big": 2**60, "text": "café", "nothing": None})
        items = [await read_until(packed, BINARY, "orders"), await read_until(plain, TEXT, "orders")]

        assert answers[0]["channels"] == answers[1]["channels"]
        assert items[0] == items[1]
        assert items[0]["data"] == {"price": 1.5, "big": 2**60, "text": "café", "nothing": None}


async def test_a_text_message_on_a_binary_session_is_answered() -> None:
    hub = Hub([Channel("orders")], authenticate=anonymous)
    async with hub, serving(hub) as port, await Peer.open(port, f"{PROTOCOL}.msgpack") as peer:
        await peer.send_frame(TEXT, b'{"action":"ping"}')
        error = await read_until(peer, BINARY, "$error")
        await peer.send_frame(BINARY, msgspec.msgpack.encode({"action": "ping", "id": 7}))
        pong = await read_until(peer, BINARY, "$pong")

        assert error["code"] == "bad-request"
        assert pong["id"] == 7
