"""`publish`, `publish_confirmed` and `delete`: the data they accept, and the exceptions they raise."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import anyio
import anyio.to_thread
import msgspec
import numpy as np
import pydantic
import pytest
from anyio.lowlevel import checkpoint
from django.utils.safestring import SafeString

from analytics_hub import (
    Channel,
    ChannelLimitReached,
    Hub,
    HubClosed,
    InvalidChannel,
    InvalidItem,
    ItemTooLarge,
    Receipt,
    TableFull,
    Tuning,
    UnknownChannel,
)
from analytics_hub.exceptions import HubError
from analytics_hub.transports.memory import subscribe

from .rig import FakeTransport, new_hub, plug_in, read, read_data, running

pytestmark = pytest.mark.anyio


class Side(Enum):
    BUY = "buy"


@dataclass
class Point:
    x: int
    y: float


class Quote(msgspec.Struct, rename="camel"):
    lp_name: str
    spread: float


class Tagged(msgspec.Struct, tag="tagged-item"):
    id: str


def list_in_itself() -> list[Any]:
    data: list[Any] = []
    data.append(data)
    return data


# --- accepted data


ACCEPTED: dict[str, tuple[object, object]] = {
    "nothing": (None, None),
    "a number": (7, 7),
    "text": ("ä€😀", "ä€😀"),
    "nested": ([1, [2, {"three": None}]], [1, [2, {"three": None}]]),
    "a dataclass": (Point(1, 2.5), {"x": 1, "y": 2.5}),
    "a struct": (Quote("LMAX", 0.1), {"lpName": "LMAX", "spread": 0.1}),
    "an enum": (Side.BUY, "buy"),
    "a decimal": (Decimal("1.50"), "1.50"),
    "a time": (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
    "a UUID": (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "not a number": (math.nan, None),
    "raw": (msgspec.Raw(b'{"a": [1, 2]}'), {"a": [1, 2]}),
    "raw on lines": (msgspec.Raw(b'{\n  "a": [1,\r\n 2]\n}\n'), {"a": [1, 2]}),
    "raw within": ({"nested": msgspec.Raw(b'{\n"a": 1}')}, {"nested": {"a": 1}}),
}


@pytest.mark.parametrize(("data", "arrives_as"), ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_data_that_msgspec_encodes_arrives(data: object, arrives_as: object) -> None:
    async with running() as hub, subscribe(hub, "events") as client:
        hub.publish("events", data)

        assert await read_data(client, "events", 1) == [arrives_as]


async def test_data_may_be_changed_after_publish() -> None:
    async with running() as hub, subscribe(hub, "events", "durable") as client:
        data = {"orders": [1, 2]}
        hub.publish("events", data)
        hub.publish("durable", data)
        data["orders"].append(3)
        del data["orders"]

        assert await read_data(client, "events", 1) == [{"orders": [1, 2]}]
        assert await read_data(client, "durable", 1) == [{"orders": [1, 2]}]


async def test_the_type_is_the_one_given_or_the_channels_or_the_tag_or_the_name() -> None:
    channels = [Channel("typed", type="of-the-channel"), Channel("plain")]
    async with running(channels) as hub, subscribe(hub, "typed", "plain") as client:
        hub.publish("typed", 1, type="given")
        hub.publish("typed", Tagged("x"))
        hub.publish("plain", Tagged("x"))
        hub.publish("plain", 1)
        items = await read(client, lambda item: item.get("channel") == "plain" and item["seq"] == 2)

        assert [item["type"] for item in items] == ["given", "of-the-channel", "tagged-item", "plain"]


async def test_the_key_is_the_one_given_or_the_field_that_the_channel_names() -> None:
    channels = [Channel("named", mode="table", key="lpName"), Channel("unnamed", mode="table")]
    async with running(channels) as hub, subscribe(hub, "named", "unnamed") as client:
        hub.publish("named", {"lpName": "A"})
        hub.publish("named", Quote("B", 1.0))
        hub.publish("named", {"lpName": "A"}, key="C")
        hub.publish("unnamed", 1, key="D")
        items = await read(client, lambda item: item.get("channel") == "unnamed")

        assert [item["key"] for item in items] == ["A", "B", "C", "D"]


class Venue(pydantic.BaseModel):
    id: UUID
    rank: int = 1


class Row:
    """As those of databases: an attribute need not be the column of its name."""

    id = "an attribute"

    def keys(self) -> list[str]:
        return ["id"]

    def __getitem__(self, key: str) -> int:
        return {"id": 7}[key]


class Pair(NamedTuple):
    id: int
    size: int


KEYED: dict[str, tuple[object, str]] = {
    "an integer": ({"id": 7}, "7"),
    "a UUID": ({"id": UUID(int=1)}, str(UUID(int=1))),
    "an enum": ({"id": Side.BUY}, "buy"),
    "a safe string": ({"id": SafeString("a")}, "a"),
    "a model": (Venue(id=UUID(int=1)), str(UUID(int=1))),
    "a row": (Row(), "7"),
    "a named tuple": (Pair(7, 1), "7"),
    "a structured scalar": (np.array([(7, 1)], [("id", int), ("size", int)])[0], "7"),
    "raw JSON": (msgspec.Raw(b'{"id":7}'), "7"),
}


@pytest.mark.parametrize(("data", "key"), KEYED.values(), ids=KEYED.keys())
async def test_a_key_is_the_text_of_what_the_data_shows(data: object, key: str) -> None:
    """Published, confirmed, published by a thread, and deleted: always the same key."""
    async with running() as hub, subscribe(hub, "table") as client:
        hub.publish("table", data)
        await hub.publish_confirmed("table", data)
        await anyio.to_thread.run_sync(hub.publish, "table", data)
        items = await read(client, lambda item: item.get("seq") == 3)
        hub.delete("table", json.loads(key) if key.isdigit() else key)
        items += await read(client, lambda item: "deleted" in item)

        assert {item["key"] for item in items if "seq" in item} == {key}


async def test_keys_that_are_given_may_be_of_any_such_type() -> None:
    async with running([Channel("table", mode="table")]) as hub, subscribe(hub, "table") as client:
        for key in (7, UUID(int=1), Side.BUY, SafeString("a"), np.int64(8)):
            hub.publish("table", 1, key=key)
        await hub.publish_confirmed("table", 1, key=9)
        hub.delete("table", UUID(int=1))
        items = await read(client, lambda item: "deleted" in item)

        assert {item["key"] for item in items if item.get("deleted")} == {str(UUID(int=1))}
        kept = {item["key"] for item in items if "seq" in item} - {str(UUID(int=1))}
        assert kept == {"7", "buy", "a", "8", "9"}


async def test_names_and_types_may_be_subclasses_of_str() -> None:
    class Name(StrEnum):
        DECLARED = "plain"
        KIND = "kind"

    channels = [Channel(Name.DECLARED, type=SafeString("of-the-channel")), Channel(SafeString("user:*"))]
    async with running(channels) as hub, subscribe(hub, "plain", "user:1", "user:2") as client:
        hub.publish(Name.DECLARED, 1)
        hub.publish(SafeString("plain"), 1, type=Name.KIND)
        hub.publish(SafeString("user:1"), 1)
        await anyio.to_thread.run_sync(lambda: hub.publish(SafeString("user:2"), 1, type=SafeString("t")))
        items = await read(client, lambda item: item.get("channel") == "user:2")

        assert [(item["channel"], item["type"]) for item in items if "seq" in item] == [
            ("plain", "of-the-channel"),
            ("plain", "kind"),
            ("user:1", "user:1"),
            ("user:2", "t"),
        ]


async def test_a_new_member_may_be_named_by_a_subclass_of_str() -> None:
    async with running() as hub:
        hub.publish(SafeString("user:new"), 1)
        async with subscribe(hub, {"channel": "user:new", "last": 1}) as client:
            assert await read_data(client, "user:new", 1) == [1]


async def test_payloads_of_unknown_types_are_converted_by_the_application() -> None:
    class Money:
        def __init__(self, cents: int) -> None:
            self.cents = cents

    def show(value: object) -> object:
        if isinstance(value, Money):
            return f"{value.cents / 100:.2f}"
        raise TypeError("no money")

    async with running(encode=show) as hub, subscribe(hub, "events", "table") as client:
        hub.publish("events", {"fee": Money(150), "at": np.float64(1.5)})
        await hub.publish_confirmed("events", Money(7))
        hub.publish("table", {"id": Money(250)})
        hub.publish("table", 1, key=Money(300))
        hub.delete("table", Money(250))
        with pytest.raises(InvalidItem, match=r"\$\.a is of type complex: no money$"):
            hub.publish("events", {"a": 1j})
        items = await read(client, lambda item: "deleted" in item)

        assert [item["data"] for item in items if item["channel"] == "events" and "seq" in item] == [
            {"fee": "1.50", "at": 1.5},
            "0.07",
        ]
        assert [item["key"] for item in items if "key" in item] == ["3.00", "2.50"]


# --- refusals and their messages


DEEP = msgspec.Raw(b"[" * 5000 + b"]" * 5000)
REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], list[str]]] = {
    "unknown channel": (("nosuch", 1), {}, UnknownChannel, ["nosuch", "events", "user:*"]),
    "the pattern itself": (("user:*", 1), {}, InvalidChannel, ["user:*", "A-Z a-z 0-9"]),
    "no name": (("", 1), {}, InvalidChannel, ["''", "1 to 255"]),
    "a name that is not text": ((7, 1), {}, InvalidChannel, ["7", "1 to 255"]),
    "an object": (("events", object()), {}, InvalidItem, ["object", "JSON"]),
    "an object within": (("events", {"a": [object()]}), {}, InvalidItem, ["$.a[0] is of type object", "encode="]),
    "a list in itself": (("events", list_in_itself()), {}, InvalidItem, ["list", "contains itself"]),
    "a lone surrogate": (("events", "\ud800"), {}, InvalidItem, ["str", "JSON"]),
    "raw bytes that are not JSON": (("events", msgspec.Raw(b'{"a":')), {}, InvalidItem, ["Raw", "JSON"]),
    "no raw bytes": (("events", msgspec.Raw(b"")), {}, InvalidItem, ["Raw", "JSON"]),
    "two raw values": (("events", msgspec.Raw(b"1,2")), {}, InvalidItem, ["Raw", "JSON"]),
    "a raw number beyond a double": (("events", msgspec.Raw(b"[1e400]")), {}, InvalidItem, ["Raw", "out of range"]),
    "raw bytes that are nested too deeply": (
        ("events", DEEP),
        {},
        InvalidItem,
        ["Raw", "deep"],
    ),
    "raw bytes that are not UTF-8": (("events", msgspec.Raw(b'"\xff"')), {}, InvalidItem, ["Raw", "utf-8"]),
    "a type of ours": (("events", 1), {"type": "$gap"}, InvalidItem, ["'$gap'", "not start with $"]),
    "no type": (("events", 1), {"type": ""}, InvalidItem, ["''", "not empty"]),
    "a type that is not text": (("events", 1), {"type": 7}, InvalidItem, ["7", "a text"]),
    "a type that cannot be encoded": (("events", 1), {"type": "\ud800"}, InvalidItem, ["'\\ud800'", "text"]),
    "a key without a table": (("events", 1), {"key": "a"}, InvalidItem, ["'a'", "events", "no keys"]),
    "a key on latest": (("latest", 1), {"key": "a"}, InvalidItem, ["'a'", "latest", "no keys"]),
    "a key on durable": (("durable", 1), {"key": "a"}, InvalidItem, ["'a'", "durable", "no keys"]),
    "a key on a pattern": (("user:9", 1), {"key": "a"}, InvalidItem, ["'a'", "user:9", "no keys"]),
    "no key": (("table", {"name": "a"}), {}, InvalidItem, ["'table'", "'id'", "no field"]),
    "no field for a key": (("table", 7), {}, InvalidItem, ["'table'", "'id'", "no field"]),
    "an empty key": (("table", {"id": ""}), {}, InvalidItem, ["''", "1 to 255"]),
    "a key that JSON shows as something else": (("table", {"id": True}), {}, InvalidItem, ["True", "1 to 255", "UUID"]),
    "a key of an unknown type": (("table", 1), {"key": object()}, InvalidItem, ["object", "JSON"]),
    "a long key": (("table", 1), {"key": "k" * 256}, InvalidItem, ["kkkk", "1 to 255"]),
    "a key that cannot be encoded": (("table", 1), {"key": "\ud800"}, InvalidItem, ["'\\ud800'", "text"]),
    "too long": (("events", "x" * 65_536), {}, ItemTooLarge, ["'events'", "65536", "bytes"]),
    "too long for a journal": (("durable", "x" * 65_536), {}, ItemTooLarge, ["'durable'", "65536", "bytes"]),
}


@pytest.mark.parametrize(("arguments", "options", "error", "words"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_refusal_names_the_value_and_what_is_allowed(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    """In the caller's frame, from every thread, and the hub goes on."""

    async def confirm() -> None:
        await hub.publish_confirmed(*arguments, **options)

    async with running() as hub, subscribe(hub, "events", "durable") as client:
        with pytest.raises(error) as here:
            hub.publish(*arguments, **options)
        with pytest.raises(error) as there:
            await anyio.to_thread.run_sync(lambda: hub.publish(*arguments, **options))
        with pytest.raises(error) as confirmed:
            await confirm()
        hub.publish("events", "fine")
        await hub.publish_confirmed("durable", "fine")

        for raised in (here, there, confirmed):
            assert isinstance(raised.value, HubError)
            assert [word for word in words if word not in str(raised.value)] == []
            assert len(str(raised.value)) < 300
        assert await read_data(client, "events", 1) == ["fine"]
        assert await read_data(client, "durable", 1) == ["fine"]
        assert hub.statistics().channels["durable"].head == 1


async def test_an_item_may_have_exactly_max_item_bytes() -> None:
    async with running(tuning=Tuning(max_item_bytes=200)) as hub, subscribe(hub, "events") as client:
        hub.publish("events", "")
        (empty,) = await read(client, lambda item: "seq" in item)
        room = 200 - len(json.dumps(empty, separators=(",", ":")))
        hub.publish("events", "x" * room)
        with pytest.raises(InvalidItem, match="201 bytes; at most 200"):
            hub.publish("events", "x" * (room + 1))

        assert await read_data(client, "events", 1) == ["x" * room]


async def test_a_full_table_takes_no_further_key() -> None:
    async with running() as hub:
        for key in ("a", "b", "c"):
            hub.publish("table", 1, key=key)
        hub.publish("table", 2, key="a")
        with pytest.raises(TableFull, match=r"key 'd' would be one more than the 3 .* 'table'"):
            hub.publish("table", 1, key="d")
        with pytest.raises(TableFull):
            await anyio.to_thread.run_sync(lambda: hub.publish("table", 1, key="d"))
        hub.delete("table", "a")
        hub.publish("table", 1, key="d")


async def test_a_pattern_has_at_most_max_members() -> None:
    async with running(tuning=Tuning(max_members=2)) as hub:
        hub.publish("user:1", 1)
        hub.publish("user:2", 1)
        with pytest.raises(ChannelLimitReached, match=r"'user:3' .* the 2 members .* 'user:\*'"):
            hub.publish("user:3", 1)
        hub.publish("user:1", 2)


@pytest.mark.parametrize(
    ("channel", "key", "error"),
    [("nosuch", "a", UnknownChannel), ("events", "a", InvalidItem), ("table", "", InvalidItem)],
)
async def test_a_delete_is_refused_like_a_publish(channel: str, key: str, error: type[Exception]) -> None:
    async with running() as hub:
        with pytest.raises(error):
            hub.delete(channel, key)
        with pytest.raises(error):
            await anyio.to_thread.run_sync(hub.delete, channel, key)


# --- before and after


def publish(hub: Hub) -> None:
    hub.publish("events", 1)


def delete(hub: Hub) -> None:
    hub.delete("table", "a")


@pytest.mark.parametrize("act", [publish, delete])
async def test_before_the_hub_is_entered_the_error_says_what_is_missing(act: Any) -> None:
    with pytest.raises(HubClosed, match=r"not running; add `async with hub:`.* HubPublisher"):
        act(new_hub())


@pytest.mark.parametrize("act", [publish, delete])
async def test_after_the_shutdown_the_error_says_so(act: Any) -> None:
    async with running() as hub:
        await hub.shutdown()
        with pytest.raises(HubClosed, match="has been shut down"):
            act(hub)
        with pytest.raises(HubClosed, match="has been shut down"):
            await anyio.to_thread.run_sync(act, hub)
        with pytest.raises(HubClosed, match="has been shut down"):
            await hub.publish_confirmed("events", 1)
    with pytest.raises(HubClosed, match="has been shut down"):
        act(hub)


# --- confirmed


@pytest.mark.parametrize(("channel", "key"), [("events", None), ("table", "k"), ("latest", None), ("durable", None)])
async def test_a_receipt_has_the_epoch_and_number_of_the_item(channel: str, key: str | None) -> None:
    async with running() as hub, subscribe(hub, channel) as client:
        receipts = [await hub.publish_confirmed(channel, number, key=key) for number in range(3)]
        last = await read(client, lambda item: item.get("seq") == 3)

        epoch = hub.statistics().channels[channel].epoch
        assert receipts == [Receipt(epoch, 1), Receipt(epoch, 2), Receipt(epoch, 3)]
        assert last[-1]["data"] == 2


async def test_concurrent_confirmations_get_their_own_receipts() -> None:
    receipts: dict[int, Receipt] = {}

    async def confirm(number: int) -> None:
        receipts[number] = await hub.publish_confirmed("durable", number)

    async with running() as hub, subscribe(hub, "durable") as client:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(confirm, number)
        data = await read_data(client, "durable", 100)

        assert [data[receipts[number].seq - 1] for number in range(100)] == list(range(100))


async def test_a_confirmation_belongs_to_the_hubs_own_loop() -> None:
    async with running() as hub:

        def elsewhere() -> None:
            anyio.run(hub.publish_confirmed, "events", 1)

        with pytest.raises(HubError, match="publish_confirmed was called from another thread"):
            await anyio.to_thread.run_sync(elsewhere)


# --- reentrancy


async def test_publishing_from_within_a_write_takes_effect_after_it() -> None:
    """Order is kept, and nothing is lost."""
    echoed = 0

    def echo(frame: bytes) -> None:
        nonlocal echoed
        if b'"seq"' in frame and echoed < 50:
            echoed += 1
            hub.publish("events", f"echo {echoed}")
            hub.publish("user:new", echoed)

    async with running() as hub, subscribe(hub, "events") as witness:
        transport = FakeTransport(echo)
        plug_in(hub, transport, "events", "user:new")
        hub.publish("events", "shout")

        assert await read_data(witness, "events", 51) == [
            "shout",
            *[f"echo {number}" for number in range(1, 51)],
        ]
        await transport.until(lambda: '"echo 50"' in transport.text)


async def test_connecting_and_disconnecting_from_within_a_write_take_effect_after_it() -> None:
    def reconnect(frame: bytes) -> None:
        if b'"seq":1,' in frame:
            hub.gateway.disconnect(first)
            hub.gateway.disconnect(third)
            plug_in(hub, newcomer, "events", {"channel": "latest", "snapshot": True})

    newcomer = FakeTransport()
    async with running() as hub, subscribe(hub, "events") as witness:
        first = plug_in(hub, FakeTransport(), "events")
        plug_in(hub, FakeTransport(reconnect), "events")
        third = plug_in(hub, FakeTransport(), "events")
        await commands_done(hub)
        hub.publish("events", 1)
        await newcomer.until(lambda: "$subscribed" in newcomer.text)
        hub.publish("events", 2)
        await newcomer.until(lambda: '"seq":2,' in newcomer.text)

        assert '"data":1' not in newcomer.text
        assert await read_data(witness, "events", 2) == [1, 2]
        assert hub.statistics().sessions == 3


async def test_a_flush_to_many_clients_yields_to_the_event_loop() -> None:
    """A write that takes a millisecond each would otherwise block the application for a second."""
    now, turn = 1000.0, 0
    turns: dict[int, int] = {}

    def slow(frame: bytes) -> None:
        nonlocal now
        if b'"data":"all of you"' in frame:
            now += 0.001
            turns[turn] = turns.get(turn, 0) + 1

    async with running(clock=lambda: now) as hub:
        for _ in range(1000):
            plug_in(hub, FakeTransport(slow), "events")
        await commands_done(hub)
        hub.publish("events", "all of you")
        while sum(turns.values()) < 1000:
            turn += 1
            await checkpoint()

        # Four slices. Trio may give the hub two turns between two of ours.
        assert len(turns) >= 2
        assert max(turns.values()) <= 512


async def commands_done(hub: Hub) -> None:
    """Wait until commands were carried out and their answers written."""
    await hub.publish_confirmed("durable", None)
