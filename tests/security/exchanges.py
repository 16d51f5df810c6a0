"""Exchanges of attackers with a server: refused handshakes, requests, forged tokens, subscriptions."""

from __future__ import annotations

import hmac
import json
from typing import Final, NamedTuple

from ..auth.test_jwt import segment
from ..transports.peer import PATH, Answer
from .client import Peer, upgrade
from .target import SECRET, Target

CLAIMS: Final = {"sub": "mallory", "exp": 4_000_000_000}


class Refusal(NamedTuple):
    """An HTTP status or a close code, and its text."""

    code: int | None
    text: str


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def forwarded_for(*addresses: str) -> str:
    """The header of a proxy; the servers trust this machine as one."""
    return f"X-Forwarded-For: {', '.join(addresses)}"


def forge(header: object, payload: object = CLAIMS, key: bytes = SECRET.encode()) -> str:
    """A token with a valid signature over any header and payload; bytes are used unchanged."""
    message = f"{segment(header)}.{segment(payload)}"
    return f"{message}.{segment(hmac.digest(key, message.encode(), 'sha256'))}"


def request(path: str, *headers: str, method: str = "POST", body: bytes = b"") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, *headers, "", "")).encode() + body


def send_request(target: Target, path: str, *headers: str, method: str = "POST", body: bytes = b"") -> Answer:
    with target.connect() as peer:
        peer.send(request(path, *headers, method=method, body=body))
        return peer.read_response()


def try_handshake(target: Target, *headers: str, path: str = PATH) -> Answer:
    """The answer to a handshake that is refused."""
    with target.connect() as peer:
        peer.send(upgrade(*headers, path=path))
        return peer.read_response()


def refusal_of(answer: Answer) -> Refusal:
    """The text is a line, or in the JSON of the hub's own paths."""
    text = answer.body.decode()
    if answer.headers["content-type"] == "application/json":
        text = json.loads(text)["error"]["message"]
    return Refusal(answer.status, text.strip())


def try_first_message(target: Target, token: str, *headers: str) -> Refusal:
    """The close of a connection that sends `token` as its first message."""
    with target.open(*headers, token="") as peer:
        peer.send_commands({"action": "auth", "token": token})
        return closed_with(peer)


def closed_with(peer: Peer) -> Refusal:
    close = peer.read_close()
    return Refusal(close.code, close.reason)


def subscribe(peer: Peer, *channels: str) -> dict[str, str]:
    """The answer for each channel: `ok`, or the code of the refusal."""
    peer.send_commands({"action": "subscribe", "channels": channels})
    answers = peer.next_item("$subscribed")["channels"]
    return {answer["channel"]: "ok" if answer["ok"] else answer["code"] for answer in answers}


def channels_until(peer: Peer, channel: str) -> list[str]:
    """The channels of the next items, up to the first of `channel`."""
    found: list[str] = []
    for item in peer.items():
        if item["type"].startswith("$"):
            continue
        found.append(item["channel"])
        if item["channel"] == channel:
            break
    return found


def is_served(peer: Peer) -> bool:
    """Whether a ping is answered."""
    peer.send_commands({"action": "ping"})
    return any(item["type"] == "$pong" for item in peer.items())
