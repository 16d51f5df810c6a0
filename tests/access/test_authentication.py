"""`authenticate` of the application: what it returns and raises concerns one client alone."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from analytics_hub import (
    AuthenticationError,
    Channel,
    Handshake,
    HubError,
    Identity,
    Overloaded,
    PermissionDenied,
    TooManyRequests,
    Tuning,
    UnknownChannel,
)
from analytics_hub.auth import JWTAuthenticator, mint
from analytics_hub.contracts import Peer
from analytics_hub.exceptions import AuthenticationUnavailable
from analytics_hub.hub.gateway import MAX_CHECKS
from analytics_hub.telemetry import COUNTERS
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import WIRE, connect, subscribe

from ..hub.rig import FakeTransport, cancellation, is_empty, plug_in, read_data, running

pytestmark = pytest.mark.anyio

HASTY = Tuning(interval=0.001, auth_timeout=0.1)
ALICE = Identity(id="alice")
SECRET = "secret-token-4711"


def sync_authenticate(handshake: Handshake) -> Identity:
    return Identity(id=f"sync {handshake.token}")


async def async_authenticate(handshake: Handshake) -> Identity:
    await anyio.lowlevel.checkpoint()
    return Identity(id=f"async {handshake.token}")


class Promise:
    """An awaitable that is not a coroutine."""

    def __await__(self) -> Any:
        yield from anyio.lowlevel.checkpoint().__await__()
        return Identity(id="promised")


def promise(handshake: Handshake) -> Awaitable[Identity]:
    return Promise()


@pytest.mark.parametrize(
    ("authenticate", "id_"),
    [(sync_authenticate, "sync t"), (async_authenticate, "async t"), (promise, "promised")],
    ids=["sync", "async", "awaitable"],
)
async def test_authenticate_may_be_sync_or_async(authenticate: Any, id_: str) -> None:
    async with running(authenticate=authenticate) as hub:
        peer = await hub.gateway.authenticate(Handshake(token="t"))
        async with connect(hub, token="t"):
            (session,) = hub.sessions

            assert peer.identity is not None
            assert peer.identity.id == id_
            assert session.identity is not None
            assert session.identity.id == id_


async def test_authenticate_gets_the_handshake() -> None:
    seen: list[Handshake] = []

    def authenticate(handshake: Handshake) -> Identity:
        seen.append(handshake)
        return ALICE

    async with running(authenticate=authenticate) as hub:
        handshake = Handshake(token="a", transport="fake", path="/p", headers={"x": "y"}, origin="o", client="1.2.3.4")
        session = hub.gateway.connect(FakeTransport(), WIRE, await hub.gateway.authenticate(handshake))
        transport = FakeTransport()
        later = hub.gateway.connect(transport, WIRE, Peer(Handshake(transport="fake", headers={"x": "z"})))
        hub.gateway.receive_data(later, '{"action":"auth","token":"b"}')
        await transport.until(lambda: "$hello" in transport.text)
        hub.gateway.receive_data(later, '{"action":"auth","token":"c"}')
        await transport.until(lambda: transport.text.count("$authenticated") == 2)

        assert [(h.token, h.transport, dict(h.headers)) for h in seen] == [
            ("a", "fake", {"x": "y"}),
            ("b", "fake", {"x": "z"}),  # all but the token is that of the handshake
            ("c", "fake", {}),  # headers are not kept for a refresh
        ]
        assert seen[0] is handshake
        assert session.identity == later.identity == ALICE


# --- refusals and failures


@pytest.mark.parametrize("fault", ["missing", "invalid", "expired"])
async def test_a_refusal_has_the_fault_of_the_token_and_is_counted(fault: Any) -> None:
    async def authenticate(handshake: Handshake) -> Identity:
        raise AuthenticationError(fault, "only for the log")

    async with running(authenticate=authenticate) as hub:
        with pytest.raises(AuthenticationError, match=rf"^{fault} token$"):
            await hub.gateway.authenticate(Handshake(token=SECRET))

        assert hub.statistics().counters[f"token-{fault}"] == 1


async def test_a_refused_first_message_counts_once() -> None:
    def authenticate(handshake: Handshake) -> Identity:
        raise AuthenticationError("invalid")

    async with running(authenticate=authenticate) as hub:
        transport = FakeTransport()
        session = hub.gateway.connect(transport, WIRE, Peer(Handshake()))
        hub.gateway.receive_data(session, '{"action":"auth","token":"x"}')
        await transport.until(lambda: transport.ended is not None)

        assert transport.ended == (4401, "invalid token")
        assert hub.statistics().counters["token-invalid"] == 1
        assert is_empty(hub)


def raising(error: Exception) -> Callable[[Handshake], Identity]:
    def authenticate(handshake: Handshake) -> Identity:
        raise error

    return authenticate


async def hanging(handshake: Handshake) -> Identity:
    await anyio.sleep_forever()
    raise AssertionError


async def cancelled(handshake: Handshake) -> Identity:
    """As when a task of the application that it waits for is cancelled."""
    raise await cancellation()


FAILING: dict[str, Any] = {
    "raises": raising(RuntimeError(f"cannot look up {SECRET}")),
    "returns an exception": lambda handshake: AuthenticationError(SECRET),  # type: ignore[arg-type]
    "is cancelled from inside": cancelled,
    "raises a group": raising(ExceptionGroup("several", [KeyError(SECRET)])),
    "hangs": hanging,
    "returns None": lambda handshake: None,
    "returns True": lambda handshake: True,
    "returns a dict": lambda handshake: {"sub": "alice"},
    "returns a class": lambda handshake: Identity,
    "an id that is no text": lambda handshake: Identity(id=7),  # type: ignore[arg-type]
    "no id": lambda handshake: Identity(id=""),
    "a huge id": lambda handshake: Identity(id="x" * 1_000_000),
    "roles that are a text": lambda handshake: Identity(id="a", roles="admin"),  # type: ignore[arg-type]
    "roles that are a list": lambda handshake: Identity(id="a", roles=["admin"]),  # type: ignore[arg-type]
    "expires that is a text": lambda handshake: Identity(id="a", expires="tomorrow"),  # type: ignore[arg-type]
    "expires that is not a number": lambda handshake: Identity(id="a", expires=float("nan")),
    "issued that is a text": lambda handshake: Identity(id="a", issued="today"),  # type: ignore[arg-type]
    "a token id that is not text": lambda handshake: Identity(id="a", token_id=["x"]),  # type: ignore[arg-type]
    "channels that are a text": lambda handshake: Identity(id="a", channels="user:*"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("authenticate", FAILING.values(), ids=FAILING.keys())
async def test_a_failure_of_authenticate_refuses_the_client(authenticate: Any) -> None:
    """With 503 or 1011, without the reason; it is counted, and the hub serves the others."""
    async with running(authenticate=authenticate, tuning=HASTY, clock=ManualClock()) as hub:
        witness = FakeTransport()
        plug_in(hub, witness, "events", identity=ALICE)
        with pytest.raises(HubError) as refused:
            async with connect(hub, token=SECRET):
                pass
        transport = FakeTransport()
        session = hub.gateway.connect(transport, WIRE, Peer(Handshake()))
        hub.gateway.receive_data(session, json.dumps({"action": "auth", "token": SECRET}))
        await transport.until(lambda: transport.ended is not None)
        hub.publish("events", "undisturbed")
        await witness.until(lambda: "undisturbed" in witness.text)

        assert type(refused.value) is AuthenticationUnavailable
        assert str(refused.value) == "tokens cannot be checked now"
        assert transport.ended == (1011, "tokens cannot be checked now")
        assert SECRET not in transport.text
        assert hub.statistics().counters["authenticate-failed"] == 2
        assert hub.statistics().sessions == 1


@pytest.mark.parametrize(
    "error", [TooManyRequests("too many logins", 7.0), Overloaded("the database is busy")], ids=repr
)
async def test_authenticate_may_refuse_for_a_limit_of_its_own(error: HubError) -> None:
    async with running(authenticate=raising(error)) as hub:
        with pytest.raises(type(error)) as refused:
            await hub.gateway.authenticate(Handshake(token=SECRET))
        transport = FakeTransport()
        session = hub.gateway.connect(transport, WIRE, Peer(Handshake()))
        hub.gateway.receive_data(session, json.dumps({"action": "auth", "token": SECRET}))
        await transport.until(lambda: transport.ended is not None)

        assert refused.value is error
        assert transport.ended == (error.close_code, str(error))
        assert '"code":"rate-limited"' in transport.text
        assert hub.statistics().counters["authenticate-limited"] == 2


@pytest.mark.parametrize(
    "authenticate", [FAILING["raises"], hanging, raising(PermissionDenied("no"))], ids=["raises", "hangs", "refuses"]
)
async def test_authenticate_is_called_once_for_a_peer_without_a_token(authenticate: Any) -> None:
    calls = 0

    async def count(handshake: Handshake) -> Any:
        nonlocal calls
        calls += 1
        result = authenticate(handshake)
        return await result if hasattr(result, "__await__") else result

    async with running(authenticate=count, tuning=HASTY) as hub:
        with pytest.raises(HubError):
            await hub.gateway.admit(Handshake())

        assert calls == 1


async def test_a_peer_without_a_token_may_send_one_later() -> None:
    def authenticate(handshake: Handshake) -> Identity:
        if handshake.token is None:
            raise AuthenticationError("missing")
        return ALICE

    async with running(authenticate=authenticate) as hub:
        assert (await hub.gateway.admit(Handshake())).identity is None
        assert (await hub.gateway.admit(Handshake(token="t"))).identity == ALICE
        assert hub.statistics().counters.get("token-missing", 0) == 0
        with pytest.raises(AuthenticationError):
            await hub.gateway.authenticate(Handshake())
        assert hub.statistics().counters["token-missing"] == 1


async def test_invalid_tokens_get_one_answer_and_the_operator_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each reason has a counter, those of the application share one, and the log is not flooded."""
    key = "k" * 32
    jwt = JWTAuthenticator(key, algorithms=["HS256"])
    other = mint("o" * 32, subject="alice")

    def authenticate(handshake: Handshake) -> Any:
        if handshake.token == "odd":
            raise AuthenticationError("invalid", f"cannot find\n{other}")
        return jwt(handshake)

    async with running(authenticate=authenticate, clock=ManualClock()) as hub:
        answers = set()
        hub.revoke("ann")
        for token in ("odd", "x", other, "x" * 9000, "ticket.unknown", mint(key, subject="ann")):
            with pytest.raises(AuthenticationError) as refused:
                await hub.gateway.authenticate(Handshake(token=token))
            answers.add(str(refused.value))

        counters = hub.statistics().counters
        assert answers == {"invalid token"}
        assert counters["token-invalid"] == 6
        assert {name: number for name, number in counters.items() if name.startswith("invalid-")} == {
            "invalid-other": 1,
            "invalid-malformed": 1,
            "invalid-signature": 1,
            "invalid-too-long": 1,
            "invalid-ticket": 1,
            "invalid-revoked": 1,
        }
        assert set(counters) <= set(COUNTERS)
        (line,) = caplog.messages
        assert line == "a token was refused: invalid ('cannot find\\n[redacted]')"


# --- its background task


class Background:
    """An `authenticate` with a background task."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.log: list[str] = []
        self.began = anyio.Event()

    def __call__(self, handshake: Handshake) -> Identity:
        return ALICE

    async def run(self) -> None:
        self.log.append("begun")
        self.began.set()
        try:
            if self.error is not None:
                raise self.error
            await anyio.sleep_forever()
        finally:
            self.log.append("ended")


async def test_the_background_task_runs_as_long_as_the_hub_is_open() -> None:
    authenticate = Background()
    async with running(authenticate=authenticate):
        await authenticate.began.wait()
        assert authenticate.log == ["begun"]

    assert authenticate.log == ["begun", "ended"]


async def test_a_failing_background_task_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    for error in (
        RuntimeError("no route to ?token=abc"),
        ExceptionGroup("several", [KeyError()]),
        await cancellation(),
    ):
        authenticate = Background(error)
        async with running(authenticate=authenticate) as hub, subscribe(hub, "events") as client:
            await authenticate.began.wait()
            hub.publish("events", 1)

            assert await read_data(client, "events", 1) == [1]
            assert hub.statistics().counters["authenticate-run-failed"] == 1
    assert "RuntimeError: no route to ?token=[redacted]" in caplog.messages[0]


async def test_an_expired_identity_is_refused() -> None:
    async with running(authenticate=lambda handshake: Identity(id="a", expires=100.0), wall_clock=lambda: 100.0) as hub:
        with pytest.raises(AuthenticationError, match="expired token"):
            await hub.gateway.authenticate(Handshake(token="t"))


# --- roles and refresh


# --- subscribing in this process


@pytest.mark.parametrize(
    ("channels", "error"),
    [
        (["nosuch"], UnknownChannel),
        (["desk"], PermissionDenied),
        (["not a name"], HubError),
        (["open", "nosuch"], UnknownChannel),
        ([], HubError),
        ([{"channel": "open", "colour": "red"}], HubError),
    ],
)
async def test_a_subscriber_in_this_process_gets_exceptions(channels: list[Any], error: type[Exception]) -> None:
    declared = [Channel("open"), Channel("desk", roles=frozenset({"trader"}))]
    async with running(declared) as hub:
        with pytest.raises(error):
            async with subscribe(hub, *channels, identity=ALICE):
                pass

        assert is_empty(hub)


async def test_a_subscriber_in_this_process_needs_a_token_too() -> None:
    def authenticate(handshake: Handshake) -> Identity:
        if handshake.token != "right":
            raise AuthenticationError("invalid" if handshake.token else "missing")
        return ALICE

    async with running(authenticate=authenticate) as hub:
        for token, fault in ((None, "missing"), ("wrong", "invalid")):
            with pytest.raises(AuthenticationError, match=f"{fault} token"):
                async with subscribe(hub, "events", token=token):
                    pass
        async with subscribe(hub, "events", token="right"):
            assert [session.identity for session in hub.sessions] == [ALICE]
        assert is_empty(hub)


async def test_the_number_of_concurrent_token_checks_is_bounded() -> None:
    running_now = most = checked = 0
    answer = anyio.Event()

    async def authenticate(handshake: Handshake) -> Identity:
        nonlocal running_now, most, checked
        running_now += 1
        most = max(most, running_now)
        await answer.wait()
        running_now -= 1
        checked += 1
        return Identity(id=f"{handshake.token}")

    async with running(authenticate=authenticate) as hub:
        transports = [FakeTransport() for _ in range(MAX_CHECKS + 10)]
        for number, transport in enumerate(transports):
            session = hub.gateway.connect(transport, WIRE, Peer(Handshake(transport="fake")))
            hub.gateway.receive_data(session, json.dumps({"action": "auth", "token": f"{number}"}))
        while running_now < MAX_CHECKS:
            await anyio.lowlevel.checkpoint()
        for _ in range(20):  # enough turns for a further check to begin
            await anyio.lowlevel.checkpoint()

        assert most == MAX_CHECKS
        answer.set()
        for transport in transports:
            await transport.until(lambda transport=transport: "$authenticated" in transport.text)  # type: ignore[misc]
        assert most == MAX_CHECKS
        assert checked == MAX_CHECKS + 10
