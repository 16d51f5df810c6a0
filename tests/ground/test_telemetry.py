"""The log of a hub: throttled, without payloads, and without tokens."""

from __future__ import annotations

import logging
import traceback

import pytest

from analytics_hub import AuthenticationError, Handshake, HubError
from analytics_hub.contracts import Peer
from analytics_hub.core.events import CheckToken
from analytics_hub.protocol import Auth
from analytics_hub.telemetry import ThrottledLogger, level_of, logger
from analytics_hub.testing import ManualClock
from analytics_hub.transports.memory import WIRE, connect

from ..hub.rig import FakeTransport, running


def test_each_kind_is_logged_at_most_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    throttled = ThrottledLogger(clock)
    with caplog.at_level(logging.DEBUG):
        for number in range(1000):
            throttled.log(logging.WARNING, "flood", "refused %d", number)
        throttled.log(logging.ERROR, "another kind", "logged at once")
        clock.advance(0.99)
        throttled.log(logging.WARNING, "flood", "refused %d", 1000)
        clock.advance(0.01)
        throttled.log(logging.WARNING, "flood", "refused %d", 1001)
        clock.advance(5.0)
        throttled.log(logging.WARNING, "flood", "refused %d", 1002)

    assert caplog.messages == [
        "refused 0",
        "logged at once",
        "refused 1001 (and 1000 more like it)",
        "refused 1002",
    ]


@pytest.mark.anyio
async def test_every_refusal_is_counted_and_one_a_second_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def authenticate(handshake: Handshake) -> None:
        raise AuthenticationError("invalid", "signature")

    clock = ManualClock()
    async with running(authenticate=authenticate, clock=clock, wall_clock=clock.wall) as hub:
        for _ in range(200):
            with pytest.raises(AuthenticationError):
                await hub.gateway.authenticate(Handshake(token="guess"))
        clock.advance(1.0)
        with pytest.raises(AuthenticationError):
            await hub.gateway.authenticate(Handshake(token="guess"))

        assert hub.statistics().counters["token-invalid"] == 201
        assert caplog.messages == [
            "a token was refused: invalid (signature)",
            "a token was refused: invalid (signature) (and 199 more like it)",
        ]


@pytest.mark.anyio
async def test_payloads_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with running() as hub, connect(hub) as client:
            client.send({"action": "subscribe", "channels": ["events", "durable", "no-such-channel-of-a-peer"]})
            client.send('{"action":"made-up-by-a-peer"}')
            client.send(b"binary-of-a-peer")
            await anext(client)
            hub.publish("events", "payload-of-the-application")
            await hub.publish_confirmed("durable", "payload-of-the-application")

    assert "of-the-application" not in caplog.text
    assert "of-a-peer" not in caplog.text


@pytest.mark.anyio
async def test_no_token_is_in_a_repr_or_traceback() -> None:
    secret = "leaked-token"

    def authenticate(handshake: Handshake) -> None:
        raise KeyError(handshake.token)

    async with running(authenticate=authenticate) as hub:
        session = hub.gateway.connect(FakeTransport(), WIRE, Peer(Handshake(token=secret)))
        printed = [
            repr(Handshake(token=secret, headers={"authorization": f"Bearer {secret}"})),
            repr(CheckToken(session, secret)),
            repr(Auth(token=secret)),
            repr(session),
        ]
        with pytest.raises(HubError) as refused:
            await hub.gateway.authenticate(Handshake(token=secret))
        printed.append("".join(traceback.format_exception(refused.value)))
        printed.append(repr(refused.value.__context__))
        with pytest.raises(HubError) as refused:
            await hub.gateway.admit(Handshake(token=secret))
        printed.append(repr(refused.value.__context__))

    assert [text for text in printed if secret in text] == []


def test_the_message_of_an_authentication_error_is_its_fault_alone() -> None:
    assert str(AuthenticationError("invalid", "the kid is unknown")) == "invalid token"


# --- stderr


def test_warnings_are_on_stderr_only_where_logging_is_not_set_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last resort of `logging`, which servers with loggers of their own make no use of."""
    logger.warning("seen by the handler of pytest")
    monkeypatch.setattr(logger, "propagate", False)
    logger.warning("refused %s", "a page")
    logger.info("a client has left")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    try:
        logger.error("failed")
    finally:
        logger.removeHandler(handler)
    monkeypatch.setattr("sys.stderr", None)
    logger.error("there is no stderr")

    assert capsys.readouterr().err == "WARNING: analytics_hub: refused a page\nERROR: analytics_hub: failed\n"


def test_faults_of_the_application_are_errors() -> None:
    assert level_of("respond-fault") == logging.ERROR
    assert {level_of(kind) for kind in ("token-invalid", "limited-failures")} == {logging.WARNING}
    assert level_of("disconnected") == logging.INFO
