"""S: no secret is shown, by servers that log as much as they can."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from urllib.parse import quote

from ..transports.peer import PATH
from .client import Peer, frame, upgrade
from .environment import targets
from .exchanges import bearer, forge, request, send_request
from .target import SECRET, SOME, Target

environment = targets(*SOME, log_level="DEBUG", server_log_level="INFO")


def test_a12_s01_no_token_is_repeated(target: Target) -> None:
    """Valid or not, sent wherever a token may be and elsewhere: it is in no log, answer or counter."""
    target.allowance.lines = 1000
    tokens = (
        target.token("alice"),
        target.token("alice", now=time.time() - 7200),
        forge({"alg": "none"}),
        "opensesame-" * 3,
    )
    for token in tokens:
        received = b"".join(answers_to(target, token))
        assert secret_parts(token).isdisjoint(find(token, received)), received
    tickets = [json.loads(send_request(target, "/ticket", bearer(tokens[0])).body)["ticket"] for _ in range(2)]
    for ticket in tickets:
        received = b"".join(answers_to(target, ticket))
        assert not find(ticket, received), received

    shown = target.log() + json.dumps(target.report().counters)
    assert (PATH if target.is_asgi else "client connected") in shown, "the server logs"
    for token in (*tokens, *tickets, SECRET):
        assert not find(token, shown.encode()), [line for line in shown.splitlines() if find(token, line.encode())]


def secret_parts(token: str) -> set[str]:
    """What must not be shown; the header of a JWT is public."""
    if token.startswith("ticket."):
        return {token.removeprefix("ticket.")}
    _, *parts = token.split(".") if token.count(".") == 2 else ("", token)
    return set(parts)


def find(token: str, text: bytes) -> set[str]:
    return {part for part in secret_parts(token) if part.encode() in text}


def answers_to(target: Target, token: str) -> Iterator[bytes]:
    """The answers of the server to requests with the token."""
    encoded = "".join(f"%{byte:02x}" for byte in b"token")
    first = frame(0x1, json.dumps({"action": "auth", "token": token}).encode())
    twice = frame(0x1, json.dumps({"action": "auth", "token": [token]}).encode())
    for sent in (
        upgrade(bearer(token)),
        upgrade(f"authorization:bearer   {token}"),
        upgrade(f"Sec-WebSocket-Protocol: bearer.{token}, analytics-hub.v1.json"),
        upgrade(f"Sec-WebSocket-Protocol: bearer.{token}, mqtt"),
        upgrade(path=f"{PATH}?token={token}"),
        upgrade(path=f"{PATH}?a=1&{encoded}={quote(token)}&b=2"),
        upgrade(bearer(token), "Origin: https://evil.example"),
        upgrade(bearer(token), path="/nowhere"),
        request("/ticket", bearer(token)),
        request(f"/publish?token={token}", body=b"{}"),
        request(f"/events?channels=feed&token={token}", method="GET"),
        request("/asyncapi.json", bearer(token), method="PUT"),
    ):
        with target.connect() as peer:
            peer.send(sent)
            yield bytes(read_first(peer))
    for command in (first, twice):
        with target.open(token="") as peer:
            peer.send(command)
            peer.fill()
            yield bytes(peer.buffer)


def read_first(peer: Peer) -> bytearray:
    """A head, and the bytes that arrived with it."""
    while b"\r\n\r\n" not in peer.buffer and peer.fill():
        pass
    return peer.buffer
