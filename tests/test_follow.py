"""The connection under `tail`, against a server that plays a script."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from analytics_hub.cli.follow import MAX_MESSAGE, Follower, Target
from analytics_hub.cli.tail import Ending, Line, Tail
from analytics_hub.protocol import SUBPROTOCOL_JSON

pytestmark = pytest.mark.anyio

ITEM = '{"channel":"a","seq":%d,"type":"t","timestamp":"","data":%d}'
SUBSCRIBED = '[{"type":"$subscribed","channels":[{"channel":"a","ok":true,"epoch":"e","seq":%d,"recovered":true}]}]'


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._ws = WSConnection(ConnectionType.SERVER)
        self._events: list[Event] = []

    async def receive(self) -> Event:
        while not self._events:
            self._ws.receive_data(await self.stream.receive())
            self._events = list(self._ws.events())
        return self._events.pop(0)

    async def send(self, *events: Event) -> None:
        await self.stream.send(b"".join(self._ws.send(event) for event in events))

    async def accept(self) -> Request:
        """Upgrade, and return the request."""
        request = await self.receive()
        assert isinstance(request, Request)
        await self.send(AcceptConnection(subprotocol=SUBPROTOCOL_JSON))
        return request

    async def subscribed(self, seq: int = 0) -> dict[str, Any]:
        """Upgrade, confirm the first command, and return what it selects."""
        await self.accept()
        command = await self.receive()
        assert isinstance(command, Message)
        await self.send(TextMessage(SUBSCRIBED % seq))
        selection: dict[str, Any] = json.loads(command.data)["channels"][0]
        return selection

    async def close(self, code: int, reason: str = "") -> None:
        """Say goodbye, and wait until the client has answered."""
        await self.send(CloseConnection(code, reason))
        await self.closed()

    async def closed(self) -> None:
        """Wait for the client's goodbye."""
        while not isinstance(await self.receive(), CloseConnection):
            pass


Scene = Callable[[Peer], Awaitable[None]]


class Stage:
    """A server that plays one scene for each connection, and the follower in front of it."""

    def __init__(self, port: int, scenes: list[Scene]) -> None:
        self.target = Target.parse(f"ws://127.0.0.1:{port}")
        self.scenes = scenes
        self.lines: list[Line] = []
        self.slept: list[float] = []
        self.tokens: list[str | None] = ["token"]
        self.tail = Tail(["a"], jitter=lambda: 1.0)

    async def play(self) -> Ending:
        """Follow to the end."""

        async def sleep(delay: float) -> None:
            self.slept.append(delay)

        def token() -> str | None:
            return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]

        with anyio.fail_after(20):
            return await Follower(self.target, self.tail, token, self.lines.append, sleep=sleep).run()

    @property
    def items(self) -> list[str]:
        return [line.text.split()[-1] for line in self.lines if line.is_item]

    @property
    def notices(self) -> list[str]:
        return [line.text for line in self.lines if not line.is_item]


@asynccontextmanager
async def stage(*scenes: Scene) -> AsyncIterator[Stage]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        played = Stage(listener.extra(SocketAttribute.local_port), list(scenes))

        async def serve(stream: SocketStream) -> None:
            async with stream:
                await played.scenes.pop(0)(Peer(stream))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            yield played
            tasks.cancel_scope.cancel()
    assert played.scenes == []


async def finish(peer: Peer) -> None:
    await peer.subscribed()
    await peer.close(1000)


async def test_the_handshake_and_the_items() -> None:
    requests: list[Request] = []

    async def scene(peer: Peer) -> None:
        requests.append(await peer.accept())
        await peer.send(TextMessage(f"[{ITEM % (1, 10)}]"), TextMessage("[]"), TextMessage(f"[{ITEM % (2, 20)}]"))
        await peer.receive()
        await peer.close(1000, "done")

    async with stage(scene) as played:
        ending = await played.play()

    assert ending == Ending("the server has ended the connection (1000, done)", is_regular=True)
    assert played.items == ["10", "20"]
    assert requests[0].target == "/ws/analytics"
    assert requests[0].subprotocols == [SUBPROTOCOL_JSON]
    assert (b"authorization", b"Bearer token") in requests[0].extra_headers


async def test_fragments_are_joined_and_pings_between_them_answered() -> None:
    pongs: list[Event] = []

    async def scene(peer: Peer) -> None:
        await peer.subscribed()
        whole = f"[{ITEM % (1, 42)}]"
        await peer.send(TextMessage(whole[:9], message_finished=False), Ping(b"x"), TextMessage(whole[9:]))
        pongs.append(await peer.receive())
        await peer.close(1000)

    async with stage(scene) as played:
        await played.play()

    assert played.items == ["42"]
    assert pongs == [Pong(b"x")]


async def test_what_comes_in_one_packet_with_the_upgrade_is_not_left_lying() -> None:
    async def scene(peer: Peer) -> None:
        assert isinstance(await peer.receive(), Request)
        await peer.send(AcceptConnection(subprotocol=SUBPROTOCOL_JSON), TextMessage(f"[{ITEM % (1, 7)}]"))
        await peer.receive()
        await peer.close(1000)

    async with stage(scene) as played:
        await played.play()

    assert played.items == ["7"]


async def test_a_lost_connection_is_resumed_where_it_was() -> None:
    selections: list[dict[str, Any]] = []

    async def cut(peer: Peer) -> None:
        selections.append(await peer.subscribed(5))
        await peer.send(TextMessage(f"[{ITEM % (6, 60)}]"))

    async def resume(peer: Peer) -> None:
        selections.append(await peer.subscribed(6))
        await peer.close(1000)

    async with stage(cut, resume) as played:
        await played.play()

    assert selections == [{"channel": "a"}, {"channel": "a", "since": {"epoch": "e", "seq": 6}}]
    assert played.slept == [0.5]
    assert played.notices == ["disconnected (1006); again in 0.5 s", "a resumed without loss after 6"]


async def test_a_drain_is_followed_to_its_slot() -> None:
    async def drain(peer: Peer) -> None:
        await peer.subscribed()
        await peer.send(TextMessage('[{"type":"$drain","in":2.5}]'))
        await peer.close(1012, "restart")

    async with stage(drain, finish) as played:
        await played.play()

    assert played.slept == [2.5]


@pytest.mark.parametrize(("code", "tries"), [(4400, 1), (4403, 1), (4401, 1), (1013, 2), (4503, 2)])
async def test_close_codes_decide_whether_it_comes_back(code: int, tries: int) -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.close(code, "because")

    async with stage(scene, *[finish] * (tries - 1)) as played:
        ending = await played.play()

    assert ending.is_regular == (tries == 2)
    assert len(played.slept) == tries - 1


async def test_another_token_gets_another_try_and_the_same_does_not() -> None:
    seen: list[Request] = []

    async def refuse(peer: Peer) -> None:
        seen.append(await peer.accept())
        await peer.close(4401, "expired")

    async with stage(refuse, refuse) as played:
        played.tokens = ["first", "second"]
        ending = await played.play()

    assert "another token" in ending.sentence
    assert [dict(request.extra_headers)[b"authorization"] for request in seen] == [b"Bearer first", b"Bearer second"]


async def test_an_expiring_token_is_renewed_on_the_living_connection() -> None:
    commands: list[Any] = []

    async def scene(peer: Peer) -> None:
        await peer.subscribed()
        await peer.send(TextMessage('[{"type":"$expiring","in":30}]'))
        command = await peer.receive()
        assert isinstance(command, Message)
        commands.append(json.loads(command.data))
        await peer.close(1000)

    async with stage(scene) as played:
        played.tokens = ["first", "second"]
        await played.play()

    assert commands == [{"action": "auth", "id": 2, "token": "second"}]


async def test_without_a_token_no_header_is_sent() -> None:
    async def scene(peer: Peer) -> None:
        assert b"authorization" not in dict((await peer.accept()).extra_headers)
        await peer.close(1000)

    async with stage(scene) as played:
        played.tokens = [None]
        await played.play()


@pytest.mark.parametrize(("status", "sentence"), [(401, "another token"), (403, "refused"), (404, "refused")])
async def test_a_refused_handshake_ends_it_with_the_servers_sentence(status: int, sentence: str) -> None:
    async def scene(peer: Peer) -> None:
        await peer.receive()
        await peer.send(RejectConnection(status_code=status, has_body=True), RejectData(b"go away", True))

    async with stage(scene) as played:
        ending = await played.play()

    assert sentence in ending.sentence
    assert f"HTTP {status}, go away" in ending.sentence


async def test_a_busy_server_is_asked_again_when_it_says() -> None:
    async def busy(peer: Peer) -> None:
        await peer.receive()
        await peer.send(RejectConnection(status_code=503, headers=[(b"retry-after", b"9")]))

    async with stage(busy, finish) as played:
        await played.play()

    assert played.slept == [9]


async def test_when_every_channel_is_refused_it_ends() -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.receive()
        await peer.send(
            TextMessage('[{"type":"$subscribed","channels":[{"channel":"a","ok":false,"code":"forbidden"}]}]')
        )
        await peer.closed()

    async with stage(scene) as played:
        ending = await played.play()

    assert ending.sentence == "nothing is left to follow"


@pytest.mark.parametrize("event", [TextMessage('{"no":"array"}'), BytesMessage(b"x")], ids=["object", "binary"])
async def test_a_server_that_is_no_hub_is_left(event: Event) -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.receive()
        await peer.send(event)
        await peer.closed()

    async with stage(scene) as played:
        ending = await played.play()

    assert "the server sent" in ending.sentence


async def test_a_message_has_a_bound() -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.receive()
        await peer.send(TextMessage(" " * (MAX_MESSAGE + 1)))
        with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            while True:
                await peer.stream.receive()

    async with stage(scene) as played:
        ending = await played.play()

    assert "too big" in ending.sentence


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"hello\r\n\r\n", id="no HTTP"),
        pytest.param(b"\x16\x03\x01", id="TLS"),
        pytest.param(b"HTTP/1.1 101 x\r\n\r\n", id="no upgrade"),
        pytest.param(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", id="no acceptance"),
        pytest.param(b"HTTP/1.1 101 x\r\nSec-WebSocket-Protocol: \xff\r\n\r\n", id="no ASCII"),
    ],
)
async def test_answers_that_are_no_upgrade_end_it_without_a_traceback(answer: bytes) -> None:
    async def scene(peer: Peer) -> None:
        await peer.receive()
        await peer.stream.send(answer)
        await peer.stream.send_eof()
        await peer.stream.receive()

    async with stage(scene) as played:
        ending = await played.play()

    assert ending.delay is None


async def test_frames_against_the_protocol_end_it() -> None:
    async def scene(peer: Peer) -> None:
        await peer.accept()
        await peer.receive()
        await peer.stream.send(b"\xff\xff")
        await peer.closed()

    async with stage(scene) as played:
        ending = await played.play()

    assert "protocol error (1002" in ending.sentence


async def test_where_nobody_listens_it_tries_again() -> None:
    async with stage() as played:
        pass  # closed now
    attempts: list[float] = []

    async def sleep(delay: float) -> None:
        attempts.append(delay)
        if len(attempts) == 3:
            raise KeyboardInterrupt

    with anyio.fail_after(20), pytest.raises(KeyboardInterrupt):
        await Follower(played.target, played.tail, lambda: None, played.lines.append, sleep=sleep).run()

    assert attempts == [0.5, 1, 2]
    assert played.notices[0] == f"cannot connect to {played.target.url}: Connection refused; again in 0.5 s"


async def test_a_certificate_that_is_not_trusted_is_not_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: object, **kwargs: object) -> object:
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise error

    monkeypatch.setattr(anyio, "connect_tcp", refuse)
    target = Target.parse("wss://localhost")

    ending = await Follower(target, Tail(["a"]), lambda: None, lambda line: None).run()

    assert "not trusted: self-signed certificate" in ending.sentence


class TestTarget:
    @pytest.mark.parametrize(
        ("url", "shown", "authority"),
        [
            ("ws://localhost:7999", "ws://localhost:7999/ws/analytics", "localhost:7999"),
            ("ws://localhost/", "ws://localhost:80/ws/analytics", "localhost"),
            ("wss://hub.example/push?x=1", "wss://hub.example:443/push?x=1", "hub.example"),
            ("wss://hub.example:7999/", "wss://hub.example:7999/ws/analytics", "hub.example:7999"),
            ("ws://[::1]:7999/ws", "ws://[::1]:7999/ws", "[::1]:7999"),
            ("ws://münchen.example/", "ws://xn--mnchen-3ya.example:80/ws/analytics", "xn--mnchen-3ya.example"),
        ],
    )
    def test_urls(self, url: str, shown: str, authority: str) -> None:
        target = Target.parse(url)

        assert target.url == shown
        assert target.authority == authority

    def test_the_token_of_a_url_goes_into_the_header_and_nowhere_else(self) -> None:
        target = Target.parse("ws://localhost:7999/ws/analytics?a=1&token=hidden")

        assert target.token == "hidden"
        assert target.resource == "/ws/analytics?a=1"
        assert "hidden" not in f"{target!r} {target.url}"

    @pytest.mark.parametrize(
        "url", ["", "localhost:7999", "http://localhost", "ws://", "ws://:7999", "ws://x:99999", "ws://x:y", "ws://[x"]
    )
    def test_what_is_no_url_for_it(self, url: str) -> None:
        with pytest.raises(ValueError, match="must begin with ws://"):
            Target.parse(url)

    @pytest.mark.parametrize("url", ["ws://x/a b", "ws://x/ü", "ws://x/a\x7f"])
    def test_paths_that_cannot_be_sent(self, url: str) -> None:
        with pytest.raises(ValueError, match="percent-encoded"):
            Target.parse(url)
