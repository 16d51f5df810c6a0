"""Authentication and authorization, in the background and while a peer waits, may be cancelled at every wait."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio
import jwt
import pytest
from anyio.lowlevel import checkpoint
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from analytics_hub import Handshake, Hub, Identity
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.auth.jwt.jwks import JWKS
from analytics_hub.auth.sessions import SessionAuthenticator
from analytics_hub.hooks import HookThreads
from analytics_hub.transports.tls import Certificate

from ..hub.rig import FAST, HANG
from .leftovers import Sweeper, is_served_once, kept_for_clients
from .rig import patient_hub
from .sweep import cancel_everywhere, cancelled_at, ways

pytestmark = pytest.mark.anyio

KEY: Final = ec.generate_private_key(ec.SECP256R1())


def key_set() -> bytes:
    key = json.loads(ECAlgorithm.to_jwk(KEY.public_key()))
    return json.dumps({"keys": [key | {"kid": "one", "alg": "ES256", "use": "sig"}]}).encode()


def token() -> str:
    claims = {"sub": "alice", "role": "trader", "exp": time.time() + 600}
    return jwt.encode(claims, KEY, "ES256", headers={"kid": "one"})


async def fetch(url: str) -> bytes:
    await checkpoint()
    await checkpoint()
    return key_set()


async def identify(scope: Mapping[str, Any]) -> Identity | None:
    await checkpoint()
    return Identity(id=scope["session"]) if "session" in scope else None


def authenticator() -> tuple[SessionAuthenticator, JWKS]:
    keys = JWKS("https://keys.example/jwks.json", fetch=fetch)
    return SessionAuthenticator(identify, otherwise=JWTAuthenticator(keys, algorithms=["ES256"])), keys


async def subject(hub: Hub, handshake: Handshake) -> str | None:
    identity = (await hub.gateway.authenticate(handshake)).identity
    return None if identity is None else identity.id


async def test_a_hub_with_keys_of_an_identity_provider() -> None:
    """The task that fetches them ends with the hub, and may be run again by the next one."""
    sweeper = Sweeper()
    authenticate, keys = authenticator()
    good = token()
    number = 0
    for once in ways():
        number = 0
        was_reached = True
        while was_reached:
            number += 1
            hub = patient_hub(authenticate=authenticate)

            async def work() -> None:
                async with hub:  # noqa: B023 - called at once
                    assert await subject(hub, Handshake(token=good)) == "alice"  # noqa: B023
                    assert await subject(hub, Handshake(scope={"session": "bob"})) == "bob"  # noqa: B023

            with anyio.fail_after(HANG):
                was_reached = await cancelled_at(number, work, once=once)
            await sweeper.sweep()
            assert keys._ended is None
            assert keys._wake is None
    assert number > 5


async def test_a_token_that_waits_for_its_key() -> None:
    async def work() -> None:
        keys = JWKS("https://keys.example/jwks.json", fetch=fetch)
        authenticate = JWTAuthenticator(keys, algorithms=["ES256"])
        async with anyio.create_task_group() as group:
            group.start_soon(authenticate.run)
            found = authenticate(Handshake(token=good))
            assert not isinstance(found, Identity)
            assert (await found).id == "alice"
            group.cancel_scope.cancel()

    good = token()
    assert await cancel_everywhere(work, Sweeper().sweep) > 3


async def test_the_authorization_of_a_publisher() -> None:
    async def work() -> None:
        alice = Identity(id="alice", roles=frozenset({"trader"}))
        assert await hub.gateway.authorize_publish(alice, ["events", "durable"]) == {"events": True, "durable": True}

    async def check() -> None:
        await sweeper.sweep()

    async with patient_hub(tuning=replace(FAST, authorize_ttl=0.0)) as hub:
        sweeper = Sweeper(lambda: kept_for_clients(hub))
        assert await cancel_everywhere(work, check) >= 1
        await is_served_once(hub)


async def test_hooks_in_worker_threads() -> None:
    """A call that was cancelled holds its place until its thread has ended, and no longer."""

    def look_up(scope: Mapping[str, Any]) -> Identity:
        return Identity(id=scope["session"])

    async def work() -> None:
        assert await threads.call(look_up, {"session": "bob"}) == Identity(id="bob")
        assert await threads.call(authenticate, Handshake(scope={"session": "ann"})) == Identity(id="ann")

    def kept() -> list[str]:
        borrowed = threads._limiter.borrowed_tokens if hasattr(threads, "_limiter") else 0
        return [f"{borrowed} places"] if borrowed else []

    threads = HookThreads(1)
    authenticate = SessionAuthenticator(look_up)
    await work()  # the event loop may open descriptors of its own for threads
    assert await cancel_everywhere(work, Sweeper(kept).sweep) >= 4
    await work()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
async def test_a_certificate_that_is_read_again(certificate: Path) -> None:
    """Afterwards SIGHUP means what it did before."""

    def ours(number: int, frame: object) -> None:
        """A signal that arrives after the end is for this one."""

    async def work() -> None:
        loaded = renewed.context
        async with anyio.create_task_group() as group:
            await group.start(renewed.reload_on_hangup)
            if signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:  # it would end the process
                signal.raise_signal(signal.SIGHUP)
            while renewed.context is loaded:
                await checkpoint()
            group.cancel_scope.cancel()

    async def check() -> None:
        await sweeper.sweep()
        assert signal.getsignal(signal.SIGHUP) in (ours, signal.SIG_DFL)  # the second is what asyncio leaves

    renewed = Certificate(certificate)
    before = signal.signal(signal.SIGHUP, ours)
    try:
        with anyio.fail_after(HANG):
            await work()  # the event loop may open descriptors of its own for signals
            sweeper = Sweeper()
            assert await cancel_everywhere(work, check) > 3
    finally:
        signal.signal(signal.SIGHUP, before)
