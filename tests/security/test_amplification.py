"""D and H, where few bytes cause much work: hundreds of channel names, bodies in chunks of one byte."""

from __future__ import annotations

import json
from typing import Final

from .client import connections
from .environment import targets
from .exchanges import bearer, is_served, refusal_of, subscribe
from .target import Target

MEMBERS: Final = 64
environment = targets("asyncio", "trio-tls", max_members=MEMBERS)


def array(*commands: object, times: int) -> bytes:
    """`times` commands in one message."""
    return json.dumps([*commands] * times).encode()


def rooms(first: int) -> list[str]:
    return [f"room:{first + one}" for one in range(MEMBERS // 2)]


def test_d05_unsubscribed_members_of_a_pattern_make_room_for_others(target: Target) -> None:
    with target.open() as peer, target.open() as other:
        for first in range(0, 4 * MEMBERS, MEMBERS // 2):
            assert set(subscribe(peer, *rooms(first)).values()) == {"ok"}
            peer.send_commands({"action": "unsubscribe", "channels": rooms(first)})
            assert peer.next_item("$unsubscribed")

        assert subscribe(other, "room:mine") == {"room:mine": "ok"}
        target.publish("room:mine", 1, seconds=0)
        assert other.next_item("room:mine")["channel"] == "room:mine"


def test_d08_messages_full_of_names_delay_no_other_client(target: Target) -> None:
    """Unknown channels, and starts far back over and over; the observer must not wait for them."""
    unknown = {"action": "subscribe", "channels": ["?"] * 128}
    again = {"action": "subscribe", "channels": [{"channel": "feed", "last": 16_000}]}
    with connections(target.open() for _ in range(4)) as peers, target.open() as neighbour:
        for peer in peers:
            peer.send_texts(array(unknown, times=80), array(again, times=800))
        assert is_served(neighbour)
        for peer in peers:
            assert peer.next_item("$subscribed")


def test_h03_a_body_in_chunks_of_one_byte_is_refused(target: Target) -> None:
    head = ("POST /publish HTTP/1.1", "Host: hub", bearer(target.token()), "Transfer-Encoding: chunked", "", "")
    with target.connect() as peer:
        peer.send("\r\n".join(head).encode() + b"1\r\n[\r\n" * 5000)

        answer = peer.read_last_response()
    assert refusal_of(answer) == (400, "a body may have at most 4096 pieces")
    target.assert_counted("refused-request")
