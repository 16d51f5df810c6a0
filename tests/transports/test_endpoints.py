"""The hub's own HTTP, independent of the server: tokens, tickets, paths, commands, and pages of other origins."""

from __future__ import annotations

import json
from typing import Any

import anyio
import msgspec
import pydantic
import pytest

from analytics_hub import Action, Channel, Handshake, Hub, Identity, Tuning
from analytics_hub.access import tickets
from analytics_hub.auth import redact
from analytics_hub.auth.sessions import SessionAuthenticator
from analytics_hub.contracts import Peer
from analytics_hub.http import Request, Response
from analytics_hub.testing import ManualClock
from analytics_hub.transports._http.commands import MAX_COMMANDS, Gate
from analytics_hub.transports._http.endpoints import Endpoints
from analytics_hub.transports._http.events import EventStream
from analytics_hub.transports._http.sse import WIRE
from analytics_hub.transports.memory import subscribe

from .http_hub import ALLOWED_ORIGIN, IDENTITIES, authenticate, error_of, new_hub, read, send, send_any

pytestmark = pytest.mark.anyio

READER = IDENTITIES["reader"]
ITEM = {"channel": "plain", "data": 1}

# --- tokens


@pytest.mark.parametrize("target", ["/events", "/publish", "/commands?session=x", "/ticket", "/asyncapi.json"])
@pytest.mark.parametrize(
    ("token", "status", "code"),
    [(None, 401, "unauthenticated"), ("forged", 401, "unauthenticated"), ("banned", 403, "forbidden")],
)
async def test_a_request_without_a_valid_token_is_refused(
    target: str, token: str | None, status: int, code: str
) -> None:
    async with new_hub() as hub:
        body: object = None if target in ("/events", "/asyncapi.json") else {}
        response = await send(hub, target, body, token=token, headers={"accept": "text/event-stream"})

        assert error_of(response)[:2] == (status, code)
        assert (dict(response.headers).get("WWW-Authenticate") == "Bearer") is (status == 401)
        assert "forged" not in f"{response.body!r}{response.headers}"


async def test_each_refusal_of_a_stream_is_counted_once() -> None:
    async with new_hub() as hub:
        for token in (None, "forged", "banned"):
            await send(hub, "/events", token=token)

        counters = hub.statistics().counters
        assert [counters[f"token-{name}"] for name in ("missing", "invalid", "forbidden")] == [1, 1, 1]


async def test_the_handshake_has_the_token_of_the_query_and_the_headers() -> None:
    handshakes: list[Handshake] = []

    def record(handshake: Handshake) -> Identity:
        handshakes.append(handshake)
        return READER

    async with new_hub(authenticate=record) as hub:
        await send_any(hub, "/events?token=writer", token=None, headers={"cookie": "session=1"})
        await send_any(hub, "/events")

        for handshake in handshakes:
            assert (handshake.token, handshake.path, handshake.client) == ("writer", "/events", "192.0.2.7")
            assert (handshake.transport, handshake.origin) == ("http", None)
            assert "authorization" not in handshake.headers
        assert handshakes[0].headers["cookie"] == "session=1"


async def test_a_temporary_refusal_has_retry_after() -> None:
    def fail(handshake: Handshake) -> Identity:
        raise RuntimeError("the user database is down")

    async with new_hub(authenticate=fail) as hub:
        unchecked = await send(hub, "/publish", {})
    async with new_hub() as hub:
        await hub.shutdown()
        draining = await send(hub, "/publish", ITEM)
        stream = await send(hub, "/events")
        event_source = await send(hub, "/events", headers={"accept": "text/event-stream"})

    for response in (unchecked, draining, stream):
        assert error_of(response)[:2] == (503, "unavailable")
        assert dict(response.headers)["Retry-After"] == "1"
        assert b"database" not in response.body
    assert (event_source.status, event_source.content_type) == (200, "text/event-stream; charset=utf-8")


async def test_a_hub_that_was_never_entered_is_unavailable() -> None:
    response = await send(new_hub(), "/publish", ITEM)

    assert error_of(response)[:2] == (503, "unavailable")
    assert "async with hub:" in error_of(response)[2]


# --- tickets


async def test_a_ticket_is_valid_once() -> None:
    async with new_hub() as hub:
        response = await send(hub, "/ticket", b"", token="reader", headers={"origin": ALLOWED_ORIGIN})
        ticket = read(response)["ticket"]
        first = await send_any(hub, f"/events?token={ticket}", token=None)
        second = await send(hub, f"/events?token={ticket}", token=None)
        headers = dict(response.headers)

        assert (response.status, read(response)) == (201, {"ticket": ticket, "expires_in": 30.0})
        assert headers["Cache-Control"] == "no-store"
        assert headers["Access-Control-Allow-Origin"] == ALLOWED_ORIGIN
        assert isinstance(first, EventStream)
        assert first.peer.identity == READER
        assert error_of(second) == (401, "unauthenticated", "invalid token")
        assert ticket not in redact(f"/events?token={ticket} {ticket}")


async def test_a_session_of_the_host_can_get_a_ticket() -> None:
    sessions = SessionAuthenticator(lambda scope: scope["identity"], authenticate)
    async with new_hub(authenticate=sessions) as hub:
        for scope, status in (({"identity": READER}, 201), ({"identity": None}, 401), (None, 401)):
            assert (await send(hub, "/ticket", b"", token=None, scope=scope)).status == status


async def test_a_ticket_cannot_be_exchanged_for_another_and_stays_valid() -> None:
    async with new_hub() as hub:
        ticket = hub.issue_ticket(READER)
        refused = await send(hub, "/ticket", b"", token=ticket)

        assert error_of(refused) == (403, "forbidden", "a ticket cannot be exchanged for another ticket")
        assert hub.statistics().counters["refused-ticket"] == 1
        assert (await hub.gateway.authenticate(Handshake(token=ticket))).identity == READER


@pytest.mark.parametrize("options", [{"method": "GET"}, {"headers": {"origin": "https://evil.example"}}])
async def test_a_refused_request_issues_no_ticket(options: dict[str, Any]) -> None:
    async with new_hub() as hub:
        response = await send(hub, "/ticket", b"", **options)

        assert response.status in (403, 405)
        assert b"ticket." not in response.body
        assert not len(hub._access.tickets)


async def test_too_many_open_tickets_are_a_temporary_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "MAX_TICKETS", 1)
    async with new_hub() as hub:
        assert (await send(hub, "/ticket", b"")).status == 201
        refused = await send(hub, "/ticket", b"")

        assert refused.status == 503
        assert dict(refused.headers)["Retry-After"] == "1"
        assert hub.statistics().counters["overloaded"] == 1


# --- methods, paths, sizes


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
async def test_other_methods_are_refused_with_those_allowed(method: str, path: str, allowed: str) -> None:
    response = await send(new_hub(), path, method=method, token=None)

    assert error_of(response) == (405, "method-not-allowed", f"the method is {method}; {path} allows {allowed}")
    assert dict(response.headers)["Allow"] == allowed


async def test_respond_answers_other_paths() -> None:
    def respond(request: Request) -> Response | None:
        return Response(200, b"mine") if request.path == "/mine" else None

    hub = new_hub()

    assert (await send(hub, "/mine", respond=respond)).body == b"mine"
    assert await send_any(hub, "/nothing", respond=respond) is None
    assert await send_any(hub, "/nothing") is None
    for path in ("/events/", "//events", "/Events", ""):
        assert not Endpoints(hub.gateway).handles(path)


async def test_a_body_that_is_too_large_is_refused_before_the_token_is_checked() -> None:
    response = await send(new_hub(), "/publish", b"x" * 101, token=None, max_body=100)

    assert error_of(response) == (413, "too-large", "the body is too large; at most 100 bytes are allowed")


async def test_health_needs_no_token() -> None:
    async with new_hub() as hub:
        healthy = await send(hub, "/healthz", token=None)
        await hub.shutdown()
        draining = await send(hub, "/healthz", token=None)

        assert (healthy.status, draining.status) == (200, 503)


async def test_the_document_describes_the_channels() -> None:
    async with new_hub() as hub:
        document = read(await send(hub, "/asyncapi.json", token="reader"))

        assert document["asyncapi"].startswith("3.")
        assert "Price" in json.dumps(document)
        assert "writer" not in json.dumps(document)


class Awkward(msgspec.Struct):
    """Can be decoded and not described."""

    content: msgspec.Raw = msgspec.Raw(b"null")
    other: Any = 1j


async def test_no_schema_makes_the_document_fail() -> None:
    channels = [Channel("odd", schema=Awkward), Channel("model", schema=list[pydantic.RootModel[int]])]
    async with Hub(channels, authenticate=authenticate) as hub:
        response = await send(hub, "/asyncapi.json", token="reader")

        assert (response.status, list(read(response)["channels"])) == (200, ["connection", "odd", "model"])


# --- pages of other origins


async def test_a_page_of_an_allowed_origin_may_read_the_answers() -> None:
    headers = {"origin": ALLOWED_ORIGIN}
    async with new_hub() as hub:
        for answer in (
            await send_any(hub, "/events?channels=plain", headers=headers),
            await send_any(hub, "/publish", {"channel": "closed", "data": 1}, headers=headers),
            await send_any(hub, "/events", token=None, headers=headers),
        ):
            assert answer is not None
            sent = dict(answer.headers)
            assert sent["Access-Control-Allow-Origin"] == ALLOWED_ORIGIN
            assert sent["Access-Control-Allow-Credentials"] == "true"
            assert "Origin" in sent["Vary"].split(", ")


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_a_page_of_another_origin_is_refused(method: str) -> None:
    async with new_hub() as hub:
        response = await send(hub, "/events", method=method, headers={"origin": "https://evil.example"})

        assert error_of(response) == (403, "forbidden", "this origin is not allowed")
        assert "Access-Control-Allow-Origin" not in dict(response.headers)


async def test_a_page_of_the_server_itself_gets_no_cors_headers() -> None:
    async with new_hub() as hub:
        stream = await send_any(hub, "/events", headers={"origin": "https://hub.example"})

        assert isinstance(stream, EventStream)
        assert "Access-Control-Allow-Origin" not in dict(stream.headers)


async def test_a_preflight_is_answered_without_a_token() -> None:
    headers = {"origin": ALLOWED_ORIGIN, "access-control-request-method": "POST"}
    response = await send(new_hub(), "/publish", method="OPTIONS", token=None, headers=headers)

    sent = dict(response.headers)
    assert (response.status, response.body) == (204, b"")
    assert sent["Access-Control-Allow-Origin"] == ALLOWED_ORIGIN
    assert sent["Access-Control-Allow-Methods"] == "POST, OPTIONS"
    assert {"authorization", "content-type"} <= set(sent["Access-Control-Allow-Headers"].split(", "))


# --- commands; the conformance suite sends them over real streams


class Listener:
    """The transport of a stream."""

    def __init__(self) -> None:
        self.gate = Gate()

    def write(self, frame: bytes) -> bool:
        return True

    def close(self, code: int, reason: str) -> None:
        self.gate.open()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        self.gate.open()

    def confirmed(self, frames: int) -> None:
        pass


def open_session(hub: Hub) -> str:
    return hub.gateway.connect(Listener(), WIRE, Peer(Handshake(), READER)).id


async def test_commands_must_name_a_stream_of_the_same_identity() -> None:
    async with new_hub() as hub, subscribe(hub, "plain", identity=READER) as memory:
        session = open_session(hub)
        assert memory.session is not None

        async def error(query: str, body: object = {"action": "ping"}, token: str = "reader") -> tuple[int, str]:
            return error_of(await send(hub, f"/commands{query}", body, token=token))[:2]

        assert await error("") == (400, "bad-request")
        assert await error("?session=a&session=b") == (400, "bad-request")
        assert await error("?session=guessed") == (404, "unknown-session")
        assert await error(f"?session={memory.session.id}") == (404, "unknown-session")
        assert await error(f"?session={session}", token="writer") == (403, "forbidden")
        assert await error(f"?session={session}", b" " * (MAX_COMMANDS + 1)) == (413, "too-large")
        assert await error(f"?session={session}", b"\xff") == (400, "bad-request")


FLOOD = [{"action": "subscribe", "channels": ["plain"]}, *[{"action": "ping", "id": "x" * 100}] * 20]
"""More than `pending_bytes` behind a command that waits for `authorize`."""


async def test_one_request_waits_while_its_session_is_paused() -> None:
    gate = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        await gate.wait()
        return True

    async with new_hub(authorize=authorize, tuning=Tuning(pending_bytes=1024)) as hub:
        target = f"/commands?session={open_session(hub)}"
        statuses: list[int] = []

        async def send_commands(body: object) -> None:
            statuses.append((await send(hub, target, body, token="reader")).status)

        await send_commands(FLOOD)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_commands, {"action": "ping"})
            await anyio.wait_all_tasks_blocked()
            await send_commands({"action": "ping"})
            gate.set()

        assert statuses == [202, 429, 202]
        assert hub.statistics().counters["refused-busy"] == 1


async def test_a_request_that_waits_ends_with_its_session() -> None:
    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        await anyio.sleep_forever()
        return True

    tuning = Tuning(pending_bytes=1024)
    async with new_hub(authorize=authorize, tuning=tuning, clock=ManualClock()) as hub:
        target = f"/commands?session={open_session(hub)}"
        await send(hub, target, FLOOD, token="reader")
        statuses: list[int] = []

        async def send_commands() -> None:
            statuses.append((await send(hub, target, {"action": "ping"}, token="reader")).status)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_commands)
                await anyio.wait_all_tasks_blocked()
                await hub.shutdown(0.0)

        assert statuses == [404]
