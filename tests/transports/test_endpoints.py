"""The hub's own HTTP, asked as a transport asks it: publishing, commands, refusals, and pages of other origins."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub import (
    Action,
    AuthenticationError,
    Channel,
    Handshake,
    Hub,
    Identity,
    InvalidChannel,
    JournalError,
    PermissionDenied,
    Tuning,
)
from analytics_hub.http import Request, Response
from analytics_hub.testing import ManualClock
from analytics_hub.transports._http import publishing
from analytics_hub.transports._http.commands import MAX_COMMANDS, Gate
from analytics_hub.transports._http.endpoints import Endpoints
from analytics_hub.transports._http.events import EventStream
from analytics_hub.transports._http.sse import WIRE
from analytics_hub.transports._origins import Origins
from analytics_hub.transports.memory import MemoryClient, subscribe

from ..hub.rig import MoodyJournal

pytestmark = pytest.mark.anyio

FRIEND = "https://friend.example"
WRITERS = frozenset({"writer"})


class Price(msgspec.Struct, tag="price"):
    """What a channel with a schema carries."""

    symbol: str
    bid: Annotated[float, msgspec.Meta(gt=0)]
    tags: list[str] = []


CHANNELS = (
    Channel("plain", publishers=WRITERS),
    Channel("prices", publishers=WRITERS, schema=Price),
    Channel("table", mode="table", key="lp", publishers=WRITERS, max_keys=2),
    Channel("typed-table", mode="table", key="symbol", publishers=WRITERS, schema=Price),
    Channel("durable", mode="durable", publishers=WRITERS),
    Channel("user:*", publishers=WRITERS),
    Channel("closed"),
)
PEOPLE = {
    "writer": Identity(id="writer", roles=WRITERS),
    "narrow": Identity(id="narrow", roles=WRITERS, channels=("user:7",)),
    "reader": Identity(id="reader"),
}


def authenticate(handshake: Handshake) -> Identity:
    if handshake.token is None:
        raise AuthenticationError("missing")
    if handshake.token == "banned":
        raise PermissionDenied("not you")
    if handshake.token not in PEOPLE:
        raise AuthenticationError("invalid")
    return PEOPLE[handshake.token]


def new_hub(**options: Any) -> Hub:
    return Hub(CHANNELS, authenticate=authenticate, tuning=Tuning(max_item_bytes=500, max_members=2), **options)


async def ask(
    hub: Hub,
    target: str,
    body: object = None,
    *,
    method: str | None = None,
    token: str | None = "writer",
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> Response:
    """The answer to a POST of `body` (as JSON, unless it is bytes), or to a GET without one."""
    answer = await ask_anything(hub, target, body, method=method, token=token, headers=headers, **options)
    assert isinstance(answer, Response)
    return answer


async def ask_anything(
    hub: Hub,
    target: str,
    body: object = None,
    *,
    method: str | None = None,
    token: str | None = "writer",
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> Response | EventStream | None:
    endpoints = Endpoints(hub, origins=Origins([FRIEND]), **options)
    path, _, query = target.partition("?")
    sent = {"host": "hub.example", **(headers or {})}
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(method or ("GET" if body is None else "POST"), path, query, sent, content)
    return await endpoints.answer(request, client="192.0.2.7")


def read(response: Response) -> Any:
    assert response.content_type == "application/json"
    return json.loads(response.body)


def error_of(response: Response) -> tuple[int, str, str]:
    error = read(response)["error"]
    return response.status, error["code"], error["message"]


async def take(client: MemoryClient, count: int) -> list[dict[str, Any]]:
    """The next `count` data items."""
    items: list[dict[str, Any]] = []
    while len(items) < count:
        items += [item for item in await anext(client) if "seq" in item]
    return items


# --- publishing -----------------------------------------------------------------------------------------------------


async def test_an_item_is_published_and_its_receipt_is_the_answer() -> None:
    async with new_hub() as hub, subscribe(hub, "plain", identity=PEOPLE["reader"]) as client:
        response = await ask(hub, "/publish", {"channel": "plain", "data": {"a": [1, None]}, "type": "tick"})
        (item,) = await take(client, 1)

        assert (response.status, read(response)) == (200, {"epoch": hub.statistics().channels["plain"].epoch, "seq": 1})
        assert (item["type"], item["data"], item["seq"]) == ("tick", {"a": [1, None]}, 1)


async def test_the_items_of_an_array_are_judged_one_by_one_and_stay_in_order() -> None:
    async with new_hub() as hub, subscribe(hub, "plain", "user:7", identity=PEOPLE["reader"]) as client:
        response = await ask(
            hub,
            "/publish",
            [
                {"channel": "plain", "data": 1},
                {"channel": "closed", "data": 2},
                {"channel": "nosuch", "data": 3},
                "no item",
                {"channel": "user:7", "data": 4},
                {"channel": "plain", "data": 5},
            ],
        )
        items = await take(client, 3)

        results = read(response)
        assert response.status == 200
        assert [result.get("seq") for result in results] == [1, None, None, None, 1, 2]
        codes = [result.get("error", {}).get("code") for result in results]
        assert codes == [None, "forbidden", "unknown-channel", "bad-request", None, None]
        assert [item["data"] for item in items] == [1, 4, 5]


async def test_what_the_application_would_publish_is_what_is_published() -> None:
    """A schema gives type, key and defaults, as if a struct of it had been published; what it does not know goes."""
    price = {"symbol": "EURUSD", "bid": 1, "type": "price", "colour": "red"}
    async with new_hub() as hub, subscribe(hub, "prices", "typed-table", identity=PEOPLE["reader"]) as client:
        for channel in ("prices", "typed-table"):
            assert (await ask(hub, "/publish", {"channel": channel, "data": price})).status == 200
            hub.publish(channel, Price("EURUSD", 1.0))
        items = await take(client, 3)

        plain = [item for item in items if item["channel"] == "prices"]
        assert {item["type"] for item in items} == {"price"}
        assert plain[0]["data"] == plain[1]["data"] == {"type": "price", "symbol": "EURUSD", "bid": 1.0, "tags": []}
        assert items[-1]["key"] == "EURUSD"


async def test_the_key_of_an_item_is_in_its_data_or_beside_it() -> None:
    async with new_hub() as hub, subscribe(hub, "table", identity=PEOPLE["reader"]) as client:
        for item in (
            {"channel": "table", "data": {"lp": "A", "deep": {"lp": "B"}}},
            {"channel": "table", "data": 7, "key": "C"},
            {"channel": "table", "key": "A", "deleted": True},
        ):
            response = await ask(hub, "/publish", item)
            assert response.status == 200, response.body
        items = await take(client, 2)
        nothing = await ask(hub, "/publish", {"channel": "table", "key": "A", "deleted": True, "data": None})

        assert [(item["key"], item["data"]) for item in items] == [("C", 7), ("A", None)]
        assert (nothing.status, read(nothing)) == (200, {"epoch": None, "seq": None})
        assert hub.statistics().channels["table"].head == 3


@pytest.mark.parametrize(
    ("item", "status", "code", "words"),
    [
        ({"channel": "nosuch", "data": 1}, 404, "unknown-channel", "channel 'nosuch' is not declared"),
        ({"channel": "not a name", "data": 1}, 400, "bad-request", "channel name 'not a name'"),
        ({"channel": "closed", "data": 1}, 403, "forbidden", "channel 'closed'"),
        ({"channel": "plain", "data": "x" * 500}, 413, "too-large", "at most 500 are right"),
        ({"channel": "plain", "data": 1, "type": "$gap"}, 400, "bad-request", "does not start with $"),
        ({"channel": "plain", "data": 1, "key": "k"}, 400, "bad-request", "has no keys"),
        ({"channel": "plain", "data": 1, "colour": "red"}, 400, "bad-request", "`colour`"),
        ({"channel": "plain", "data": 1, "key": 7}, 400, "bad-request", "$.key"),
        ({"channel": "plain"}, 400, "bad-request", "needs data"),
        ({"data": 1}, 400, "bad-request", "`channel`"),
        ({"channel": "plain", "key": "k", "deleted": True}, 400, "bad-request", "the key of a table"),
        ({"channel": "table", "deleted": True}, 400, "bad-request", "the key of a table"),
        ({"channel": "table", "key": "A", "deleted": True, "data": 1}, 400, "bad-request", "has no data"),
        ({"channel": "table", "data": {"n": 1}}, 400, "bad-request", "no field 'lp'"),
        ({"channel": "table", "data": [1]}, 400, "bad-request", "no field 'lp'"),
        ({"channel": "table", "data": {"lp": 7}}, 400, "bad-request", "key 7"),
        ({"channel": "table", "data": {"lp": "C"}}, 409, "table-full", "the 2 that channel"),
        ({"channel": "user:3", "data": 1}, 409, "too-many-channels", "the 2 members"),
        ({"channel": "prices", "data": {"symbol": "EURUSD", "bid": "1"}}, 400, "bad-request", "$.bid"),
        ({"channel": "prices", "data": {"symbol": "A", "bid": 1, "tags": [7]}}, 400, "bad-request", "$.tags[0]"),
        ({"channel": "prices", "data": {"symbol": "A", "bid": -1}}, 400, "bad-request", "> 0"),
        ({"channel": "prices", "data": None}, 400, "bad-request", "channel 'prices'"),
        (b"", 400, "bad-request", "this is no item"),
        (b"{", 400, "bad-request", "this is no item"),
        (b"[", 400, "bad-request", "this is no item"),
        (b'[{"channel":"plain","data":1}', 400, "bad-request", "this is no item"),
        (b"7", 400, "bad-request", "this is no item"),
        (b"[" + b"1," * 6000 + b"1]", 400, "bad-request", "6001 items in one request; at most 6000 are right"),
        (b'{"channel":"plain","data":"\xff"}', 400, "bad-request", "not valid UTF-8"),
        (b'{"channel":"plain","data":NaN}', 400, "bad-request", "this is no item"),
        (b'{"channel":"plain","data":' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "bad-request", "nested"),
        (b'{"channel":"plain","data":' + b"[" * 61 + b"]" * 61 + b"}", 400, "bad-request", "nested"),
        (b'{"channel":"table","data":' + b'{"lp":' * 20_000 + b"7" + b"}" * 20_000 + b"}", 400, "bad-request", ""),
    ],
)
async def test_what_cannot_be_published_is_answered_with_the_reason(
    item: object, status: int, code: str, words: str
) -> None:
    async with new_hub() as hub:
        for key in ("A", "B"):
            hub.publish("table", 1, key=key)
        for member in ("user:1", "user:2"):
            hub.publish(member, 1)
        before = {name: channel.head for name, channel in hub.statistics().channels.items()}
        answered = error_of(await ask(hub, "/publish", item))

        assert answered[:2] == (status, code)
        assert words in answered[2]
        assert {name: channel.head for name, channel in hub.statistics().channels.items()} == before


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_no_body_is_a_fault_of_ours(body: bytes) -> None:
    async def publish() -> None:
        async with new_hub() as hub:
            for prefix in (b"", b"[", b'{"channel":"plain","data":', b'[{"channel":"prices","data":'):
                response = await ask(hub, "/publish", prefix + body)
                assert response.status in (200, 400, 413)

    anyio.run(publish)


async def test_a_token_that_is_narrow_is_narrow_here_too() -> None:
    async with new_hub() as hub:
        allowed = await ask(hub, "/publish", {"channel": "user:7", "data": 1}, token="narrow")
        refused = await ask(hub, "/publish", {"channel": "user:8", "data": 1}, token="narrow")
        reader = await ask(hub, "/publish", {"channel": "user:7", "data": 1}, token="reader")

        assert [answer.status for answer in (allowed, refused, reader)] == [200, 403, 403]


async def test_durable_items_are_answered_once_the_journal_has_them_and_reach_it_together() -> None:
    journal = MoodyJournal()
    async with new_hub(journal=journal) as hub:
        journal.gate = anyio.Event()
        journal.arrived = anyio.Event()
        hub.publish("durable", "before")
        await journal.arrived.wait()
        answers: list[Response] = []

        async def publish() -> None:
            answers.append(await ask(hub, "/publish", [{"channel": "durable", "data": n} for n in range(100)]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await anyio.wait_all_tasks_blocked()
            assert answers == []
            journal.gate.set()

        assert [result["seq"] for result in read(answers[0])] == list(range(2, 102))
        assert journal.appended == [1, 100]


async def test_what_a_journal_complains_of_stays_here() -> None:
    journal = MoodyJournal()
    async with new_hub(journal=journal) as hub:
        journal.fault = JournalError("postgres://user:password@host refused")
        response = await ask(hub, "/publish", {"channel": "durable", "data": 1})

        assert error_of(response) == (503, "journal-failed", "the journal did not take the item")
        assert dict(response.headers)["Retry-After"] == "1"


async def test_a_long_array_gives_others_their_turn() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with new_hub() as hub, anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await ask(hub, "/publish", [{"channel": "plain", "data": 1}] * 1000)
        tasks.cancel_scope.cancel()

    assert turns > 5


def test_a_schema_that_cannot_be_decoded_is_told_before_anybody_asks() -> None:
    hub = Hub([Channel("odd", schema=Price | dict[str, int])], authenticate=authenticate)

    with pytest.raises(InvalidChannel, match="schema of channel 'odd'"):
        Endpoints(hub)


async def test_a_long_array_leaves_the_event_loop_its_turn_also_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        turns += 1

    monkeypatch.setattr(publishing, "checkpoint", turn)
    async with new_hub() as hub:
        response = await ask(hub, "/publish", [0] * 5760)

        assert len(read(response)) == 5760
        assert turns == 270


# --- who may ask ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/events", "/publish", "/commands?session=x", "/asyncapi.json"])
@pytest.mark.parametrize(
    ("token", "status", "code"),
    [(None, 401, "unauthenticated"), ("forged", 401, "unauthenticated"), ("banned", 403, "forbidden")],
)
async def test_nobody_gets_anything_without_a_good_token(
    target: str, token: str | None, status: int, code: str
) -> None:
    async with new_hub() as hub:
        body: object = {} if target in ("/publish", "/commands?session=x") else None
        response = await ask(hub, target, body, token=token, headers={"accept": "text/event-stream"})

        assert error_of(response)[:2] == (status, code)
        assert (dict(response.headers).get("WWW-Authenticate") == "Bearer") is (status == 401)
        assert "forged" not in f"{response.body!r}{response.headers}"


async def test_a_token_may_stand_in_the_query() -> None:
    async with new_hub() as hub:
        response = await ask(hub, "/publish?token=writer", {"channel": "plain", "data": 1}, token=None)

        assert response.status == 200


async def test_the_application_is_told_who_asks_and_from_where() -> None:
    seen: list[Handshake] = []

    def look(handshake: Handshake) -> Identity:
        seen.append(handshake)
        return PEOPLE["reader"]

    async with Hub(CHANNELS, authenticate=look) as hub:
        await ask_anything(hub, "/events", headers={"cookie": "session=1"})

        (handshake,) = seen
        assert (handshake.token, handshake.path, handshake.client) == ("writer", "/events", "192.0.2.7")
        assert handshake.transport == "http"
        assert handshake.headers["cookie"] == "session=1"
        assert "authorization" not in handshake.headers


async def test_a_hub_that_drains_or_cannot_check_says_try_again() -> None:
    def fail(handshake: Handshake) -> Identity:
        raise RuntimeError("the user database is down")

    async with Hub(CHANNELS, authenticate=fail) as hub:
        unchecked = await ask(hub, "/publish", {})
    async with new_hub() as hub:
        await hub.shutdown()
        draining = await ask(hub, "/publish", {"channel": "plain", "data": 1})
        stream = await ask(hub, "/events")
        browser = await ask(hub, "/events", headers={"accept": "text/event-stream"})

    for response in (unchecked, draining, stream):
        assert error_of(response)[:2] == (503, "unavailable")
        assert dict(response.headers)["Retry-After"] == "1"
    assert (browser.status, browser.content_type) == (200, "text/event-stream; charset=utf-8")


async def test_a_hub_that_was_never_entered_says_what_is_missing() -> None:
    response = await ask(new_hub(), "/publish", {"channel": "plain", "data": 1})

    assert error_of(response)[:2] == (503, "unavailable")
    assert "async with hub:" in error_of(response)[2]


# --- methods, paths, sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/events", "GET, OPTIONS"),
        ("HEAD", "/events", "GET, OPTIONS"),
        ("GET", "/publish", "POST, OPTIONS"),
        ("PUT", "/commands", "POST, OPTIONS"),
        ("DELETE", "/asyncapi.json", "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_other_methods_are_told_what_is_allowed(method: str, path: str, allowed: str) -> None:
    response = await ask(new_hub(), path, method=method, token=None)

    assert error_of(response) == (405, "method-not-allowed", f"{path} takes {allowed}")
    assert dict(response.headers)["Allow"] == allowed


async def test_other_paths_are_the_applications() -> None:
    def respond(request: Request) -> Response | None:
        return Response(200, b"mine") if request.path == "/mine" else None

    hub = new_hub()

    assert (await ask(hub, "/mine", respond=respond)).body == b"mine"
    assert await ask_anything(hub, "/nothing", respond=respond) is None
    assert await ask_anything(hub, "/nothing") is None
    for path in ("/events/", "//events", "/Events", ""):
        assert not Endpoints(hub).handles(path)


async def test_a_body_that_is_too_long_is_refused_before_anything_is_asked() -> None:
    response = await ask(new_hub(), "/publish", b"x" * 101, token=None, max_body=100)

    assert error_of(response) == (413, "too-large", "a body may have 100 bytes")


async def test_health_needs_no_token() -> None:
    async with new_hub() as hub:
        healthy = await ask(hub, "/healthz", token=None)
        await hub.shutdown()
        draining = await ask(hub, "/healthz", token=None)

        assert (healthy.status, draining.status) == (200, 503)


async def test_the_document_describes_the_channels() -> None:
    async with new_hub() as hub:
        document = read(await ask(hub, "/asyncapi.json", token="reader"))

        assert document["asyncapi"].startswith("3.")
        assert "Price" in json.dumps(document)
        assert "writer" not in json.dumps(document)


# --- pages of other origins -----------------------------------------------------------------------------------------


async def test_a_page_of_an_allowed_origin_may_read_the_answers() -> None:
    async with new_hub() as hub:
        for answer in (
            await ask_anything(hub, "/events?channels=plain", headers={"origin": FRIEND}),
            await ask_anything(hub, "/publish", {"channel": "closed", "data": 1}, headers={"origin": FRIEND}),
            await ask_anything(hub, "/events", token=None, headers={"origin": FRIEND}),
        ):
            assert answer is not None
            headers = dict(answer.headers)
            assert headers["Access-Control-Allow-Origin"] == FRIEND
            assert headers["Access-Control-Allow-Credentials"] == "true"
            assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://hub.example.evil.example"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_a_page_of_another_origin_gets_nothing(origin: str, method: str) -> None:
    async with new_hub() as hub:
        response = await ask(hub, "/events", method=method, headers={"origin": origin})

        assert error_of(response) == (403, "forbidden", "this origin is not allowed")
        assert "Access-Control-Allow-Origin" not in dict(response.headers)


async def test_a_page_of_the_server_itself_needs_no_permission() -> None:
    async with new_hub() as hub:
        stream = await ask_anything(hub, "/events", headers={"origin": "https://hub.example"})

        assert isinstance(stream, EventStream)
        assert "Access-Control-Allow-Origin" not in dict(stream.headers)


async def test_a_browser_asks_first_what_it_may_send() -> None:
    """The preflight carries no token, and none may be asked for."""
    headers = {"origin": FRIEND, "access-control-request-method": "POST"}
    response = await ask(new_hub(), "/publish", method="OPTIONS", token=None, headers=headers)

    sent = dict(response.headers)
    assert (response.status, response.body) == (204, b"")
    assert sent["Access-Control-Allow-Origin"] == FRIEND
    assert sent["Access-Control-Allow-Methods"] == "POST, OPTIONS"
    assert {"authorization", "content-type"} <= set(sent["Access-Control-Allow-Headers"].split(", "))


# --- commands -------------------------------------------------------------------------------------------------------


class Listener:
    """The transport of a stream that a test looks into."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.written = b""

    def write(self, frame: bytes) -> bool:
        self.written += frame
        return True

    def close(self, code: int, reason: str) -> None:
        self.gate.open()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        self.gate.open()

    def confirmed(self, frames: int) -> None:
        pass


async def open_session(hub: Hub, transport: Listener | None = None) -> str:
    return hub.connect(transport or Listener(), WIRE, PEOPLE["reader"], Handshake()).id


async def test_commands_are_for_the_stream_that_they_name() -> None:
    listener = Listener()
    async with new_hub() as hub:
        session = await open_session(hub, listener)
        commands: Sequence[object] = [{"action": "ping", "id": 1}, {"action": "subscribe", "channels": ["plain"]}]
        response = await ask(hub, f"/commands?session={session}", commands, token="reader")
        while b"$subscribed" not in listener.written:
            await checkpoint()

        assert (response.status, read(response)) == (202, {})
        assert b"$pong" in listener.written
        assert hub.statistics().subscriptions == 1


async def test_commands_that_are_for_nobody() -> None:
    async with new_hub() as hub, subscribe(hub, "plain", identity=PEOPLE["reader"]) as memory:
        session = await open_session(hub)
        assert memory.session is not None

        async def status(query: str, body: object = {"action": "ping"}, token: str = "reader") -> tuple[int, str]:
            return error_of(await ask(hub, f"/commands{query}", body, token=token))[:2]

        assert await status("") == (400, "bad-request")
        assert await status("?session=a&session=b") == (400, "bad-request")
        assert await status("?session=guessed") == (404, "unknown-session")
        assert await status(f"?session={memory.session.id}") == (404, "unknown-session")
        assert await status(f"?session={session}", token="writer") == (403, "forbidden")
        assert await status(f"?session={session}", b" " * (MAX_COMMANDS + 1)) == (413, "too-large")
        assert await status(f"?session={session}", b"\xff") == (400, "bad-request")


async def test_commands_wait_while_a_session_has_too_many_and_only_one_request_does() -> None:
    gate = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        await gate.wait()
        return True

    tuning = Tuning(pending_bytes=1024)
    async with Hub(CHANNELS, authenticate=authenticate, authorize=authorize, tuning=tuning) as hub:
        session = await open_session(hub)
        target = f"/commands?session={session}"
        statuses: list[int] = []

        async def send(body: object) -> None:
            statuses.append((await ask(hub, target, body, token="reader")).status)

        await send([{"action": "subscribe", "channels": ["plain"]}, *[{"action": "ping", "id": "x" * 100}] * 20])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, {"action": "ping"})
            await anyio.wait_all_tasks_blocked()
            await send({"action": "ping"})
            gate.set()

        assert statuses == [202, 429, 202]


async def test_commands_that_wait_for_a_session_that_ends_do_not_wait_for_ever() -> None:
    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        await anyio.sleep_forever()
        return True

    clock = ManualClock()
    tuning = Tuning(pending_bytes=1024)
    hub = Hub(CHANNELS, authenticate=authenticate, authorize=authorize, tuning=tuning, clock=clock, grace=0.1)
    async with hub:
        session = await open_session(hub)
        target = f"/commands?session={session}"
        flood = [{"action": "subscribe", "channels": ["plain"]}, *[{"action": "ping", "id": "x" * 100}] * 20]
        await ask(hub, target, flood, token="reader")
        statuses: list[int] = []

        async def send() -> None:
            statuses.append((await ask(hub, target, {"action": "ping"}, token="reader")).status)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                await anyio.wait_all_tasks_blocked()
                await hub.shutdown(0.0)

        assert statuses == [404]
