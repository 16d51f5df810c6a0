"""Publishing over HTTP: what is published, what is refused with which code, and when `authorize` is called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

import anyio
import msgspec
import pydantic
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub import Action, Channel, Hub, Identity, JournalError, Tuning
from analytics_hub.http import Response
from analytics_hub.transports._http import publishing
from analytics_hub.transports.memory import subscribe

from ..hub.rig import MoodyJournal
from .http_hub import IDENTITIES, Price, authenticate, error_of, new_hub, next_items, read, send

pytestmark = pytest.mark.anyio

READER = IDENTITIES["reader"]


def item(channel: str, data: object = 1) -> dict[str, object]:
    return {"channel": channel, "data": data}


# --- items


async def test_the_answer_to_an_item_is_its_receipt() -> None:
    async with new_hub() as hub, subscribe(hub, "plain", identity=READER) as client:
        response = await send(hub, "/publish", {"channel": "plain", "data": {"a": [1, None]}, "type": "tick"})
        (published,) = await next_items(client, 1)

        assert (response.status, read(response)) == (200, {"epoch": hub.statistics().channels["plain"].epoch, "seq": 1})
        assert (published["type"], published["data"], published["seq"]) == ("tick", {"a": [1, None]}, 1)


async def test_items_of_an_array_are_published_in_order_and_refused_one_by_one() -> None:
    async with new_hub() as hub, subscribe(hub, "plain", "user:7", identity=READER) as client:
        body = [item("plain", 1), item("closed"), item("nosuch"), "malformed", item("user:7", 4), item("plain", 5)]
        response = await send(hub, "/publish", body)
        items = await next_items(client, 3)

        results = read(response)
        assert response.status == 200
        assert [result.get("seq") for result in results] == [1, None, None, None, 1, 2]
        codes = [result.get("error", {}).get("code") for result in results]
        assert codes == [None, "forbidden", "unknown-channel", "bad-request", None, None]
        assert [each["data"] for each in items] == [1, 4, 5]


async def test_a_schema_has_the_same_effect_as_publishing_its_struct() -> None:
    """It gives type, key and defaults, and unknown fields are left out."""
    price = {"symbol": "EURUSD", "bid": 1, "type": "price", "colour": "red"}
    async with new_hub() as hub, subscribe(hub, "prices", "typed-table", identity=READER) as client:
        for channel in ("prices", "typed-table"):
            assert (await send(hub, "/publish", item(channel, price))).status == 200
            hub.publish(channel, Price("EURUSD", 1.0))
        items = await next_items(client, 3)

        plain = [each for each in items if each["channel"] == "prices"]
        assert {each["type"] for each in items} == {"price"}
        assert plain[0]["data"] == plain[1]["data"] == {"type": "price", "symbol": "EURUSD", "bid": 1.0, "tags": []}
        assert items[-1]["key"] == "EURUSD"


async def test_the_key_is_a_field_of_the_data_or_of_the_item() -> None:
    async with new_hub() as hub, subscribe(hub, "table", identity=READER) as client:
        for body in (
            {"channel": "table", "data": {"lp": "A", "deep": {"lp": "B"}}},
            {"channel": "table", "data": 7, "key": "C"},
            {"channel": "table", "key": "A", "deleted": True},
        ):
            response = await send(hub, "/publish", body)
            assert response.status == 200, response.body
        items = await next_items(client, 2)
        nothing = await send(hub, "/publish", {"channel": "table", "key": "A", "deleted": True, "data": None})

        assert [(each["key"], each["data"]) for each in items] == [("C", 7), ("A", None)]
        assert (nothing.status, read(nothing)) == (200, {"epoch": None, "seq": None})
        assert hub.statistics().channels["table"].head == 3


@pytest.mark.parametrize(
    ("body", "status", "code", "part"),
    [
        (item("nosuch"), 404, "unknown-channel", "channel 'nosuch' is not declared"),
        (item("not a name"), 400, "bad-request", "channel name 'not a name'"),
        (item("closed"), 403, "forbidden", "channel 'closed'"),
        (item("plain", "x" * 500), 413, "too-large", "500"),
        ({"channel": "plain", "data": 1, "type": "$gap"}, 400, "bad-request", "$gap"),
        ({"channel": "plain", "data": 1, "key": "k"}, 400, "bad-request", "has no keys"),
        ({"channel": "plain", "data": 1, "colour": "red"}, 400, "bad-request", "`colour`"),
        ({"channel": "plain", "data": 1, "key": 7}, 400, "bad-request", "$.key"),
        ({"channel": "plain"}, 400, "bad-request", "must have data"),
        ({"data": 1}, 400, "bad-request", "`channel`"),
        ({"channel": "plain", "key": "k", "deleted": True}, 400, "bad-request", "the key of a table"),
        ({"channel": "table", "deleted": True}, 400, "bad-request", "the key of a table"),
        ({"channel": "table", "key": "A", "deleted": True, "data": 1}, 400, "bad-request", "must not have data"),
        (item("table", {"n": 1}), 400, "bad-request", "'lp'"),
        (item("table", [1]), 400, "bad-request", "'lp'"),
        (item("table", {"lp": 7.5}), 400, "bad-request", "7.5"),
        (item("table", {"lp": 7}), 409, "table-full", "'7'"),
        (item("table", {"lp": "C"}), 409, "table-full", "table"),
        (item("user:3"), 409, "too-many-channels", "user:"),
        (item("prices", {"symbol": "EURUSD", "bid": "1"}), 400, "bad-request", "$.bid"),
        (item("prices", {"symbol": "A", "bid": 1, "tags": [7]}), 400, "bad-request", "$.tags[0]"),
        (item("prices", {"symbol": "A", "bid": -1}), 400, "bad-request", "> 0"),
        (item("prices", None), 400, "bad-request", "channel 'prices'"),
        (b"", 400, "bad-request", "the item is malformed"),
        (b"{", 400, "bad-request", "the item is malformed"),
        (b"[", 400, "bad-request", "the item is malformed"),
        (b'[{"channel":"plain","data":1}', 400, "bad-request", "the item is malformed"),
        (b"7", 400, "bad-request", "the item is malformed"),
        (b"[" + b"1," * 6000 + b"1]", 400, "bad-request", "has 6001 items; at most 6000 are allowed"),
        (b'{"channel":"plain","data":"\xff"}', 400, "bad-request", "not valid UTF-8"),
        (b'{"channel":"plain","data":NaN}', 400, "bad-request", "the item is malformed"),
        (b'{"channel":"plain","data":' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "bad-request", "nested"),
        (b'{"channel":"plain","data":' + b"[" * 61 + b"]" * 61 + b"}", 400, "bad-request", "nested"),
        (b'{"channel":"table","data":' + b'{"lp":' * 20_000 + b"7" + b"}" * 20_000 + b"}", 400, "bad-request", ""),
    ],
)
async def test_an_invalid_item_is_refused_with_the_reason(body: object, status: int, code: str, part: str) -> None:
    async with new_hub() as hub:
        for key in ("A", "B"):
            hub.publish("table", 1, key=key)
        for member in ("user:1", "user:2"):
            hub.publish(member, 1)
        before = {name: channel.head for name, channel in hub.statistics().channels.items()}
        error = error_of(await send(hub, "/publish", body))

        assert error[:2] == (status, code)
        assert part in error[2]
        assert {name: channel.head for name, channel in hub.statistics().channels.items()} == before


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_no_body_causes_an_internal_error(body: bytes) -> None:
    async def publish() -> None:
        async with new_hub() as hub:
            for prefix in (b"", b"[", b'{"channel":"plain","data":', b'[{"channel":"prices","data":'):
                response = await send(hub, "/publish", prefix + body)
                assert response.status in (200, 400, 413)

    anyio.run(publish)


class Bottomless(msgspec.Struct):
    """A schema with unbounded recursion in its own code."""

    depth: int = 0

    def __post_init__(self) -> None:
        Bottomless(self.depth + 1)


async def test_a_schema_that_recurses_without_end_refuses_the_item() -> None:
    hub = Hub([Channel("deep", schema=Bottomless, publishers=frozenset({"writer"}))], authenticate=authenticate)
    async with hub:
        refused = await send(hub, "/publish", item("deep", {}))

        assert error_of(refused) == (400, "bad-request", "the JSON is nested too deeply")


class Venue(pydantic.BaseModel):
    name: str
    at: datetime


class Order(pydantic.BaseModel):
    id: int
    venues: list[Venue] = []
    fee: Decimal = Decimal("0.10")

    @pydantic.field_validator("id")
    @classmethod
    def check_id(cls, value: int) -> int:
        if value < 0:
            raise ValueError("ids are not negative")
        return value


class Envelope(msgspec.Struct):
    orders: dict[str, Order]


MODELS = [
    Channel("orders", mode="table", key="id", schema=Order, publishers=frozenset({"writer"})),
    Channel("envelopes", schema=list[Envelope], publishers=frozenset({"writer"})),
]


async def test_a_model_as_schema_gives_defaults_and_the_key() -> None:
    order = {"id": 7, "venues": [{"name": "A", "at": "2026-01-02T00:00:00Z"}], "unknown": 1}
    hub = Hub(MODELS, authenticate=authenticate)
    async with hub, subscribe(hub, "orders", "envelopes", identity=READER) as client:
        assert (await send(hub, "/publish", item("orders", order))).status == 200
        assert (await send(hub, "/publish", item("envelopes", [{"orders": {"x": order}}]))).status == 200
        items = await next_items(client, 2)

    shown = {"id": 7, "venues": [{"name": "A", "at": "2026-01-02T00:00:00Z"}], "fee": "0.10"}
    assert [each["data"] for each in items] == [shown, [{"orders": {"x": shown}}]]
    assert items[0]["key"] == "7"


@pytest.mark.parametrize(
    ("channel", "data", "parts"),
    [
        ("orders", {}, ["Field required", "$.id`"]),
        ("orders", [1], ["channel 'orders': Input should be an object"]),
        ("orders", {"id": -1}, ["ids are not negative", "$.id`"]),
        ("orders", {"id": 1, "venues": [{"name": "A", "at": "x"}]}, ["valid datetime", "$.venues[0].at`"]),
        ("envelopes", [{"orders": {"x": {"id": "a"}}}], ["valid integer", "`$[0].orders[...].id`"]),
    ],
)
async def test_data_that_a_model_refuses_is_refused_with_the_place(channel: str, data: Any, parts: list[str]) -> None:
    async with Hub(MODELS, authenticate=authenticate) as hub:
        status, code, message = error_of(await send(hub, "/publish", item(channel, data)))

    assert (status, code) == (400, "bad-request")
    assert [part for part in parts if part not in message] == []
    assert "pydantic.dev" not in message


# --- journals and turns


async def test_durable_items_are_answered_once_the_journal_has_them_and_reach_it_together() -> None:
    journal = MoodyJournal()
    async with new_hub(journal=journal) as hub:
        journal.gate = anyio.Event()
        journal.arrived = anyio.Event()
        hub.publish("durable", "before")
        await journal.arrived.wait()
        answers: list[Response] = []

        async def publish() -> None:
            answers.append(await send(hub, "/publish", [item("durable", number) for number in range(100)]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await anyio.wait_all_tasks_blocked()
            assert answers == []
            journal.gate.set()

        assert [result["seq"] for result in read(answers[0])] == list(range(2, 102))
        assert journal.appended == [1, 100]


async def test_the_message_of_a_journal_is_not_in_the_answer() -> None:
    journal = MoodyJournal()
    async with new_hub(journal=journal) as hub:
        journal.fault = JournalError("postgres://user:password@host refused")
        response = await send(hub, "/publish", item("durable"))
        (in_array,) = read(await send(hub, "/publish", [item("durable")]))

        assert error_of(response) == (503, "journal-failed", "the journal did not take the item")
        assert dict(response.headers)["Retry-After"] == "1"
        assert in_array == {"error": {"code": "journal-failed", "message": "the journal did not take the item"}}


async def test_the_event_loop_gets_turns_during_a_long_array(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def count_turn() -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(publishing, "checkpoint", count_turn)
    async with new_hub() as hub:
        response = await send(hub, "/publish", [0] * 5760)

        assert len(read(response)) == 5760
        assert turns == 270


# --- permissions


async def test_the_channels_of_a_token_limit_what_it_may_publish() -> None:
    async with new_hub() as hub:
        allowed = await send(hub, "/publish", item("user:7"), token="narrow")
        refused = await send(hub, "/publish", item("user:8"), token="narrow")
        reader = await send(hub, "/publish", item("user:7"), token="reader")

        assert [answer.status for answer in (allowed, refused, reader)] == [200, 403, 403]


class Authorize:
    """An `authorize` with a table of answers; other channels are allowed."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, Action, str]] = []

    async def __call__(self, identity: Identity, action: Action, channel: str) -> Any:
        self.calls.append((identity.id, action, channel))
        answer = self.answers.get(channel.replace(":", "_"), True)
        if isinstance(answer, anyio.Event):
            await answer.wait()
            return True
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def authorized_by(authorize: Authorize, auth_timeout: float = 0.2) -> AsyncIterator[Hub]:
    tuning = Tuning(max_item_bytes=500, max_members=2, auth_timeout=auth_timeout)
    with anyio.fail_after(30):
        async with new_hub(authorize=authorize, tuning=tuning) as hub:
            yield hub


async def test_authorize_is_called_after_the_roles_and_once_for_each_channel() -> None:
    authorize = Authorize(user_2=False, durable=RuntimeError("down"))
    async with authorized_by(authorize) as hub:
        channels = ["plain", "user:1", "closed", "user:2", "plain", "durable", "nosuch", "bad name", "plain"]
        response = await send(hub, "/publish", [item(name) for name in channels])
        codes = [answer["error"]["code"] if "error" in answer else answer["seq"] for answer in read(response)]

        assert codes == [1, 1, "forbidden", "forbidden", 2, "unavailable", "unknown-channel", "bad-request", 3]
        assert authorize.calls == [("writer", "publish", name) for name in ("plain", "user:1", "user:2", "durable")]
        assert hub.statistics().counters["authorize-failed"] == 1


async def test_a_single_item_is_answered_with_a_status() -> None:
    async with authorized_by(Authorize(user_2=False, durable="nonsense", user_1=anyio.Event())) as hub:
        refusals = [error_of(await send(hub, "/publish", item(name)))[:2] for name in ("user:2", "durable", "user:1")]
        published = await send(hub, "/publish", item("plain"))

        assert refusals == [(403, "forbidden"), (503, "unavailable"), (503, "unavailable")]
        assert published.status == 200


async def test_authorize_is_not_called_for_the_application_itself() -> None:
    authorize = Authorize(plain=False)
    async with authorized_by(authorize) as hub:
        hub.publish("plain", 1)
        await hub.publish_confirmed("plain", 2)

        assert authorize.calls == []
        assert hub.statistics().channels["plain"].head == 2


@pytest.mark.parametrize("what", ["revoke", "set_roles"])
async def test_a_revocation_during_authorize_applies_to_the_request(what: str) -> None:
    gate = anyio.Event()
    authorize = Authorize(plain=gate)
    answers: list[Response] = []
    async with authorized_by(authorize, auth_timeout=10.0) as hub, anyio.create_task_group() as tasks:

        async def publish() -> None:
            answers.append(await send(hub, "/publish", [item("plain"), item("plain")]))

        tasks.start_soon(publish)
        while not authorize.calls:
            await checkpoint()
        hub.revoke("writer") if what == "revoke" else hub.set_roles("writer", [])
        gate.set()
    code = "unauthenticated" if what == "revoke" else "forbidden"
    assert [answer["error"]["code"] for answer in read(answers[0])] == [code, code]
    assert hub.statistics().channels["plain"].head == 0


async def test_a_revocation_in_the_middle_of_an_array_stops_it() -> None:
    """The publisher is revoked when a subscriber sees the first item; the event loop has a turn every 64 items."""
    async with authorized_by(Authorize()) as hub, subscribe(hub, "plain", identity=READER) as client:
        answers: list[Response] = []
        async with anyio.create_task_group() as tasks:

            async def publish() -> None:
                answers.append(await send(hub, "/publish", [item("plain")] * 3000))

            tasks.start_soon(publish)
            await next_items(client, 1)
            hub.revoke("writer")
        outcomes = ["seq" in answer for answer in read(answers[0])]
        count = sum(outcomes)

        assert 0 < count < 3000
        assert outcomes == [True] * count + [False] * (3000 - count)
        assert hub.statistics().channels["plain"].head == count
