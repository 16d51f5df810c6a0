"""Keys of an identity provider with a server that is slow, broken, hostile, or rotates its keys."""

from __future__ import annotations

import gzip
import inspect
import json
import logging
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from itertools import count, repeat
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.auth.jwt.jwks import JWKS
from analytics_hub.auth.jwt.key_set import MAX_DOCUMENT, MAX_KEYS, MAX_TRIED, KeySet
from analytics_hub.auth.jwt.keys import ASYMMETRIC, load_algorithms
from analytics_hub.contracts import Handshake
from analytics_hub.exceptions import AuthenticationError, HubError, KeySetError, KeySetFault
from analytics_hub.identity import Identity

from ..transports.certificates import write_certificate
from .key_server import GUARD, Answer, KeyServer, body, flood, jwk, key_set, keys, raw, reset, silent, trickle

NOW = 1_700_000_000.0
ALGORITHMS = load_algorithms(sorted(ASYMMETRIC))
OLD, NEW = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()


class Clock:
    """A monotonic clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@cache
def rsa_key(size: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=size)


def signed(key: Any, kid: str | None, algorithm: str = "ES256", **headers: object) -> str:
    payload = json.dumps({"sub": "ann", "exp": NOW + 60}).encode()
    named = headers if kid is None else {"kid": kid, **headers}
    return jwt.PyJWS().encode(payload, key, algorithm, headers=named)


def authenticator(source: JWKS, *algorithms: str) -> JWTAuthenticator:
    return JWTAuthenticator(source, algorithms=algorithms or ["ES256"], clock=lambda: NOW)


def check(authenticate: JWTAuthenticator, token: str) -> str:
    """The subject or fault of a token that is checked without waiting."""
    try:
        found = authenticate(Handshake(token=token))
    except AuthenticationError as error:
        return error.detail
    except KeySetError as error:
        return error.fault
    assert isinstance(found, Identity), "the check has to wait"
    return found.id


async def ask(authenticate: JWTAuthenticator, token: str) -> str:
    """The subject or fault of a token that waits for keys."""
    found = authenticate(Handshake(token=token))
    assert inspect.isawaitable(found)
    try:
        return (await found).id
    except AuthenticationError as error:
        return error.detail if error.__context__ is None else "a chain that may carry the token"
    except KeySetError as error:
        return error.fault


@asynccontextmanager
async def running(authenticate: JWTAuthenticator) -> AsyncIterator[None]:
    with anyio.fail_after(GUARD):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(authenticate.run)
            yield
            tasks.cancel_scope.cancel()


class FakeFetch:
    """An HTTP client of the application: returns `document` once `gate` is open."""

    def __init__(self, *jwks: object) -> None:
        self.document: Any = key_set(*jwks)
        self.fetches = 0
        self.gate = anyio.Event()
        self.gate.set()
        self.asked = anyio.Event()

    def shut(self) -> None:
        self.gate, self.asked = anyio.Event(), anyio.Event()

    async def __call__(self, url: str) -> bytes:
        assert url == "https://login.example.com/keys"
        self.fetches += 1
        self.asked.set()
        await self.gate.wait()
        if isinstance(self.document, Exception):
            raise self.document
        found: bytes = self.document
        return found


def new_source(fetch: FakeFetch, **options: Any) -> JWKS:
    return JWKS("https://login.example.com/keys", fetch=fetch, **options)


@pytest.mark.anyio
class TestFetching:
    async def test_the_first_check_waits_for_the_first_keys(self) -> None:
        with KeyServer(keys(jwk(OLD, "ES256", kid="old"))) as server:
            authenticate = authenticator(JWKS(f"{server.url}?secret=1"))
            async with running(authenticate):
                assert await ask(authenticate, signed(OLD, "old")) == "ann"
                assert check(authenticate, signed(OLD, "old")) == "ann"
                assert check(authenticate, signed(NEW, "old")) == "signature"

            assert server.requests == ["GET /keys?secret=1 HTTP/1.1"]
            assert "secret" not in repr(authenticate)

    async def test_a_check_may_come_before_the_task_has_begun(self) -> None:
        authenticate = authenticator(new_source(FakeFetch(jwk(OLD, "ES256", kid="old"))))
        found: list[str] = []

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_append, found, ask(authenticate, signed(OLD, "old")))
            await anyio.lowlevel.checkpoint()
            async with running(authenticate):
                await ask(authenticate, signed(OLD, "other"))

        assert found == ["ann"]

    async def test_over_tls(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        pem = write_certificate(tmp_path / "localhost.pem")
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server_side.load_cert_chain(pem)
        trusting = ssl.create_default_context(cafile=str(pem))
        with KeyServer(keys(jwk(OLD, "ES256", kid="old")), tls=server_side) as server:
            authenticate = authenticator(JWKS(server.url, ssl_context=trusting))
            async with running(authenticate):
                assert await ask(authenticate, signed(OLD, "old")) == "ann"
            authenticate = authenticator(JWKS(server.url))
            async with running(authenticate):
                assert await ask(authenticate, signed(OLD, "old")) == "tls"
        assert "CERTIFICATE_VERIFY_FAILED" in caplog.text

    async def test_keys_are_refreshed_in_time(self) -> None:
        third = anyio.Event()

        fetches = count(1)

        async def fetch(url: str) -> bytes:
            if next(fetches) == 3:
                third.set()
            return key_set(jwk(OLD, "ES256"))

        authenticate = authenticator(JWKS("http://[::1]/keys", fetch=fetch, refresh=0.001))
        async with running(authenticate):
            await third.wait()

    async def test_after_a_failure_it_is_tried_again_soon(self) -> None:
        succeeded = anyio.Event()

        fetches = count(1)

        async def fetch(url: str) -> bytes:
            if next(fetches) < 3:
                raise OSError
            succeeded.set()
            return key_set(jwk(OLD, "ES256", kid="old"))

        source = JWKS("https://login.example.com/keys", fetch=fetch, cooldown=0.001)
        authenticate = authenticator(source)
        async with running(authenticate):
            await succeeded.wait()
            await anyio.wait_all_tasks_blocked()
            assert check(authenticate, signed(OLD, "old")) == "ann"

        assert source.health.fault is None
        assert source.health.failures == 0

    async def test_a_token_that_arrives_during_a_fetch_waits_for_it(self) -> None:
        """Also in the delay after a failure, which the clock of this test never ends."""
        fetch = FakeFetch()
        fetch.document = OSError()
        authenticate = authenticator(new_source(fetch, clock=Clock(), cooldown=0.001))
        outcomes: list[str] = []
        async with running(authenticate):
            assert await ask(authenticate, signed(OLD, "old")) == "fetch-failed"
            fetch.shut()
            fetch.document = key_set(jwk(OLD, "ES256", kid="old"))
            await fetch.asked.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_append, outcomes, ask(authenticate, signed(OLD, "old")))
                await anyio.wait_all_tasks_blocked()
                fetch.gate.set()

        assert outcomes == ["ann"]

    async def test_a_token_that_waits_for_a_fetch_requests_no_other(self) -> None:
        """Otherwise the next refresh would start a cooldown, in which an unknown key is refused."""
        fetch = FakeFetch(jwk(OLD, "ES256", kid="old"))
        fetch.shut()
        authenticate = authenticator(new_source(fetch, clock=Clock(), refresh=0.001))
        outcomes: list[str] = []
        async with running(authenticate):
            await fetch.asked.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_append, outcomes, ask(authenticate, signed(OLD, "old")))
                await anyio.wait_all_tasks_blocked()
                fetch.gate.set()
            for _ in range(2):
                fetch.shut()
                await fetch.asked.wait()
                fetch.gate.set()
            await anyio.wait_all_tasks_blocked()
            outcomes.append(await ask(authenticate, signed(NEW, "new")))

        assert outcomes == ["ann", "unknown-key"]

    async def test_keys_stay_in_use_after_the_task_has_ended(self) -> None:
        fetch = FakeFetch(jwk(OLD, "ES256", kid="old"))
        authenticate = authenticator(new_source(fetch, timeout=10 * GUARD))
        outcomes: list[str] = []
        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as tasks, running(authenticate):
                assert await ask(authenticate, signed(OLD, "old")) == "ann"
                fetch.shut()
                tasks.start_soon(_append, outcomes, ask(authenticate, signed(NEW, "new")))
                await fetch.asked.wait()

        assert outcomes == ["unknown-key"]
        assert check(authenticate, signed(OLD, "old")) == "ann"
        assert check(authenticate, signed(NEW, "new")) == "unknown-key"

    async def test_two_hubs_may_share_a_key_set(self) -> None:
        fetch = FakeFetch(jwk(OLD, "ES256", kid="old"))
        authenticate = authenticator(new_source(fetch, clock=Clock()))
        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as second:
                async with running(authenticate):
                    assert await ask(authenticate, signed(OLD, "old")) == "ann"
                    second.start_soon(authenticate.run)
                    await anyio.wait_all_tasks_blocked()
                    assert fetch.fetches == 1
                await anyio.wait_all_tasks_blocked()
                assert fetch.fetches == 2
                assert await ask(authenticate, signed(NEW, "new")) == "unknown-key"
                assert fetch.fetches == 3
                second.cancel_scope.cancel()

    async def test_without_a_running_task_the_error_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        authenticate = authenticator(new_source(FakeFetch(), timeout=0.001))

        assert await ask(authenticate, signed(OLD, "old")) == "not-running"
        assert "run() is not running" in caplog.text

    @pytest.mark.parametrize(
        "document", [OSError("secret"), ExceptionGroup("secret", [OSError()]), "text", None, b"x" * (MAX_DOCUMENT + 1)]
    )
    async def test_failures_of_the_applications_client(self, document: Any, caplog: pytest.LogCaptureFixture) -> None:
        fetch = FakeFetch()
        fetch.document = document
        authenticate = authenticator(new_source(fetch))
        async with running(authenticate):
            expected = "too-large" if isinstance(document, bytes) else "fetch-failed"
            assert await ask(authenticate, signed(OLD, "old")) == expected
        assert "secret" not in caplog.text


async def _append(outcomes: list[str], outcome: Awaitable[str]) -> None:
    outcomes.append(await outcome)


@pytest.mark.anyio
async def test_a_hub_fetches_the_keys(caplog: pytest.LogCaptureFixture) -> None:
    with KeyServer(body(b"", "503 Service Unavailable")) as server:
        clock = Clock()
        source = JWKS(server.url, clock=clock)
        async with Hub([Channel("alerts")], authenticate=authenticator(source), wall_clock=lambda: NOW, grace=0) as hub:
            with pytest.raises(HubError, match="tokens cannot be checked now"):
                await hub.gateway.authenticate(Handshake(token=signed(OLD, "old")))
            server.answer = keys(jwk(OLD, "ES256", kid="old"))
            clock.now += 10
            peer = await hub.gateway.authenticate(Handshake(token=signed(OLD, "old")))
            assert peer.identity is not None
            assert peer.identity.id == "ann"
            with pytest.raises(AuthenticationError):
                await hub.gateway.authenticate(Handshake(token=signed(NEW, "old")))
            assert hub.statistics().counters["token-invalid"] == 1
    assert signed(OLD, "old").partition(".")[0] not in caplog.text


@pytest.mark.anyio
class TestRotating:
    async def test_a_new_key_is_fetched_when_a_token_names_it(self) -> None:
        with KeyServer(keys(jwk(OLD, "ES256", kid="old"))) as server:
            authenticate = authenticator(JWKS(server.url))
            async with running(authenticate):
                assert await ask(authenticate, signed(OLD, "old")) == "ann"
                server.answer = keys(jwk(OLD, "ES256", kid="old"), jwk(NEW, "ES256", kid="new"))
                assert await ask(authenticate, signed(NEW, "new")) == "ann"
                assert check(authenticate, signed(OLD, "old")) == "ann"

    async def test_the_next_set_replaces_all_keys(self) -> None:
        fetch, clock = FakeFetch(jwk(OLD, "ES256", kid="1"), jwk(OLD, "ES256", kid="2")), Clock()
        authenticate = authenticator(new_source(fetch, clock=clock))
        async with running(authenticate):
            assert await ask(authenticate, signed(OLD, "1")) == "ann"
            fetch.document = key_set(jwk(NEW, "ES256", kid="1"))
            assert check(authenticate, signed(NEW, "1")) == "signature"
            assert await ask(authenticate, signed(NEW, "3")) == "unknown-key"

            assert check(authenticate, signed(NEW, "1")) == "ann"
            assert check(authenticate, signed(OLD, "1")) == "signature"
            assert check(authenticate, signed(OLD, "2")) == "unknown-key"

    async def test_known_keys_never_wait_and_unknown_ones_share_one_fetch(self) -> None:
        fetch, clock = FakeFetch(jwk(OLD, "ES256", kid="old")), Clock()
        authenticate = authenticator(new_source(fetch, clock=clock))
        outcomes: list[str] = []
        async with running(authenticate):
            assert await ask(authenticate, signed(OLD, "old")) == "ann"
            fetch.shut()
            fetch.document = key_set(jwk(OLD, "ES256", kid="old"), jwk(NEW, "ES256", kid="new"))
            async with anyio.create_task_group() as tasks:
                for kid in [f"junk{number}" for number in range(20)] + ["new"]:
                    tasks.start_soon(_append, outcomes, ask(authenticate, signed(NEW, kid)))
                await fetch.asked.wait()
                await anyio.wait_all_tasks_blocked()
                assert outcomes == []
                assert check(authenticate, signed(OLD, "old")) == "ann"
                assert check(authenticate, signed(NEW, "old")) == "signature"
                fetch.gate.set()

            assert sorted(outcomes) == ["ann", *["unknown-key"] * 20]
            assert fetch.fetches == 2

    async def test_unknown_ids_cost_one_fetch_in_a_cooldown(self) -> None:
        fetch, clock = FakeFetch(jwk(OLD, "ES256", kid="old")), Clock()
        authenticate = authenticator(new_source(fetch, clock=clock, cooldown=10))
        async with running(authenticate):
            assert await ask(authenticate, signed(OLD, "old")) == "ann"
            for turn in range(3):
                assert await ask(authenticate, signed(NEW, "junk")) == "unknown-key"
                assert fetch.fetches == 2 + turn
                clock.now += 9.9
                assert {check(authenticate, signed(NEW, f"junk{n}")) for n in range(50)} == {"unknown-key"}
                assert fetch.fetches == 2 + turn
                clock.now += 0.2

    async def test_an_unknown_id_that_waits_for_a_refresh_gets_one_of_its_own_after_it(self) -> None:
        """The keys being fetched may be older than the new one."""
        fetch = FakeFetch()
        authenticate = authenticator(new_source(fetch))
        fetch.shut()
        fetch.document = key_set(jwk(OLD, "ES256", kid="old"))
        outcomes: list[str] = []
        async with running(authenticate), anyio.create_task_group() as tasks:
            await fetch.asked.wait()
            tasks.start_soon(_append, outcomes, ask(authenticate, signed(NEW, "new")))
            await anyio.wait_all_tasks_blocked()
            before = fetch.gate
            fetch.shut()
            before.set()
            await fetch.asked.wait()
            fetch.document = key_set(jwk(NEW, "ES256", kid="new"))
            fetch.gate.set()

        assert outcomes == ["ann"]

    async def test_a_wait_is_bounded(self) -> None:
        fetch = FakeFetch(jwk(OLD, "ES256", kid="old"))
        authenticate = authenticator(new_source(fetch, timeout=0.02))
        fetch.shut()
        async with running(authenticate):
            assert await ask(authenticate, signed(OLD, "old")) == "timeout"


CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def bad_answers() -> dict[str, tuple[Answer, KeySetFault]]:
    good = jwk(NEW, "ES256", kid="new")
    return {
        "reset": (reset, "connection"),
        "nothing": (raw(b""), "protocol"),
        "no HTTP": (raw(b"hello\r\n\r\n"), "protocol"),
        "cut short": (raw(CUT), "protocol"),
        "bad chunks": (raw(CHUNKED + b"zz\r\n"), "protocol"),
        "endless headers": (flood(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 100), "protocol"),
        "endless header": (flood(b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * 1000), "protocol"),
        "endless": (flood(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 10_000), "too-large"),
        "endless chunks": (flood(CHUNKED, b"1\r\n \r\n" * 1000), "too-large"),
        "endless 100 Continue": (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50), "too-large"),
        "huge": (body(key_set(good) + b" " * MAX_DOCUMENT), "too-large"),
        "500": (body(key_set(good), "500 Internal Server Error"), "status"),
        "404": (body(key_set(good), "404 Not Found"), "status"),
        "304": (raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"), "status"),
        "to a file": (body(b"", "302 Found", "Location: file:///etc/passwd"), "status"),
        "HTML": (body(b"<html>"), "not-json"),
        "empty": (body(b""), "not-json"),
        "half": (body(key_set(good)[:-9]), "not-json"),
        "compressed": (body(gzip.compress(key_set(good)), "200 OK", "Content-Encoding: gzip"), "not-json"),
        "UTF-16": (body(key_set(good).decode().encode("utf-16")), "not-json"),
        "a list": (body(json.dumps([good]).encode()), "not-json"),
        "an object of keys": (body(b'{"keys":{"a":{}}}'), "not-json"),
        "deep": (body(b'{"keys":' + b"[" * 100_000), "not-json"),
        "deep elsewhere": (body(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b',"keys":7}'), "not-json"),
        "thousands": (keys(*[good] * 1000), "too-many-keys"),
        "no keys": (keys(), "no-usable-key"),
        "secrets": (keys({"kty": "oct", "k": "a" * 43, "kid": "new"}), "no-usable-key"),
        "another family": (keys(jwk(EDWARDS, "EdDSA", kid="new")), "no-usable-key"),
        "for encryption": (keys({**good, "use": "enc"}), "no-usable-key"),
    }


@pytest.mark.anyio
class TestBadServers:
    async def test_after_any_invalid_answer_the_last_good_keys_stay(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "analytics_hub")
        threads, clock = threading.active_count(), Clock()
        with KeyServer(keys(jwk(OLD, "ES256", kid="old"))) as server, KeyServer(keys(jwk(NEW, "ES256"))) as other:
            source = JWKS(server.url, clock=clock)
            authenticate = authenticator(source)
            elsewhere = body(b"", "307 Temporary Redirect", f"Location: {other.url}")
            async with running(authenticate):
                assert await ask(authenticate, signed(OLD, "old")) == "ann"
                for name, (answer, fault) in {**bad_answers(), "elsewhere": (elsewhere, "status")}.items():
                    clock.now += 60
                    server.answer = answer
                    assert await ask(authenticate, signed(NEW, "new")) == "unknown-key", name
                    assert source.health.fault == fault, name
                    assert check(authenticate, signed(OLD, "old")) == "ann", name

                health = source.health
                assert (health.keys, health.failures) == (1, health.fetches - 1)
                assert health.age == clock.now - 1000
            assert other.requests == []
        assert threading.active_count() <= threads + 1, "that of the resolver, at most"
        assert len(caplog.records) <= 1 + health.failures
        assert "ann" not in caplog.text

    async def test_without_keys_the_error_is_that_of_the_server(self) -> None:
        with KeyServer(body(b"", "503 Service Unavailable")) as server:
            clock = Clock()
            authenticate = authenticator(JWKS(server.url, clock=clock))
            async with running(authenticate):
                assert await ask(authenticate, signed(OLD, "old")) == "status"
                assert check(authenticate, signed(OLD, "old")) == "status"
                with pytest.raises(AuthenticationError) as caught:
                    authenticate(Handshake(token="junk"))
                assert caught.value.detail == "malformed"
                server.answer = keys(jwk(OLD, "ES256", kid="old"))
                clock.now += 10
                assert await ask(authenticate, signed(OLD, "old")) == "ann"

    async def test_a_refused_connection(self) -> None:
        with KeyServer(silent) as server:
            url = server.url
        authenticate = authenticator(JWKS(url))
        async with running(authenticate):
            assert await ask(authenticate, signed(OLD, "old")) == "connection"

    @pytest.mark.parametrize(
        "answer",
        [
            silent,
            trickle(b"", repeat(b"H")),
            trickle(b"HTTP/1.1 200 OK\r\nX-A: ", repeat(b"b")),
            trickle(CUT, repeat(b" ")),
            trickle(b"", repeat(b"HTTP/1.1 100 Continue\r\n\r\n")),
        ],
        ids=["silence", "status line", "header", "body", "100 Continue"],
    )
    async def test_a_slow_answer_times_out(self, answer: Answer) -> None:
        with KeyServer(answer) as server:
            source = JWKS(server.url, timeout=0.05)
            authenticate = authenticator(source)
            async with running(authenticate):
                while source.health.failures == 0:
                    assert await ask(authenticate, signed(OLD, "old")) == "timeout"
            assert source.health.fault == "timeout"

    async def test_a_cancelled_fetch_leaves_nothing(self) -> None:
        with KeyServer(silent) as server:
            authenticate = authenticator(JWKS(server.url))
            async with running(authenticate):
                while not server.requests:
                    await anyio.lowlevel.checkpoint()


class TestChoosingKeys:
    """Parsing a key set, and `find`, which returns the keys for a token."""

    def test_unusable_keys_are_left_out(self) -> None:
        good = jwk(OLD, "ES256", kid="old")
        weak = jwk(rsa_key(1024), "RS256")
        off_the_curve = {**good, "y": good["x"]}
        private = {**good, "d": good["x"]}
        bad: list[Any] = [
            *(None, 7, "key", [], {}, {"kty": "new"}, {"kty": ["EC"]}, {"kty": "oct", "k": "a" * 43}),
            *({**good, "k": "a"}, {**good, "kid": 7}, {**good, "kid": "x" * 513}, {**good, "use": "enc"}),
            *(
                {**good, "key_ops": ["sign"]},
                {**good, "alg": "ES384"},
                {**good, "alg": "HS256"},
                {**good, "alg": "none"},
            ),
            *({**good, "crv": "P-384"}, {**good, "crv": "X25519"}, {**good, "x": ""}, {**good, "x": "AA"}),
            *({**good, "x": "!" * 43}, off_the_curve, private, weak, {**weak, "n": "A" * 1367}, {**weak, "e": "AQ"}),
            *(
                {"kty": "RSA"},
                {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
                {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
            ),
        ]

        found = KeySet.parse(key_set(*bad, good), ALGORITHMS)

        assert [key.id for key in found.keys] == ["old"]
        assert sum(found.left_out.values()) == len(bad)
        with pytest.raises(KeySetError, match="1 private, 2 symmetric") as caught:
            KeySet.parse(key_set(private, {**good, "k": "a"}, {"kty": "oct"}), ALGORITHMS)
        assert caught.value.fault == "no-usable-key"

    @pytest.mark.parametrize(
        ("key", "alg", "expected"),
        [
            ("RSA", None, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
            ("RSA", "PS256", {"PS256"}),
            ("RSA", "RSA-OAEP", set()),
            ("RSA", "ES256", set()),
            (ec.SECP256R1(), None, {"ES256"}),
            (ec.SECP384R1(), None, {"ES384"}),
            (ec.SECP521R1(), "ES512", {"ES512"}),
            (ec.SECP256K1(), None, {"ES256K"}),
            (ed25519, None, {"EdDSA"}),
        ],
    )
    def test_a_key_serves_its_family_or_the_algorithm_it_names(
        self, key: Any, alg: str | None, expected: set[str]
    ) -> None:
        private: Any = rsa_key() if key == "RSA" else EDWARDS if key is ed25519 else ec.generate_private_key(key)
        algorithm = "RS256" if key == "RSA" else "EdDSA" if key is ed25519 else "ES256"
        public = jwk(private, algorithm, alg=alg)

        if not expected:
            with pytest.raises(KeySetError):
                KeySet.parse(key_set(public), ALGORITHMS)
            return
        (found,) = KeySet.parse(key_set(public), ALGORITHMS).keys
        assert set(found.algorithms) == expected
        for name in expected:
            assert found.has_signed(b"x", ALGORITHMS[name].sign(b"x", private), name)
            assert not found.has_signed(b"y", ALGORITHMS[name].sign(b"x", private), name)

    def test_keys_serve_only_the_algorithms_in_use(self) -> None:
        document = key_set(jwk(OLD, "ES256", kid="1"), jwk(rsa_key(), "RS256", kid="1"), jwk(EDWARDS, "EdDSA"))

        found = KeySet.parse(document, load_algorithms(["ES256", "RS256"]))

        assert [sorted(key.algorithms) for key in found.keys] == [["ES256"], ["RS256"]]
        assert [sorted(key.algorithms) for key in found.find("1", "RS256")] == [["RS256"]]
        assert found.find("1", "PS256") == []
        assert found.find("2", "RS256") == []

    def test_the_number_of_keys_tried_is_bounded(self) -> None:
        found = KeySet.parse(key_set(*[jwk(OLD, "ES256", kid="same")] * MAX_KEYS), ALGORITHMS)

        assert len(found.keys) == MAX_KEYS
        assert len(found.find("same", "ES256")) == MAX_TRIED
        assert len(found.find(None, "ES256")) == MAX_TRIED

    @pytest.mark.anyio
    async def test_tokens_without_a_key_id_and_with_unusual_ones(self) -> None:
        fetch = FakeFetch(jwk(NEW, "ES256", kid="new"), jwk(OLD, "ES256"))
        authenticate = authenticator(new_source(fetch, clock=Clock()))
        async with running(authenticate):
            assert await ask(authenticate, signed(OLD, None)) == "ann"
            assert check(authenticate, signed(NEW, None)) == "ann"
            assert check(authenticate, signed(EDWARDS, None, "EdDSA")) == "algorithm"
            assert check(authenticate, signed(OLD, "x" * 513)) == "malformed"
            await ask(authenticate, signed(NEW, "__class__"))
            for kid in ("../../etc/passwd", "' OR 1=1 --", "http://evil/", "\x00", "Å\u202e", "", "None"):
                assert check(authenticate, signed(NEW, kid)) == "unknown-key"
        assert fetch.fetches == 2

    @pytest.mark.anyio
    async def test_keys_in_the_header_of_a_token_are_ignored(self) -> None:
        with KeyServer(keys(jwk(NEW, "ES256", kid="new"))) as evil:
            fetch = FakeFetch(jwk(OLD, "ES256", kid="old"))
            authenticate = authenticator(new_source(fetch, clock=Clock()))
            theirs: dict[str, Any] = {
                "jku": evil.url,
                "x5u": evil.url,
                "jwk": jwk(NEW, "ES256", kid="old"),
                "x5c": ["MIIB"],
            }
            async with running(authenticate):
                assert await ask(authenticate, signed(OLD, "old", **theirs)) == "ann"
                assert check(authenticate, signed(NEW, "old", **theirs)) == "signature"
                assert await ask(authenticate, signed(NEW, "new", **theirs)) == "unknown-key"
                assert check(authenticate, signed(NEW, None, **theirs)) == "signature"
            assert evil.requests == []


class TestConfiguring:
    @pytest.mark.parametrize(
        "url",
        [
            *("", "file:///etc/passwd", "ftp://h/", "login.example.com", "https://", "https://h:port/", "https://h:0/"),
            *("https://a:b@h/", "https://h/a b", "https://h/\r\nX: y", "https://h/é", f"https://{'a' * 64}/"),
        ],
    )
    def test_an_invalid_url_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"like https://login\.example\.com"):
            JWKS(url)

    @pytest.mark.parametrize("url", ["http://login.example.com/", "http://10.0.0.1/", "http://localhost.evil.com/"])
    def test_https_unless_it_is_this_machine_or_allowed(self, url: str) -> None:
        with pytest.raises(ValueError, match="is not https"):
            JWKS(url)
        assert url in repr(JWKS(url, allow_http=True))
        for local in ("http://127.0.0.1:1/", "http://[::1]/", "http://localhost/", "https://login.example.com/"):
            assert local in repr(JWKS(local))

    @pytest.mark.parametrize("option", ["refresh", "cooldown", "timeout"])
    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
    def test_times_must_be_positive(self, option: str, value: float) -> None:
        options: dict[str, Any] = {option: value}
        with pytest.raises(ValueError, match=option):
            JWKS("http://localhost/", **options)

    def test_a_key_set_is_refused_for_hmac(self) -> None:
        with pytest.raises(ValueError, match="public keys"):
            JWTAuthenticator(JWKS("http://localhost/"), algorithms=["HS256"])

    def test_without_cryptography_the_error_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jwt.algorithms.has_crypto", False)
        monkeypatch.setattr("jwt.api_jws.has_crypto", False)

        with pytest.raises(ImportError, match=r"pip install analytics-hub\[crypto\]"):
            JWTAuthenticator(JWKS("http://localhost/"), algorithms=["RS256"])

    def test_a_key_set_may_be_used_in_one_event_loop_after_another(self) -> None:
        async def fetch(url: str) -> bytes:
            return key_set(jwk(OLD, "ES256", kid="old"))

        clock = Clock()
        authenticate = authenticator(JWKS("http://localhost/", fetch=fetch, clock=clock))

        async def main() -> None:
            async with running(authenticate):
                await anyio.wait_all_tasks_blocked()
                assert await ask(authenticate, signed(NEW, f"new {len(done)}")) == "unknown-key"
                assert check(authenticate, signed(OLD, "old")) == "ann"
                done.append(True)

        done: list[bool] = []
        for backend in ("asyncio", "trio"):
            anyio.run(main, backend=backend)
            clock.now += 60
            assert check(authenticate, signed(OLD, "old")) == "ann"

        assert len(done) == 2


MEMBERS = st.sampled_from(
    [
        *("EC", "RSA", "OKP", "oct", "P-256", "P-384", "P-521", "secp256k1", "Ed25519", "Ed448", "sig", "enc", "ES256"),
        *("RS256", "EdDSA", "none", "AQAB", "AQ", "A" * 43, "_" * 342, "!", "\ud83d\ude00"),
    ]
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), MEMBERS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3) | MEMBERS, inner)),
    max_leaves=6,
)
NAMES = st.sampled_from(["kty", "kid", "use", "alg", "crv", "n", "e", "x", "y", "d", "k", "key_ops", "x5c"])


def read(document: bytes) -> None:
    try:
        found = KeySet.parse(document, ALGORITHMS)
    except KeySetError:
        return
    assert 0 < len(found.keys) <= MAX_KEYS
    for key in found.keys:
        assert ASYMMETRIC.issuperset(key.algorithms)
        assert not hasattr(key.key, "sign")
        for name in key.algorithms:
            assert not key.has_signed(b"message", b"\x00" * 64, name)


class TestAnyKey:
    """Any document: `tests/fuzz/targets/key_sets.py`."""

    @pytest.mark.parametrize(
        "document",
        [
            b'{"keys":[{"kty":"EC","crv":"P-256","x":"\xff"}]}',
            b'{"keys":[' + b"[" * 5000 + b"]" * 5000 + b"]}",
            b'{"keys":[' + b"1" * 5000 + b"]}",
        ],
        ids=["invalid UTF-8", "deep", "a huge number"],
    )
    def test_an_unreadable_key_is_left_out(self, document: bytes) -> None:
        with pytest.raises(KeySetError):
            KeySet.parse(document, ALGORITHMS)

    @given(st.sampled_from(["EC", "RSA", "OKP"]), st.dictionaries(NAMES, JSON, max_size=3), st.booleans())
    def test_any_change_to_a_good_key(self, kind: str, changes: Mapping[str, Any], is_cut: bool) -> None:
        good = {"EC": jwk(OLD, "ES256"), "RSA": jwk(rsa_key(), "RS256"), "OKP": jwk(EDWARDS, "EdDSA")}[kind]
        document = key_set({**good, **changes})

        read(document[: len(document) // 2] if is_cut else document)
