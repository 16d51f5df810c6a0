"""What an attacker asks for and hands in: handshakes that are refused, requests, forged tokens."""

from __future__ import annotations

import hmac
import json
from typing import Final, NamedTuple

from ..auth.test_jwt import segment
from ..transports.peer import PATH, Answer
from .attack import Peer, upgrade
from .target import SECRET, Target

CLAIMS: Final = {"sub": "mallory", "exp": 4_000_000_000}


class Refused(NamedTuple):
    """What somebody is told who is not let in: an HTTP status or a close code, and a sentence."""

    code: int | None
    sentence: str


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def coming_from(*addresses: str) -> str:
    """What a proxy says of a peer; the servers take this machine for one."""
    return f"X-Forwarded-For: {', '.join(addresses)}"


def forge(header: object, payload: object = CLAIMS, key: bytes = SECRET.encode()) -> str:
    """A token with a good signature over whatever it is; bytes stand in it as they are."""
    message = f"{segment(header)}.{segment(payload)}"
    return f"{message}.{segment(hmac.digest(key, message.encode(), 'sha256'))}"


def request(path: str, *headers: str, method: str = "POST", body: bytes = b"") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, *headers, "", "")).encode() + body


def ask(target: Target, path: str, *headers: str, method: str = "POST", body: bytes = b"") -> Answer:
    """One request and its answer."""
    with target.dial() as peer:
        peer.send(request(path, *headers, method=method, body=body))
        return _read_whole(peer)


def knock(target: Target, *headers: str, path: str = PATH) -> Answer:
    """A handshake that is refused."""
    with target.dial() as peer:
        peer.send(upgrade(*headers, path=path))
        return _read_whole(peer)


def _read_whole(peer: Peer) -> Answer:
    """Not up to the end of the connection, which hypercorn leaves to the peer for a while."""
    answer = peer.read_head()
    answer.body = peer.read(int(answer.headers.get("content-length", 0)))
    return answer


def refusal(answer: Answer) -> Refused:
    """The sentence is a line, or in the JSON of the hub's own paths."""
    text = answer.body.decode()
    if answer.headers["content-type"] == "application/json":
        text = json.loads(text)["error"]["message"]
    return Refused(answer.status, text.strip())


def introduce(target: Target, token: str, *headers: str) -> Refused:
    """Hand in a token as the first message; how that ends."""
    with target.open(*headers, token="") as peer:
        peer.say({"action": "auth", "token": token})
        return told(peer)


def told(peer: Peer) -> Refused:
    close = peer.read_close()
    return Refused(close.code, close.reason)


def subscribe(peer: Peer, *channels: str) -> dict[str, str]:
    """What is answered to each: `ok`, or the code of the refusal."""
    peer.say({"action": "subscribe", "channels": channels})
    answers = peer.next_item("$subscribed")["channels"]
    return {answer["channel"]: "ok" if answer["ok"] else answer["code"] for answer in answers}


def heard_until(peer: Peer, channel: str) -> list[str]:
    """The channels of the items that come, up to the first of `channel`."""
    heard: list[str] = []
    for item in peer.items():
        if item["type"].startswith("$"):
            continue
        heard.append(item["channel"])
        if item["channel"] == channel:
            break
    return heard


def is_alive(peer: Peer) -> bool:
    peer.say({"action": "ping"})
    return any(item["type"] == "$pong" for item in peer.items())
