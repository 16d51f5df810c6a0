"""The output of `analytics-hub tail`. `tests/client` tests its connection."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import TextMessage

from analytics_hub import Channel, Hub, anonymous
from analytics_hub.cli.errors import OutputError, write_line
from analytics_hub.cli.rows import as_json, gap_row, row
from analytics_hub.cli.tail import Follower
from analytics_hub.client import ConnectionClosed, Epochs, Gap, HubClient, Item, Position, Resumed
from analytics_hub.transports.websocket import serve

from ..client.scripted_server import Peer, scripted_server

STAMP = "2026-01-19T10:30:45.160Z"


def item(data: Any, **more: Any) -> Item[Any]:
    return Item("a", 1, "t", STAMP, data, **more)


class TestRows:
    def test_a_row(self) -> None:
        data = {"symbol": "EURUSD", "spread": 0.00012, "note": "two words", "lp": None, "list": [1, 2], "n": 1234567.8}

        assert row(Item("lp-performance", 5120, "lp-metrics", STAMP, data)) == (
            "10:30:45.160 lp-performance      5120 lp-metrics       "
            'symbol=EURUSD spread=0.00012 note="two words" lp=null list=[1,2] n=1234567.80'
        )

    def test_rows_of_other_data(self) -> None:
        assert row(item("text")).endswith(" text")
        assert row(item([1, None])).endswith(" [1,null]")
        assert row(item({})).endswith(" t")
        assert row(item(None, key="LMAX", deleted=True)).endswith(" LMAX deleted")

    def test_rows_of_gaps(self) -> None:
        assert gap_row(Gap("a", 11, 19, 9, "buffer", STAMP)).endswith("gap: 9 items, 11 to 19 (buffer)")
        assert gap_row(Gap("a", 11, 11, 1, "rate", STAMP)).endswith("gap: 1 item, 11 to 11 (rate)")
        assert gap_row(Gap("a", None, None, None, "retention", STAMP)).endswith(
            "gap: an unknown number of items (retention)"
        )

    @given(st.text())
    def test_rows_contain_no_control_characters(self, text: str) -> None:
        lines = [
            row(item({text: text})),
            row(Item(text, 1, text, text, text)),
            row(item(None, key=text, deleted=True)),
            gap_row(Gap(text, 1, 2, 2, text, text)),
        ]

        assert all(line.isprintable() for line in lines)

    def test_json_is_as_on_the_wire(self) -> None:
        raw = msgspec.Raw(b'{"x":1.50}')

        assert as_json(item(raw, key="k")) == (
            f'{{"channel":"a","seq":1,"key":"k","type":"t","timestamp":"{STAMP}","data":{{"x":1.50}}}}'
        )
        assert json.loads(as_json(item(None, key="k", deleted=True)))["deleted"] is True
        gap = json.loads(as_json(Gap("a", None, None, None, "retention", STAMP, Epochs("e1", "e2"))))
        assert gap["type"] == "$gap"
        assert gap["epoch"] == {"old": "e1", "new": "e2"}
        assert gap["from"] is gap["to"] is gap["count"] is None
        assert json.loads(as_json(Gap("a", 1, 2, 2, "rate")))["to"] == 2


def test_characters_that_the_terminal_lacks_are_escaped_as_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="latin-1", newline="\n"))

    write_line('"é"')
    write_line('"é€𝄞"')

    assert output.getvalue() == b'"\xe9"\n"\\u00e9\\u20ac\\ud834\\udd1e"\n'


def fail(text: str) -> None:
    raise OutputError(BrokenPipeError())


@pytest.mark.anyio
class TestFollower:
    async def test_items_gaps_and_notices(self) -> None:
        async def first(peer: Peer) -> None:
            await peer.accept_subscription(5)
            data = {"channel": "a", "seq": 6, "type": "t", "timestamp": STAMP, "data": 60}
            lost = {"type": "$gap", "channel": "a", "from": 7, "to": 7, "count": 1, "reason": "rate"}
            error = {"type": "$error", "code": "bad-request", "message": "what?"}
            await peer.send_items(data, lost, error, {"type": "$drain", "in": 0.01})
            await peer.close(1012, "restart")

        async def second(peer: Peer) -> None:
            await peer.accept_subscription(7)
            await peer.close(1000)

        written: list[str] = []
        reported: list[str] = []
        follower = Follower(["a"], last=3, write=written.append, report=reported.append)
        async with scripted_server(first, second) as server:
            with pytest.raises(ConnectionClosed):
                await follower.follow(server.client(on_event=follower.on_event))

        assert [line.split()[-1] for line in written] == ["60", "(rate)"]
        assert reported == [
            "bad-request: what?",
            "the server is shutting down; reconnecting in 0.0 s",
            "disconnected (1012, restart); reconnecting in 0.0 s",
            "channel a resumed after item 7, without loss",
        ]

    async def test_what_the_hub_says_about_a_subscription_is_reported(self) -> None:
        reported: list[str] = []
        hub = Hub([Channel("desk:*")], authenticate=anonymous, grace=0.1)
        async with hub, anyio.create_task_group() as tasks:
            port = await tasks.start(lambda task_status: serve(hub, port=0, task_status=task_status))

            def report(text: str) -> None:
                reported.append(text)
                tasks.cancel_scope.cancel()

            with anyio.fail_after(30):
                await Follower(["desk:fxx"], report=report).follow(HubClient(f"ws://127.0.0.1:{port}"))

        assert reported == ["channel desk:fxx: nothing was published to this member of 'desk:*' yet"]

    def test_a_loss_while_disconnected_is_reported(self) -> None:
        reported: list[str] = []
        Follower(["a"], report=reported.append).on_event(Resumed("a", Position("e", 7), complete=False))

        assert reported == ["channel a resumed after item 7, but not all items were kept"]

    async def test_an_item_that_cannot_be_decoded_does_not_end_the_channel(self) -> None:
        async def script(peer: Peer) -> None:
            await peer.accept_subscription()
            await peer.send(TextMessage('[{"channel":"a","seq":1,"type":"t","data":1e400}]'))
            await peer.send_items({"channel": "a", "seq": 2, "type": "t", "timestamp": STAMP, "data": 20})
            await peer.close(1000)

        written: list[str] = []
        reported: list[str] = []
        async with scripted_server(script) as server:
            with pytest.raises(ConnectionClosed):
                await Follower(["a"], write=written.append, report=reported.append).follow(server.client())

        assert [line.split()[-1] for line in written] == ["20"]
        assert reported == ["item 1 of channel 'a' cannot be decoded: Number out of range"]

    async def test_the_command_ends_when_every_channel_is_refused(self) -> None:
        async def script(peer: Peer) -> None:
            await peer.accept()
            for _ in range(2):
                command = await peer.receive_command()
                name = command["channels"][0]["channel"]
                refusal = {"channel": name, "ok": False, "code": "forbidden", "message": "no"}
                await peer.send_items({"type": "$subscribed", "id": command["id"], "channels": [refusal]})
            await peer.wait_closed()

        reported: list[str] = []
        async with scripted_server(script) as server:
            await Follower(["a", "b"], report=reported.append).follow(server.client())

        assert sorted(reported) == ["channel a refused: forbidden: no", "channel b refused: forbidden: no"]

    async def test_the_command_ends_when_the_output_cannot_be_written(self) -> None:
        async def script(peer: Peer) -> None:
            await peer.accept_subscription()
            await peer.send_items({"channel": "a", "seq": 1, "type": "t", "data": 1})
            await peer.wait_closed()

        async with scripted_server(script) as server:
            with pytest.raises(OutputError):
                await Follower(["a"], as_json=True, write=fail).follow(server.client())
