"""A lifespan under servers that have none: begun by the first request, once, whatever the application makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from analytics_hub import Channel, Hub, anonymous
from analytics_hub.transports.asgi import HubApp, WithLifespan

from .asgi_peer import Message, http_scope

REQUEST = http_scope("GET", "/healthz")
request_id: ContextVar[str] = ContextVar("request_id", default="none")


class Application:
    """Records what it is called with. `startup` is its answer to that, or what it raises."""

    def __init__(self, startup: Message | Exception | None = None) -> None:
        self.startup = {"type": "lifespan.startup.complete"} if startup is None else startup
        self.calls: list[str] = []
        self.context = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(scope["type"])
        if scope["type"] != "lifespan":
            return
        self.context = request_id.get()
        assert await receive() == {"type": "lifespan.startup"}
        await asyncio.sleep(0)
        if isinstance(self.startup, Exception):
            raise self.startup
        await send(self.startup)
        assert await receive() == {"type": "lifespan.shutdown"}
        self.calls.append("end")


async def call(app: Callable[..., Any], scope: Message) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def test_the_first_request_starts_the_lifespan_and_all_wait_for_it() -> None:
    application = Application()
    app = WithLifespan(application)

    async def main() -> None:
        request_id.set("the first")
        await asyncio.gather(*(call(app, REQUEST) for _ in range(3)))
        await call(app, REQUEST)

    asyncio.run(main())

    assert application.calls == ["lifespan", "http", "http", "http", "http"]
    assert application.context == "none"


def test_a_cancelled_first_request_does_not_cancel_the_lifespan() -> None:
    application = Application()
    app = WithLifespan(application)

    async def main() -> None:
        first = asyncio.create_task(call(app, REQUEST))
        await asyncio.sleep(0)
        first.cancel()
        await call(app, REQUEST)

    asyncio.run(main())

    assert application.calls == ["lifespan", "http"]


def test_every_event_loop_has_a_lifespan_of_its_own() -> None:
    application = Application()
    app = WithLifespan(application)

    for _ in range(2):
        asyncio.run(call(app, REQUEST))

    assert application.calls == ["lifespan", "http"] * 2


@pytest.mark.parametrize(
    ("startup", "reason"),
    [
        pytest.param({"type": "lifespan.startup.failed", "message": "no database"}, "no database", id="reported"),
        pytest.param(KeyError("DATABASE"), "KeyError('DATABASE')", id="raised"),
    ],
)
def test_requests_fail_while_the_startup_has_failed(startup: Message | Exception, reason: str) -> None:
    app = WithLifespan(Application(startup))

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="the lifespan of the application has failed") as failed:
                await call(app, REQUEST)
            assert reason in str(failed.value)

    asyncio.run(main())


def test_an_application_without_a_lifespan_is_served() -> None:
    """Django's raises, whatever it is not made for."""
    calls: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise ValueError("not lifespan")
        calls.append("http")

    asyncio.run(call(WithLifespan(application), REQUEST))

    assert calls == ["http"]


def test_a_server_with_a_lifespan_of_its_own_starts_it_alone() -> None:
    application = Application()
    app = WithLifespan(application)

    async def main() -> None:
        messages: asyncio.Queue[Message] = asyncio.Queue()

        async def send(message: Message) -> None:
            await call(app, REQUEST)
            messages.put_nowait({"type": "lifespan.shutdown"})

        messages.put_nowait({"type": "lifespan.startup"})
        await app({"type": "lifespan"}, messages.get, send)

    asyncio.run(main())

    assert application.calls == ["lifespan", "http", "end"]


def test_the_hub_is_entered_by_the_first_request() -> None:
    app = WithLifespan(HubApp(Hub([Channel("a")], authenticate=anonymous, grace=0.01)))

    start, _ = asyncio.run(call(app, REQUEST))

    assert start["status"] == 200
