"""WebSockets under ASGI: tokens, refusals, formats, mounts, and the lifespan."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from analytics_hub.auth import JWTAuthenticator, mint
from analytics_hub.channels import Channel
from analytics_hub.exceptions import JournalError
from analytics_hub.hub import Hub
from analytics_hub.protocol import SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK
from analytics_hub.transports._asgi.scope import find_path, read_headers
from analytics_hub.transports.asgi import HubApp, Limits

from .asgi_peer import Message, Server, bearer, running, websocket_scope

pytestmark = pytest.mark.anyio

SECRET = "an hmac key of thirty-two bytes.."
TOKEN = mint(SECRET, subject="alice", roles=["trader"])
HOST = (b"host", b"hub.example")
PAGE = (b"origin", b"https://hub.example")
AUTH = bearer(TOKEN)


def new_hub() -> Hub:
    return Hub([Channel("alerts")], authenticate=JWTAuthenticator(SECRET, algorithms=["HS256"]), grace=0.01)


@asynccontextmanager
async def open_app(**options: Any) -> AsyncIterator[tuple[HubApp, Hub]]:
    with anyio.fail_after(30):
        async with new_hub() as hub:
            yield HubApp(hub, **options), hub


def scope(*headers: tuple[bytes, bytes], **changes: Any) -> dict[str, Any]:
    return websocket_scope(headers=[HOST, *headers], **changes)


async def refusal_of(app: HubApp, scope: dict[str, Any]) -> list[Message]:
    """All messages of the application to a peer that it refuses."""
    async with running(app, scope, accepted=False) as server:
        await server.refused()
    assert server.error is None
    return [*server.sent]


# --- tokens


@pytest.mark.parametrize(
    "original",
    [
        pytest.param(scope(AUTH), id="header"),
        pytest.param(scope(subprotocols=[SUBPROTOCOL_JSON, f"bearer.{TOKEN}"]), id="subprotocol"),
        pytest.param(scope(query_string=f"a=b&token={TOKEN}".encode()), id="query"),
        pytest.param(scope(query_string=f"a=b&%74oken={TOKEN}".encode(), raw_path=b"/hub?token=x"), id="encoded"),
    ],
)
async def test_a_token_may_come_in_three_places_and_never_reaches_a_log(
    original: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    changed = {**original}
    async with open_app() as (app, hub), running(app, changed, accepted=False) as server:
        accept = await server.read()
        assert TOKEN not in str(accept)
        assert (await server.read_frame())[0]["type"] == "$hello"
        (session,) = hub.sessions
        assert session.identity is not None
        assert session.identity.id == "alice"
    assert changed["query_string"] in (b"", b"a=b")
    assert b"?" not in changed["raw_path"]
    assert "eyJ" not in caplog.text


# --- refusals


async def test_a_refusal_is_an_http_response_where_the_server_supports_it() -> None:
    async with open_app() as (app, hub):
        start, body = await refusal_of(app, scope(bearer("x")))

        assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
        assert (b"www-authenticate", b"Bearer") in start["headers"]
        assert body["body"] == b"invalid token\n"
        assert hub.statistics().counters["token-invalid"] == 1


@pytest.mark.parametrize("extensions", [None, {}, {"tls": {}}])
async def test_a_refusal_is_a_close_where_the_server_does_not(extensions: object) -> None:
    async with open_app() as (app, _):
        (close,) = await refusal_of(app, scope(bearer("x"), extensions=extensions))

        assert close == {"type": "websocket.close", "code": 4401, "reason": "invalid token"}


async def test_a_page_is_accepted_and_closed_with_the_code() -> None:
    async with open_app(origins=["https://friend.example"]) as (app, hub):
        offered = [SUBPROTOCOL_JSON, "bearer.x"]
        accept, close = await refusal_of(app, scope(PAGE, subprotocols=offered))
        assert accept == {"type": "websocket.accept", "subprotocol": SUBPROTOCOL_JSON}
        assert close["code"] == 4401

        _, close = await refusal_of(app, scope(AUTH, (b"origin", b"https://evil.example")))
        assert (close["code"], close["reason"]) == (4403, "this origin is not allowed")

        for origin in (PAGE, (b"origin", b"https://friend.example")):
            async with running(app, scope(AUTH, origin)):
                pass
        assert hub.statistics().counters["token-invalid"] == 1
        assert hub.statistics().counters["refused-origin"] == 1


async def test_a_peer_that_stays_after_its_refusal_is_abandoned() -> None:
    async with open_app(limits=Limits(close_timeout=0.01)) as (app, _):
        server = Server(app, scope(PAGE, bearer("x")))
        server.ignores_close = True
        server.put({"type": "websocket.connect"})
        await server.run()

        assert server.error is None


async def test_a_client_over_the_limit_is_told_to_try_again_later() -> None:
    async with open_app(limits=Limits(max_clients=1)) as (app, _), running(app, scope(AUTH)) as server:
        assert (await server.read_frame())[0]["type"] == "$hello"
        start, _ = await refusal_of(app, scope(AUTH))
        _, close = await refusal_of(app, scope(AUTH, PAGE))

        assert (start["status"], close["code"]) == (503, 1013)


@pytest.mark.parametrize("field", ["max_message", "close_timeout"])
def test_limits_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 0; it must be greater than 0"):
        Limits(**{field: 0})


async def test_a_peer_may_leave_before_it_is_admitted() -> None:
    async with open_app() as (app, hub):
        for each in (scope(AUTH), scope(bearer("x")), scope(bearer("x"), PAGE)):
            server = Server(app, each)
            server.put({"type": "websocket.connect"})
            server.disconnect()
            await server.run()

            assert server.error is None
        gone = Server(app, scope(AUTH))
        gone.disconnect()
        await gone.run()
        assert gone.error is None
        assert hub.sessions == []


async def test_an_exception_during_the_check_is_counted_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(handshake: object) -> None:
        raise ZeroDivisionError(TOKEN)

    async with open_app() as (app, hub):
        monkeypatch.setattr(hub.gateway, "admit", fail)
        start, body = await refusal_of(app, scope(AUTH))

        assert start["status"] == 503
        assert TOKEN.encode() not in body["body"]
        assert hub.statistics().counters["check-fault"] == 1


async def test_a_hub_that_is_not_running_logs_the_missing_line(caplog: pytest.LogCaptureFixture) -> None:
    app = HubApp(new_hub())
    with anyio.fail_after(30):
        start, _ = await refusal_of(app, scope(AUTH))
        _, close = await refusal_of(app, scope(AUTH, PAGE))

    assert (start["status"], close["code"]) == (503, 1013)
    assert caplog.text.count("add `async with hub:` to the lifespan") == 1


async def test_a_hub_that_has_shut_down_refuses_clients() -> None:
    async with open_app() as (app, hub):
        await hub.shutdown()
        start, body = await refusal_of(app, scope(AUTH))
        _, close = await refusal_of(app, scope(AUTH, PAGE))

        assert (start["status"], body["body"]) == (503, b"the hub is shutting down\n")
        assert close["code"] == 1012


async def test_the_first_seen_opens_the_window() -> None:
    async with open_app(limits=Limits(max_unconfirmed=2)) as (app, hub), running(app, scope(AUTH)) as server:
        server.send_to_app({"action": "subscribe", "channels": ["alerts"]})
        types = [item["type"] for item in await server.read_frame()]
        frames = 1
        while "$subscribed" not in types:
            types += [item["type"] for item in await server.read_frame()]
            frames += 1
        server.send_to_app({"action": "seen", "frames": frames})
        for number in range(2):
            server.send_to_app({"action": "ping", "id": number})
            assert (await server.read_frame())[0]["id"] == number
        server.send_to_app({"action": "ping", "id": 2})
        hub.publish("alerts", "held back")
        await anyio.wait_all_tasks_blocked()
        assert not server.sent

        server.send_to_app({"action": "seen", "frames": frames + 2})
        items = [*await server.read_frame()]
        while items[-1]["type"] != "alerts":
            items += await server.read_frame()
        assert [item["type"] for item in items] == ["$pong", "alerts"]


# --- formats


async def test_messagepack_is_sent_in_binary_messages() -> None:
    async with open_app() as (app, _):
        offering = scope(AUTH, subprotocols=["something", SUBPROTOCOL_MSGPACK, SUBPROTOCOL_JSON])
        async with running(app, offering, accepted=False) as server:
            assert (await server.read())["subprotocol"] == SUBPROTOCOL_MSGPACK
            (hello,) = msgspec.msgpack.decode((await server.read())["bytes"])
            assert hello["type"] == "$hello"
            server.send_to_app(msgspec.msgpack.encode({"action": "ping", "id": 7}))
            (pong,) = msgspec.msgpack.decode((await server.read())["bytes"])
            assert pong["id"] == 7


async def test_unknown_subprotocols_are_refused_with_the_supported_ones() -> None:
    async with open_app() as (app, _):
        start, body = await refusal_of(app, scope(AUTH, subprotocols=["chat", "graphql"]))

        assert start["status"] == 400
        assert SUBPROTOCOL_JSON.encode() in body["body"]
        assert SUBPROTOCOL_MSGPACK.encode() in body["body"]


@pytest.mark.parametrize("offered", [[], [f"bearer.{TOKEN}"]])
async def test_no_subprotocol_is_chosen_if_none_is_offered(offered: list[str]) -> None:
    async with open_app() as (app, _), running(app, scope(AUTH, subprotocols=offered), accepted=False) as server:
        assert (await server.read())["subprotocol"] is None
        assert (await server.read_frame())[0]["type"] == "$hello"


# --- mounts


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        pytest.param({"path": "/hub/events", "root_path": "/hub"}, "/events", id="starlette"),
        pytest.param({"path": "/api/hub/events/", "root_path": "/api/hub/"}, "/events", id="nested"),
        pytest.param({"path": "/hub", "root_path": "/hub"}, "/", id="the mount itself"),
        pytest.param({"path": "/hubs/events", "root_path": "/hub"}, "/hubs/events", id="another path"),
        pytest.param({"path": "/events/", "root_path": ""}, "/events", id="litestar"),
        pytest.param({"path": "/events", "root_path": "/hub"}, "/events", id="root path cut off before"),
        pytest.param({"path": "/hub/events", "path_remaining": "events"}, "/events", id="channels"),
        pytest.param({"path": "/hub", "path_remaining": ""}, "/", id="channels, the mount itself"),
        pytest.param({"path": "/events"}, "/events", id="no root path"),
        pytest.param({}, "/", id="nothing"),
    ],
)
def test_the_path_below_the_mount_is_found_under_every_host(scope: dict[str, Any], path: str) -> None:
    assert find_path(scope) == path


async def test_other_paths_than_that_of_the_websocket_are_not_found() -> None:
    async with open_app(path="/live/") as (app, _):
        async with running(app, scope(AUTH, path="/hub/live", root_path="/hub")):
            pass
        start, _ = await refusal_of(app, scope(AUTH, path="/hub/other", root_path="/hub"))

        assert start["status"] == 404


async def test_almost_every_key_of_a_scope_is_optional() -> None:
    async with open_app() as (app, _), running(app, {"type": "websocket", "headers": [AUTH]}) as server:
        assert (await server.read_frame())[0]["type"] == "$hello"


def test_repeated_headers_are_joined() -> None:
    repeated = {"headers": [(b"Cookie", b"a=1"), (b"cookie", b"b=2"), (b"Accept", b"x"), (b"accept", b"y")]}

    assert read_headers(repeated) == {"cookie": "a=1; b=2", "accept": "x, y"}


async def test_another_type_of_scope_raises() -> None:
    with pytest.raises(ValueError, match="serves websocket, http and lifespan"):
        await HubApp(new_hub())({"type": "quic"}, None, None)


# --- lifespan

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}


@pytest.mark.parametrize("is_entered", [False, True])
async def test_as_the_root_it_enters_the_hub_unless_it_is_open(is_entered: bool) -> None:
    hub = new_hub()
    if is_entered:
        async with hub:
            await _run_lifespan(hub)
            assert hub.is_open, "only the code that entered it leaves it"
    else:
        await _run_lifespan(hub)
        assert hub.is_draining


async def _run_lifespan(hub: Hub) -> None:
    with anyio.fail_after(30):
        async with running(HubApp(hub), {"type": "lifespan"}) as server:
            server.put(STARTUP)
            assert await server.read() == {"type": "lifespan.startup.complete"}
            assert hub.is_open
            server.put(SHUTDOWN)
            assert await server.read() == {"type": "lifespan.shutdown.complete"}
            await server.done()
            assert server.error is None


async def test_a_hub_that_fails_to_start_stops_the_server() -> None:
    class Broken:
        async def open(self, channel: str, epoch: str) -> Any:
            raise JournalError("the disk is full")

        append = read = None

    hub = Hub([Channel("alerts", mode="durable")], authenticate=lambda _: None, journal=Broken())  # type: ignore[arg-type,return-value]
    with anyio.fail_after(30):
        async with running(HubApp(hub), {"type": "lifespan"}) as server:
            server.put(STARTUP)
            message = await server.read()
            await server.done()

    assert message == {"type": "lifespan.startup.failed", "message": "the hub failed: the disk is full"}
    assert isinstance(server.error, JournalError)
