"""Tickets over HTTP, and what the application says of those who publish."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import msgspec
import pytest

from analytics_hub import Action, Channel, Handshake, Hub, Identity, Tuning
from analytics_hub.access import tickets as ticket_module
from analytics_hub.auth import redact
from analytics_hub.auth.sessions import SessionAuthenticator
from analytics_hub.http import Request, Response
from analytics_hub.transports._http.endpoints import Endpoints
from analytics_hub.transports._http.events import EventStream
from analytics_hub.transports.memory import subscribe

from .test_endpoints import CHANNELS, FRIEND, PEOPLE, ask, ask_anything, authenticate, error_of, new_hub, read, take

pytestmark = pytest.mark.anyio

TUNING = Tuning(max_item_bytes=500, max_members=2, auth_timeout=0.2)


# --- tickets


async def test_any_credential_buys_a_ticket_that_is_good_once() -> None:
    async with new_hub() as hub:
        response = await ask(hub, "/ticket", b"", token="reader", headers={"origin": FRIEND})
        told = read(response)
        first = await ask_anything(hub, f"/events?token={told['ticket']}", method="GET", token=None)
        second = await ask(hub, f"/events?token={told['ticket']}", method="GET", token=None)
        headers = dict(response.headers)

        assert (response.status, told) == (201, {"ticket": told["ticket"], "expires_in": 30.0})
        assert headers["Cache-Control"] == "no-store"
        assert headers["Access-Control-Allow-Origin"] == FRIEND
        assert isinstance(first, EventStream)
        assert first.identity == PEOPLE["reader"]
        assert error_of(second) == (401, "unauthenticated", "invalid token")
        assert told["ticket"] not in redact(f"/events?token={told['ticket']} {told['ticket']}")


async def test_a_session_of_the_host_buys_a_ticket() -> None:
    hub = Hub(CHANNELS, authenticate=SessionAuthenticator(lambda scope: scope["identity"], authenticate))
    async with hub:
        for scope, status in (({"identity": PEOPLE["reader"]}, 201), ({"identity": None}, 401), (None, 401)):
            response = await ask_at(hub, "/ticket", scope=scope)
            assert response.status == status


async def ask_at(hub: Hub, path: str, *, scope: Any) -> Response:
    answer = await Endpoints(hub).answer(Request("POST", path, "", {"host": "hub.example"}, b""), scope=scope)
    assert isinstance(answer, Response)
    return answer


async def test_a_ticket_buys_no_ticket_and_is_not_used_up_by_trying() -> None:
    async with new_hub() as hub:
        ticket = hub.issue_ticket(PEOPLE["reader"])
        refused = await ask(hub, "/ticket", b"", token=ticket)

        assert error_of(refused) == (403, "forbidden", "a ticket buys no ticket")
        assert hub.statistics().counters["refused-ticket"] == 1
        assert await hub.check(Handshake(token=ticket)) == PEOPLE["reader"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"method": "GET"}, 405),
        ({"method": "OPTIONS"}, 204),
        ({"token": None}, 401),
        ({"token": "banned"}, 403),
        ({"headers": {"origin": "https://evil.example"}}, 403),
        ({"headers": {"origin": "null"}}, 403),
    ],
)
async def test_who_gets_no_ticket(options: dict[str, Any], status: int) -> None:
    async with new_hub() as hub:
        response = await ask(hub, "/ticket", b"", **options)

        assert response.status == status
        assert b"ticket." not in response.body
        assert not len(hub._tickets)


async def test_when_too_many_are_out_it_says_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket_module, "MAX_TICKETS", 1)
    async with new_hub() as hub:
        assert (await ask(hub, "/ticket", b"")).status == 201
        refused = await ask(hub, "/ticket", b"")

        assert refused.status == 503
        assert dict(refused.headers)["Retry-After"] == "1"
        assert hub.statistics().counters["overloaded"] == 1


# --- publishing


class Judge:
    """An `authorize` that knows by heart what it says of each channel, and else says yes."""

    def __init__(self, **verdicts: Any) -> None:
        self.verdicts = verdicts
        self.asked: list[tuple[str, Action, str]] = []

    async def __call__(self, identity: Identity, action: Action, channel: str) -> Any:
        self.asked.append((identity.id, action, channel))
        verdict = self.verdicts.get(channel.replace(":", "_"), True)
        if isinstance(verdict, anyio.Event):
            await verdict.wait()
            return True
        if isinstance(verdict, Exception):
            raise verdict
        return verdict


@asynccontextmanager
async def judged(judge: Judge, tuning: Tuning = TUNING) -> AsyncIterator[Hub]:
    with anyio.fail_after(30):
        async with Hub(CHANNELS, authenticate=authenticate, authorize=judge, tuning=tuning, grace=0.1) as hub:
            yield hub


def item(channel: str, data: object = 1) -> dict[str, object]:
    return {"channel": channel, "data": data}


async def test_the_application_is_asked_after_the_roles_once_for_each_channel() -> None:
    judge = Judge(user_2=False, durable=RuntimeError("down"))
    async with judged(judge) as hub:
        items = ["plain", "user:1", "closed", "user:2", "plain", "durable", "nosuch", "bad name", "plain"]
        response = await ask(hub, "/publish", [item(name) for name in items])
        codes = [answer["error"]["code"] if "error" in answer else answer["seq"] for answer in read(response)]

        assert codes == [1, 1, "forbidden", "forbidden", 2, "unavailable", "unknown-channel", "bad-request", 3]
        assert judge.asked == [("writer", "publish", name) for name in ("plain", "user:1", "user:2", "durable")]
        assert hub.statistics().counters["authorize-failed"] == 1


async def test_one_item_is_answered_with_a_status() -> None:
    async with judged(Judge(user_2=False, durable="nonsense", user_1=anyio.Event())) as hub:
        refusals = [error_of(await ask(hub, "/publish", item(name)))[:2] for name in ("user:2", "durable", "user:1")]
        published = await ask(hub, "/publish", item("plain"))

        assert refusals == [(403, "forbidden"), (503, "unavailable"), (503, "unavailable")]
        assert published.status == 200


class Bottomless(msgspec.Struct):
    """A schema whose own code does not end."""

    depth: int = 0

    def __post_init__(self) -> None:
        Bottomless(self.depth + 1)


async def test_data_that_a_schema_cannot_hold_is_the_senders_fault() -> None:
    hub = Hub([Channel("deep", schema=Bottomless, publishers=frozenset({"writer"}))], authenticate=authenticate)
    async with hub:
        refused = await ask(hub, "/publish", item("deep", {}))

        assert error_of(refused) == (400, "bad-request", "the JSON is nested too deeply")


async def test_the_application_itself_is_not_asked() -> None:
    judge = Judge(plain=False)
    async with judged(judge) as hub:
        hub.publish("plain", 1)
        await hub.publish_confirmed("plain", 2)

        assert judge.asked == []
        assert hub.statistics().channels["plain"].head == 2


@pytest.mark.parametrize("what", ["revoke", "set_roles"])
async def test_who_is_revoked_while_the_application_thinks_publishes_nothing(what: str) -> None:
    gate = anyio.Event()
    judge = Judge(plain=gate)
    answers: list[Response] = []
    tuning = replace(TUNING, auth_timeout=10.0)
    async with judged(judge, tuning=tuning) as hub, anyio.create_task_group() as tasks:

        async def publish() -> None:
            answers.append(await ask(hub, "/publish", [item("plain"), item("plain")]))

        tasks.start_soon(publish)
        while not judge.asked:
            await anyio.lowlevel.checkpoint()
        hub.revoke("writer") if what == "revoke" else hub.set_roles("writer", [])
        gate.set()
    code = "unauthenticated" if what == "revoke" else "forbidden"
    assert [answer["error"]["code"] for answer in read(answers[0])] == [code, code]
    assert hub.statistics().channels["plain"].head == 0


async def test_who_is_revoked_in_the_middle_of_an_array_publishes_no_more() -> None:
    """A subscriber sends the publisher away when it sees the first item; the event loop has its turn every 64."""
    async with judged(Judge()) as hub, subscribe(hub, "plain", identity=PEOPLE["reader"]) as client:
        answers: list[Response] = []
        async with anyio.create_task_group() as tasks:

            async def publish() -> None:
                answers.append(await ask(hub, "/publish", [item("plain")] * 3000))

            tasks.start_soon(publish)
            await take(client, 1)
            hub.revoke("writer")
        outcomes = ["seq" in answer for answer in read(answers[0])]
        count = sum(outcomes)

        assert 0 < count < 3000
        assert outcomes == [True] * count + [False] * (3000 - count)
        assert hub.statistics().channels["plain"].head == count
