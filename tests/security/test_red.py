"""D and F, where few bytes have the hub do much: names of channels by the hundred, bodies in pieces of one byte."""

from __future__ import annotations

import json
from typing import Final

from .asking import bearer, is_alive, refusal, subscribe
from .attack import crowd
from .target import Target
from .watch import targets

PLACES: Final = 64
house = targets("asyncio", "trio-tls", max_members=PLACES)


def array(*commands: object, times: int) -> bytes:
    """So many commands in one message."""
    return json.dumps([*commands] * times).encode()


def rooms(first: int) -> list[str]:
    return [f"room:{first + one}" for one in range(PLACES // 2)]


def test_d05_who_goes_through_the_names_of_a_pattern_leaves_places_for_others(target: Target) -> None:
    with target.open() as peer, target.open() as other:
        for first in range(0, 4 * PLACES, PLACES // 2):
            assert set(subscribe(peer, *rooms(first)).values()) == {"ok"}
            peer.say({"action": "unsubscribe", "channels": rooms(first)})
            assert peer.next_item("$unsubscribed")

        assert subscribe(other, "room:mine") == {"room:mine": "ok"}
        target.publish("room:mine", 1, seconds=0)
        assert other.next_item("room:mine")["channel"] == "room:mine"


def test_d08_messages_full_of_names_delay_nobody(target: Target) -> None:
    """Names that nobody knows, and a start far back over and over; the witness must not wait for them."""
    unknown = {"action": "subscribe", "channels": ["?"] * 128}
    again = {"action": "subscribe", "channels": [{"channel": "feed", "last": 16_000}]}
    with crowd(target.open() for _ in range(4)) as peers, target.open() as neighbour:
        for peer in peers:
            peer.say_text(array(unknown, times=80), array(again, times=800))
        assert is_alive(neighbour)
        for peer in peers:
            assert peer.next_item("$subscribed")


def test_h03_a_body_in_chunks_of_a_byte_is_refused(target: Target) -> None:
    head = ("POST /publish HTTP/1.1", "Host: hub", bearer(target.token()), "Transfer-Encoding: chunked", "", "")
    with target.dial() as peer:
        peer.send("\r\n".join(head).encode() + b"1\r\n[\r\n" * 5000)

        answer = peer.read_answer()
    assert refusal(answer) == (400, "a body may come in 4096 pieces")
    target.wait_counted("refused-request")
