"""The application as a server sees it: who is let in, in which words others are not, where it may be mounted."""

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


async def answer_to(app: HubApp, its: dict[str, Any]) -> list[Message]:
    """All messages of the application to a peer that does nothing."""
    async with running(app, its, accepted=False) as server:
        await server.read_until_quiet()
    assert server.error is None
    return [*server.sent]


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "its",
    [
        pytest.param(scope(AUTH), id="header"),
        pytest.param(scope(subprotocols=[SUBPROTOCOL_JSON, f"bearer.{TOKEN}"]), id="subprotocol"),
        pytest.param(scope(query_string=f"a=b&token={TOKEN}".encode()), id="query"),
        pytest.param(scope(query_string=f"a=b&%74oken={TOKEN}".encode(), raw_path=b"/hub?token=x"), id="encoded"),
    ],
)
async def test_a_token_may_come_in_three_places_and_is_never_seen_again(
    its: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    its = {**its}
    async with open_app() as (app, hub), running(app, its, accepted=False) as server:
        accept = await server.read()
        assert TOKEN not in str(accept)
        assert (await server.read_frame())[0]["type"] == "$hello"
        (session,) = hub.sessions
        assert session.identity is not None
        assert session.identity.id == "alice"
    assert its["query_string"] in (b"", b"a=b")
    assert b"?" not in its["raw_path"]
    assert "eyJ" not in caplog.text


async def test_without_a_token_the_first_message_brings_it() -> None:
    async with open_app() as (app, _), running(app, scope()) as server:
        server.say({"action": "auth", "token": TOKEN})

        assert (await server.read_frame())[0]["type"] == "$hello"


# --- refusals -------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_an_answer_where_the_server_can_send_one() -> None:
    async with open_app() as (app, hub):
        start, body = await answer_to(app, scope(bearer("x")))

        assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
        assert (b"www-authenticate", b"Bearer") in start["headers"]
        assert body["body"] == b"invalid token\n"
        assert hub.statistics().counters["token-invalid"] == 1


@pytest.mark.parametrize("extensions", [None, {}, {"tls": {}}])
async def test_a_refusal_is_a_plain_close_where_it_cannot(extensions: object) -> None:
    async with open_app() as (app, _):
        its = scope(bearer("x"), extensions=extensions)
        (close,) = await answer_to(app, its)

        assert close == {"type": "websocket.close", "code": 4401, "reason": "invalid token"}


async def test_a_page_is_let_in_to_be_told_the_code() -> None:
    async with open_app(origins=["https://friend.example"]) as (app, hub):
        offered = [SUBPROTOCOL_JSON, "bearer.x"]
        accept, close = await answer_to(app, scope(PAGE, subprotocols=offered))
        assert accept == {"type": "websocket.accept", "subprotocol": SUBPROTOCOL_JSON}
        assert close["code"] == 4401

        _, close = await answer_to(app, scope(AUTH, (b"origin", b"https://evil.example")))
        assert (close["code"], close["reason"]) == (4403, "this origin is not allowed")

        for origin in (PAGE, (b"origin", b"https://friend.example")):
            async with running(app, scope(AUTH, origin)):
                pass
        assert hub.statistics().counters["token-invalid"] == 1
        assert hub.statistics().counters["refused-origin"] == 1


async def test_origins_are_a_list() -> None:
    with pytest.raises(TypeError, match="origins must be a list"):
        HubApp(new_hub(), origins="https://friend.example")


async def test_a_peer_that_stays_after_its_refusal_is_left() -> None:
    async with open_app(limits=Limits(close_timeout=0.01)) as (app, _):
        server = Server(app, scope(PAGE, bearer("x")))
        server.is_stubborn = True
        server.put({"type": "websocket.connect"})
        await server.run()

        assert server.error is None


async def test_a_client_too_many_is_told_to_come_again() -> None:
    async with open_app(limits=Limits(max_clients=1)) as (app, _), running(app, scope(AUTH)) as server:
        assert (await server.read_frame())[0]["type"] == "$hello"
        start, _ = await answer_to(app, scope(AUTH))
        _, close = await answer_to(app, scope(AUTH, PAGE))

        assert (start["status"], close["code"]) == (503, 1013)


@pytest.mark.parametrize("field", ["max_message", "close_timeout"])
def test_limits_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 0; it must be above 0"):
        Limits(**{field: 0})


async def test_a_peer_that_leaves_before_it_is_let_in() -> None:
    async with open_app() as (app, hub):
        for its in (scope(AUTH), scope(bearer("x")), scope(bearer("x"), PAGE)):
            server = Server(app, its)
            server.put({"type": "websocket.connect"})
            server.lose()
            await server.run()

            assert server.error is None
        gone = Server(app, scope(AUTH))
        gone.lose()
        await gone.run()
        assert gone.error is None
        assert hub.sessions == []


async def test_a_bug_in_the_check_is_not_the_servers_to_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(handshake: object) -> None:
        raise ZeroDivisionError(TOKEN)

    async with open_app() as (app, hub):
        monkeypatch.setattr(hub, "admit", fail)
        start, body = await answer_to(app, scope(AUTH))

        assert start["status"] == 503
        assert TOKEN.encode() not in body["body"]
        assert hub.statistics().counters["check-fault"] == 1


async def test_a_hub_that_is_not_running_says_which_line_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    app = HubApp(new_hub())
    with anyio.fail_after(30):
        start, _ = await answer_to(app, scope(AUTH))
        _, close = await answer_to(app, scope(AUTH, PAGE))

    assert (start["status"], close["code"]) == (503, 1013)
    assert caplog.text.count("add `async with hub:` to the lifespan") == 1


async def test_a_hub_that_has_shut_down_sends_everyone_elsewhere() -> None:
    async with open_app() as (app, hub):
        await hub.shutdown()
        start, body = await answer_to(app, scope(AUTH))
        _, close = await answer_to(app, scope(AUTH, PAGE))

        assert (start["status"], body["body"]) == (503, b"the hub is shutting down\n")
        assert close["code"] == 1012


async def test_a_drain_is_announced_and_then_closes() -> None:
    async with open_app() as (app, hub), running(app, scope(AUTH)) as server:
        assert (await server.read_frame())[0]["type"] == "$hello"
        await hub.shutdown()

        assert (await server.read_frame())[0]["type"] == "$drain"
        assert (await server.read())["code"] == 1012
        await server.done()
        assert server.error is None


async def test_a_client_that_has_begun_to_confirm_is_sent_no_more_than_it_confirms() -> None:
    async with open_app(limits=Limits(max_unconfirmed=2)) as (app, hub), running(app, scope(AUTH)) as server:
        server.say({"action": "subscribe", "channels": ["alerts"]})
        types = [item["type"] for item in await server.read_frame()]
        frames = 1
        while "$subscribed" not in types:
            types += [item["type"] for item in await server.read_frame()]
            frames += 1
        server.say({"action": "seen", "frames": frames})
        for number in range(2):
            server.say({"action": "ping", "id": number})
            assert (await server.read_frame())[0]["id"] == number
        server.say({"action": "ping", "id": 2})
        hub.publish("alerts", "held back")
        await anyio.wait_all_tasks_blocked()
        assert not server.sent

        server.say({"action": "seen", "frames": frames + 2})
        items = [*await server.read_frame()]
        while items[-1]["type"] != "alerts":
            items += await server.read_frame()
        assert [item["type"] for item in items] == ["$pong", "alerts"]


# --- formats --------------------------------------------------------------------------------------------------------


async def test_messagepack_is_spoken_in_binary_messages() -> None:
    async with open_app() as (app, _):
        its = scope(AUTH, subprotocols=["something", SUBPROTOCOL_MSGPACK, SUBPROTOCOL_JSON])
        async with running(app, its, accepted=False) as server:
            assert (await server.read())["subprotocol"] == SUBPROTOCOL_MSGPACK
            (hello,) = msgspec.msgpack.decode((await server.read())["bytes"])
            assert hello["type"] == "$hello"
            server.say(msgspec.msgpack.encode({"action": "ping", "id": 7}))
            (pong,) = msgspec.msgpack.decode((await server.read())["bytes"])
            assert pong["id"] == 7


async def test_only_unknown_subprotocols_are_refused_with_a_sentence() -> None:
    async with open_app() as (app, _):
        start, body = await answer_to(app, scope(AUTH, subprotocols=["chat", "graphql"]))

        assert start["status"] == 400
        assert SUBPROTOCOL_JSON.encode() in body["body"]
        assert SUBPROTOCOL_MSGPACK.encode() in body["body"]


@pytest.mark.parametrize("offered", [[], [f"bearer.{TOKEN}"]])
async def test_nothing_offered_is_nothing_chosen(offered: list[str]) -> None:
    async with open_app() as (app, _), running(app, scope(AUTH, subprotocols=offered), accepted=False) as server:
        assert (await server.read())["subprotocol"] is None
        assert (await server.read_frame())[0]["type"] == "$hello"


# --- where it is mounted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("its", "path"),
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
def test_every_host_spells_the_path_differently(its: dict[str, Any], path: str) -> None:
    assert find_path(its) == path


async def test_a_socket_may_have_a_path_of_its_own() -> None:
    async with open_app(path="/live/") as (app, _):
        async with running(app, scope(AUTH, path="/hub/live", root_path="/hub")):
            pass
        start, _ = await answer_to(app, scope(AUTH, path="/hub/other", root_path="/hub"))

        assert start["status"] == 404


async def test_a_scope_may_lack_almost_everything() -> None:
    async with open_app() as (app, _), running(app, {"type": "websocket", "headers": [AUTH]}) as server:
        assert (await server.read_frame())[0]["type"] == "$hello"


def test_headers_that_came_twice_are_joined() -> None:
    its = {"headers": [(b"Cookie", b"a=1"), (b"cookie", b"b=2"), (b"Accept", b"x"), (b"accept", b"y")]}

    assert read_headers(its) == {"cookie": "a=1; b=2", "accept": "x, y"}


async def test_another_kind_of_scope_is_an_error() -> None:
    with pytest.raises(ValueError, match="serves websocket, http and lifespan"):
        await HubApp(new_hub())({"type": "quic"}, _nothing, _ignore)


async def _nothing() -> Message:
    raise AssertionError


async def _ignore(message: object) -> None:
    pass


# --- lifespan -------------------------------------------------------------------------------------------------------

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}


@pytest.mark.parametrize("is_entered", [False, True])
async def test_as_the_root_it_enters_the_hub_unless_that_was_done(is_entered: bool) -> None:
    hub = new_hub()
    if is_entered:
        async with hub:
            await _live(hub)
            assert hub.is_open, "who entered it leaves it"
    else:
        await _live(hub)
        assert hub.is_draining


async def _live(hub: Hub) -> None:
    with anyio.fail_after(30):
        async with running(HubApp(hub), {"type": "lifespan"}) as server:
            server.put(STARTUP)
            assert await server.read() == {"type": "lifespan.startup.complete"}
            assert hub.is_open
            server.put(SHUTDOWN)
            assert await server.read() == {"type": "lifespan.shutdown.complete"}
            await server.done()
            assert server.error is None


async def test_a_hub_that_cannot_start_stops_the_server() -> None:
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
