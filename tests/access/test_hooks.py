"""Hooks are the code of others: one that blocks, raises or never returns concerns its own client alone."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub import (
    AuthenticationError,
    Handshake,
    Hub,
    HubError,
    Identity,
    PermissionDenied,
    Tuning,
    anonymous,
    cheap,
)
from analytics_hub.auth import JWTAuthenticator, SessionAuthenticator, mint
from analytics_hub.contracts import Peer
from analytics_hub.exceptions import AuthenticationUnavailable
from analytics_hub.faults import HIDDEN, PIECE, describe_fault
from analytics_hub.hooks import MAX_THREADS, HookThreads, is_cheap
from analytics_hub.transports.memory import WIRE, connect, subscribe

from ..hub.rig import FakeTransport, plug_in, read_data, running

pytestmark = pytest.mark.anyio

ALICE = Identity(id="alice")
KEY = "k" * 32
HASTY = Tuning(interval=0.001, auth_timeout=0.1)
request_id: ContextVar[str] = ContextVar("request_id", default="none")


class Blocking:
    """A synchronous function that blocks its thread until the test opens the gate."""

    def __init__(self, answer: object = ALICE) -> None:
        self.answer = answer
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.calls = self.inside = self.most = 0

    def __call__(self, *args: object) -> Any:
        with self.lock:
            self.calls += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.gate.wait(20)
        with self.lock:
            self.inside -= 1
        return self.answer

    async def until_inside(self, number: int) -> None:
        while self.inside < number:  # noqa: ASYNC110 - a thread counts
            await anyio.sleep(0.001)


@contextmanager
def opened(*hooks: Blocking) -> Any:
    """Let threads end whatever happens to the test."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.gate.set()


@asynccontextmanager
async def watched(hub: Hub) -> AsyncIterator[Callable[[], Any]]:
    """A client that is connected already, and a function that waits until it has got something new."""
    async with subscribe(hub, "events", identity=ALICE) as client:

        async def is_served() -> None:
            hub.publish("events", "news")
            assert await read_data(client, "events", 1) == ["news"]

        yield is_served


async def test_a_blocking_authenticate_delays_its_own_clients_alone() -> None:
    authenticate = Blocking()
    with opened(authenticate):
        async with running(authenticate=authenticate) as hub, watched(hub) as is_served:
            async with anyio.create_task_group() as newcomers:
                for number in range(10):
                    newcomers.start_soon(hub.gateway.admit, Handshake(token=f"{number}"))
                await authenticate.until_inside(10)
                await is_served()
                authenticate.gate.set()

            assert authenticate.calls == 10


async def test_a_blocking_authorize_delays_its_own_client_alone() -> None:
    authorize = Blocking(True)

    def ask(identity: Identity, *question: str) -> Any:
        return identity == ALICE or authorize()

    with opened(authorize):
        async with running(authorize=ask) as hub, watched(hub) as is_served:
            transports = [FakeTransport() for _ in range(10)]
            for number, transport in enumerate(transports):
                plug_in(hub, transport, "events", identity=Identity(id=f"{number}"))
            await authorize.until_inside(10)
            await is_served()
            authorize.gate.set()
            for transport in transports:
                await transport.until(lambda transport=transport: "$subscribed" in transport.text)  # type: ignore[misc]


async def test_a_blocking_identify_delays_its_own_client_alone() -> None:
    identify = Blocking()
    with opened(identify):
        async with running(authenticate=SessionAuthenticator(identify)) as hub, watched(hub) as is_served:
            async with anyio.create_task_group() as newcomers:
                for _ in range(MAX_THREADS + 1):
                    newcomers.start_soon(hub.gateway.admit, Handshake(scope={"session": {}}))
                await identify.until_inside(MAX_THREADS)
                await is_served()
                identify.gate.set()

            assert identify.most == MAX_THREADS


async def test_a_slow_asynchronous_hook_delays_its_own_client_alone() -> None:
    gate, arrived = anyio.Event(), 0

    async def authenticate(handshake: Handshake) -> Identity:
        nonlocal arrived
        if handshake.token == "slow":
            arrived += 1
            await gate.wait()
        return ALICE

    async with (
        running(authenticate=authenticate) as hub,
        watched(hub) as is_served,
        anyio.create_task_group() as newcomers,
    ):
        for _ in range(10):
            newcomers.start_soon(hub.gateway.admit, Handshake(token="slow"))
        while arrived < 10:
            await checkpoint()
        await is_served()
        assert (await hub.gateway.admit(Handshake(token="fast"))).identity == ALICE
        gate.set()


# --- threads


async def test_clients_that_leave_begin_no_further_threads() -> None:
    """A thread counts until its function returns, although its client was answered long ago."""
    hook, threads = Blocking("done"), HookThreads(2)
    with opened(hook):
        for _ in range(5):
            with anyio.move_on_after(0.02):
                await threads.call(hook)
        assert (hook.calls, hook.inside) == (2, 2)

        hook.gate.set()
        assert await threads.call(hook) == "done"
        assert (hook.calls, hook.most) == (3, 2)


async def test_a_call_that_is_cancelled_before_its_thread_begins_takes_no_place() -> None:
    threads = HookThreads(1)
    for _ in range(3):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await threads.call(lambda: None)

    with anyio.fail_after(10):
        assert await threads.call(lambda: "served") == "served"


async def test_a_client_is_answered_when_a_hook_takes_too_long() -> None:
    authenticate = Blocking()
    with opened(authenticate):
        async with running(authenticate=authenticate, tuning=HASTY) as hub:
            with pytest.raises(AuthenticationUnavailable):
                await hub.gateway.admit(Handshake(token="x"))
            assert authenticate.inside == 1


async def test_a_hub_ends_while_a_hook_blocks() -> None:
    authenticate = Blocking()
    with opened(authenticate):
        async with running(authenticate=authenticate) as hub:
            transport = FakeTransport()
            session = hub.gateway.connect(transport, WIRE, Peer(Handshake()))
            hub.gateway.receive_data(session, json.dumps({"action": "auth", "token": "x"}))
            await authenticate.until_inside(1)
        assert authenticate.inside == 1
        assert transport.ended == (1012, "the server restarts")


async def test_threads_serve_one_event_loop_after_another() -> None:
    threads = HookThreads(1)

    def in_another_loop() -> str:
        return anyio.run(threads.call, lambda: "other")

    assert await threads.call(lambda: "this") == "this"
    assert await anyio.to_thread.run_sync(in_another_loop) == "other"
    assert await threads.call(lambda: "this again") == "this again"


async def test_a_hook_has_the_context_variables_of_its_caller() -> None:
    seen = []

    def hook(value: str) -> str:
        seen.append(request_id.get())
        request_id.set("changed by the hook")
        return value

    request_id.set("of the request")

    assert await HookThreads().call(hook, "result") == "result"
    assert seen == ["of the request"]
    assert request_id.get() == "of the request"


async def test_a_function_that_returns_an_awaitable_is_awaited_in_the_event_loop() -> None:
    event_loop = threading.get_ident()

    async def work() -> tuple[int, str]:
        await checkpoint()
        return threading.get_ident(), request_id.get()

    def hook() -> Any:
        assert threading.get_ident() != event_loop
        return work()

    request_id.set("of the request")

    assert await HookThreads().call(hook) == (event_loop, "of the request")


async def test_the_coroutine_of_a_call_that_was_cancelled_is_closed() -> None:
    """Otherwise Python warns that it was never awaited, which fails this test."""
    gate, ended, threads = threading.Event(), threading.Event(), HookThreads(1)
    made: list[Any] = []

    async def work() -> None:
        raise AssertionError("it was awaited")

    def hook() -> Any:
        gate.wait(20)
        made.append(work())
        ended.set()
        return made[0]

    with anyio.move_on_after(0.02):
        await threads.call(hook)
    gate.set()
    while not ended.is_set():  # noqa: ASYNC110 - a thread sets it
        await anyio.sleep(0.001)
    await threads.call(lambda: None)  # has its place only when the first has ended

    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED


async def test_what_a_hook_raises_in_its_thread_is_raised() -> None:
    def stop() -> None:
        raise StopIteration

    def cancel() -> None:
        raise asyncio.CancelledError

    threads = HookThreads(1)
    faults: list[tuple[Callable[[], object], type[Exception]]] = [
        (stop, RuntimeError),
        (cancel, RuntimeError),
        (raise_key_error, KeyError),
    ]
    for raising, expected in faults:
        with pytest.raises(expected):
            await threads.call(raising)
    assert await threads.call(lambda: "served") == "served"


# --- what is called in the event loop


class Authenticator:
    def __call__(self, handshake: Handshake) -> Identity:
        return ALICE

    @cheap
    def quick(self, handshake: Handshake) -> Identity:
        return ALICE

    async def wait(self, handshake: Handshake) -> Identity:
        return ALICE


class Quick(Authenticator):
    @cheap
    def __call__(self, handshake: Handshake) -> Identity:
        return ALICE


class Waiting(Authenticator):
    async def __call__(self, handshake: Handshake) -> Identity:  # type: ignore[override]
        return ALICE


class Stricter(JWTAuthenticator):
    """Looks up more in a database."""

    def __call__(self, handshake: Handshake) -> Any:
        return super().__call__(handshake)


@cheap
def marked(handshake: Handshake) -> Identity:
    return ALICE


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (anonymous, True),
        (JWTAuthenticator(KEY, algorithms=["HS256"]), True),
        (Stricter(KEY, algorithms=["HS256"]), False),
        (SessionAuthenticator(lambda scope: ALICE), True),
        (marked, True),
        (functools.partial(marked), True),
        (cheap(lambda handshake: ALICE), True),
        (cheap(functools.partial(lambda handshake: ALICE)), True),
        (Authenticator(), False),
        (Authenticator().quick, True),
        (Authenticator().wait, True),
        (functools.partial(Authenticator().wait), True),
        (Quick(), True),
        (Waiting(), True),
        (lambda handshake: ALICE, False),
        (functools.partial(Authenticator()), False),
        (dict, False),
    ],
)
async def test_only_what_cannot_block_is_called_in_the_event_loop(hook: Any, expected: bool) -> None:
    assert is_cheap(hook) is expected


async def test_our_authenticator_costs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("a thread was used")

    monkeypatch.setattr(anyio.to_thread, "run_sync", fail)
    async with running(authenticate=JWTAuthenticator(KEY, algorithms=["HS256"])) as hub:
        assert (await hub.gateway.admit(Handshake(token=mint(KEY, subject="alice")))).identity is not None


# --- the log


def raise_key_error(*args: object) -> Any:
    claims: dict[str, str] = {}
    return claims["sub"]


async def wait_and_raise(*args: object) -> Any:
    await checkpoint()
    raise_key_error()


def raise_in_a_library(*args: object) -> Any:
    json.loads("{")


def place_in(function: Callable[..., Any], offset: int = 1) -> str:
    code = function.__code__
    return f"at {__file__}:{code.co_firstlineno + offset} in {code.co_name}"


HERE = place_in(raise_key_error, 2)


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (raise_key_error, f"KeyError: 'sub' {HERE}"),
        (cheap(lambda handshake: raise_key_error()), f"KeyError: 'sub' {HERE}"),
        (wait_and_raise, f"KeyError: 'sub' {HERE}"),
        (
            raise_in_a_library,
            "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) "
            + place_in(raise_in_a_library),
        ),
        (SessionAuthenticator(raise_key_error), f"KeyError: 'sub' {HERE}"),
    ],
    ids=["sync", "cheap", "async", "in a library", "identify"],
)
async def test_a_hook_that_raises_is_logged_with_its_own_place(
    hook: Any, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(authenticate=hook) as hub:
        for _ in range(3):
            with pytest.raises(AuthenticationUnavailable, match=r"^tokens cannot be checked now$") as refused:
                await hub.gateway.authenticate(Handshake(scope={}))
            assert refused.value.__context__ is None

        assert hub.statistics().counters["authenticate-failed"] == 3
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", f"authenticate failed: {expected}")
    ]


@pytest.mark.parametrize("hook", [raise_key_error, wait_and_raise], ids=["sync", "async"])
async def test_an_authorize_that_raises_is_logged_with_its_own_place(
    hook: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(authorize=hook) as hub:
        with pytest.raises(PermissionDenied):
            async with subscribe(hub, "events", identity=ALICE):
                pass

    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage() == f"authorize failed for subscribe events: KeyError: 'sub' {HERE}"


def test_the_place_of_an_application_that_is_installed_as_a_library() -> None:
    """Its files are in site-packages as well, so the frame of the hook itself is named."""
    namespace: dict[str, Any] = {"__name__": "shop.auth"}
    source = "import json\ndef hook():\n    return helper()\ndef helper():\n    return json.loads('{')\n"
    exec(compile(source, "/venv/lib/site-packages/shop/auth.py", "exec"), namespace)
    with pytest.raises(ValueError, match="Expecting property name") as caught:
        namespace["hook"]()

    error = caught.value.with_traceback(caught.tb.tb_next)  # without this test
    assert describe_fault(error).endswith(" at /venv/lib/site-packages/shop/auth.py:3 in hook")


async def test_a_hook_that_takes_too_long_is_named(caplog: pytest.LogCaptureFixture) -> None:
    authenticate = Blocking()
    with opened(authenticate):
        async with running(authenticate=authenticate, tuning=HASTY) as hub:
            with pytest.raises(AuthenticationUnavailable):
                await hub.gateway.authenticate(Handshake(token="x"))

    place = place_in(Blocking.__call__, 0)
    assert caplog.messages == [f"authenticate failed: TimeoutError: it took longer than 0.1 s {place}"]


async def test_a_hook_that_returns_nonsense_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def authenticate(handshake: Handshake) -> Any:
        return {"sub": "alice"}

    async with running(authenticate=authenticate) as hub:
        with pytest.raises(AuthenticationUnavailable):
            await hub.gateway.authenticate(Handshake(token="x"))

    message = "authenticate returned dict; it must return an Identity"
    assert caplog.messages == [f"authenticate failed: TypeError: {message} {place_in(authenticate, 0)}"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_asynchronous_hook_that_uses_the_orm_of_django_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    """A synchronous one has no event loop in its thread, and may use it."""
    from django.utils.asyncio import async_unsafe

    def find_user() -> Identity:
        return ALICE

    query: Callable[[], Identity] = async_unsafe(find_user)

    async def authenticate(handshake: Handshake) -> Identity:
        return query()

    async with running(authenticate=authenticate) as hub:
        with pytest.raises(AuthenticationUnavailable):
            await hub.gateway.authenticate(Handshake(token="x"))
    async with running(authenticate=lambda handshake: query()) as hub:
        assert (await hub.gateway.authenticate(Handshake(token="x"))).identity == ALICE

    (message,) = caplog.messages
    assert message.startswith("authenticate failed: SynchronousOnlyOperation: You cannot call this from an async")
    assert message.endswith(place_in(authenticate))


SECRET = "an-opaque-secret/with+signs=0123456789"


@pytest.mark.parametrize(
    "quote",
    [
        KeyError,
        lambda token: ValueError(f"cannot read {token[:20]}..."),
        lambda token: ValueError(f"...{token[-12:]} is unknown"),
        lambda token: ExceptionGroup("several", [LookupError(token)]),
        lambda token: AuthenticationError("invalid", f"unknown: {token}"),
    ],
    ids=["whole", "its beginning", "its end", "in a group", "in the detail"],
)
async def test_neither_tokens_nor_cookies_reach_the_log(
    quote: Callable[[str], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def authenticate(handshake: Handshake) -> Identity:
        raise quote(SECRET)

    shakes = [Handshake(token=SECRET), Handshake(headers={"cookie": f"a=b; session={SECRET}"})]
    for handshake in shakes:
        async with running(authenticate=authenticate) as hub:
            with pytest.raises(HubError):
                await hub.gateway.authenticate(handshake)

    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert HIDDEN in message
        assert not [piece for piece in pieces(SECRET, PIECE) if piece in message]


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(len(text) - size + 1)]


@given(
    secret=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=PIECE, max_size=60),
    before=st.text(max_size=20),
    cut=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    after=st.text(max_size=600),
)
def test_no_piece_of_a_secret_is_described(secret: str, before: str, cut: tuple[int, int], after: str) -> None:
    quoted = secret[min(cut) : max(cut)]
    line = describe_fault(RuntimeError(f"{before}{quoted}{after}"), secrets=[secret])

    assert not [piece for piece in pieces(secret, PIECE) if piece in line.replace(HIDDEN, "\n")]
    assert line.isprintable()
    assert len(line) < 400


def test_an_exception_whose_message_cannot_be_read_is_described() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    assert describe_fault(Odd()) == "Odd: its message cannot be read"


# --- in a request


async def test_a_hook_may_publish_from_its_thread() -> None:
    hubs: list[Hub] = []

    def authenticate(handshake: Handshake) -> Identity:
        hubs[0].publish("events", "a login")
        return ALICE

    async with (
        running(authenticate=authenticate) as hub,
        subscribe(hub, "events", identity=ALICE) as client,
    ):
        hubs.append(hub)
        async with connect(hub, token="x"):
            assert await read_data(client, "events", 1) == ["a login"]
