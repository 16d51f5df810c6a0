"""F: frames of admitted clients."""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from collections.abc import Mapping
from functools import partial

import pytest

from ..transports.peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Received
from .client import connections, frame
from .environment import assert_recovers, targets
from .server import Report
from .target import MIB, NATIVE, Target

environment = targets(*NATIVE)

MAX_MESSAGE = 64 * 1024
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def assert_closed(
    target: Target, subtests: pytest.Subtests, cases: Mapping[str, bytes], code: int, *headers: str
) -> None:
    """Each of `cases` is answered with this close code and a reason, and with nothing after it."""
    for name, sent in cases.items():
        with subtests.test(name), target.open(*headers) as peer:
            peer.send(sent)

            close = peer.read_close()
            assert close.code == code, close
            assert close.reason
            assert peer.read_end() == b""
    target.assert_counted("protocol-fault", len(cases))


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)[:-4]


def cut(payload: bytes, size: int, *, rsv: int = 0) -> bytes:
    """A message in fragments of `size` bytes."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    last = len(parts) - 1
    return b"".join(
        frame(CONTINUATION if number else TEXT, part, fin=number == last, rsv=0 if number else rsv)
        for number, part in enumerate(parts)
    )


VIOLATIONS = {
    "unmasked": frame(TEXT, masked=False),
    "an unmasked ping": frame(PING, masked=False),
    "reserved bits": frame(TEXT, b"{}", rsv=0b001),
    "a reserved bit in a ping": frame(PING, rsv=0b100),
    "opcode 3": frame(0x3),
    "opcode 11": frame(0xB),
    "a continuation of no message": frame(CONTINUATION, b"{}"),
    "text in binary": frame(BINARY, b"[", fin=False) + frame(TEXT, b"]"),
    "a compressed continuation": frame(TEXT, b"[", fin=False) + frame(CONTINUATION, rsv=0b100),
    "a long ping": frame(PING, b"x" * 126),
    "a long close, declared": frame(CLOSE, length=2**62),
    "a fragmented pong": frame(PONG, fin=False),
    "a close code of one byte": frame(CLOSE, b"\x03"),
    "close code 1005": closing(1005),
    "close code 5000": closing(5000),
    "a length of 2^63": frame(TEXT, length=2**63),
}
"""`tests/transports/test_frames.py` has all kinds; those that are only declared are answered by their header."""


def test_f01_f02_f03_f04_violations_are_closed_with_1002(target: Target, subtests: pytest.Subtests) -> None:
    assert_closed(target, subtests, VIOLATIONS, 1002)


def test_f04_a_valid_close_code_is_echoed(target: Target) -> None:
    for code in (1000, 1001, 1011, 3000, 4999):
        with target.open() as peer:
            peer.send(closing(code, b"bye"))

            assert peer.read_close().code == code
            assert peer.read_end() == b""
    target.assert_counted("disconnected", 5)


NOT_UTF8 = {
    "a byte that is never valid": frame(TEXT, b'"\xff"'),
    "cut by a fragment": frame(TEXT, b'"\xe2', fin=False) + frame(CONTINUATION, b'"'),
    "in an unfinished frame": frame(TEXT, b"x" * 1000 + b"\xff" + b"x" * 63_000)[:2000],
    "in a close reason": closing(1000, b"\xff"),
}


def test_f04_f05_invalid_utf8_is_closed_with_1007_at_its_first_byte(target: Target, subtests: pytest.Subtests) -> None:
    assert_closed(target, subtests, NOT_UTF8, 1007)


def test_f06_a_length_over_the_limit_is_refused_by_the_header_and_nothing_is_allocated(
    target: Target, subtests: pytest.Subtests
) -> None:
    target.allowance.peak = 4 * MIB
    cases = {f"{length}": frame(BINARY, length=length) for length in (MAX_MESSAGE + 1, 2**31, 2**62, 2**63 - 1)}
    cases["in two frames"] = frame(TEXT, b"x", fin=False) + frame(CONTINUATION, length=MAX_MESSAGE)

    assert_closed(target, subtests, cases, 1009)


def test_f07_a_message_over_the_limit_is_refused(target: Target, subtests: pytest.Subtests) -> None:
    cases = {
        "whole": frame(TEXT, b"x" * (MAX_MESSAGE + 1)),
        "in pieces": cut(b"x" * (MAX_MESSAGE + 1), 1000),
        "endless pieces": frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 5000,
        "endless empty pieces": frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 5000,
    }

    assert_closed(target, subtests, cases, 1009)


def test_f07_a_message_at_the_limit_is_accepted(target: Target) -> None:
    command = b'{"action":"ping","id":7}'.ljust(MAX_MESSAGE)
    with target.open() as peer:
        peer.send(frame(TEXT, command) + cut(command, 65))

        assert peer.next_item("$pong")["id"] == 7


def test_f09_unfinished_messages_are_bounded_and_time_out(target: Target) -> None:
    """200 of them use at most 200 times the limit of memory."""
    begun = frame(TEXT, b" " * 60_000, length=MAX_MESSAGE)
    with connections(target.open(then=begun) for _ in range(200)) as peers:
        for peer in peers:
            assert peer.read_close().code == 4408
    # On a machine that stands still some are closed because they were silent.
    ended = target.report().counters
    assert ended["closed-unfinished"] + ended.get("closed-silent", 0) >= 200


def test_f10_a_flood_of_pings_queues_one_pong(target: Target) -> None:
    """While the client does not read, earlier pings are answered only as far as the kernel accepts the pongs."""
    target.allowance.peak = 3 * MIB
    pings = [(b"%d" % number).ljust(125) for number in range(6000)]
    with target.open(receive_buffer=4096) as peer:
        for at in range(0, len(pings), 500):
            peer.send(b"".join(frame(PING, ping) for ping in pings[at : at + 500]))
            peer.send_commands({"action": "subscribe", "channels": [f"room:{at}"]})
            target.wait_until(partial(_has_subscribed, target, at // 500 + 1), "it has received all of these")

        answered = 1
        while peer.read_frame() != Received(PONG, pings[-1]):
            answered += 1
        assert answered < len(pings) / 2, answered


def _has_subscribed(target: Target, number: int, now: Report) -> bool:
    return now.subscriptions == target.before.subscriptions + number


def test_f11_a_decompression_bomb_is_refused_while_it_is_inflated(target: Target, subtests: pytest.Subtests) -> None:
    """64 KiB that become 60 MiB."""
    target.allowance.peak = 6 * MIB
    bomb = deflate(b" " * (60 * MIB))
    assert len(bomb) < MAX_MESSAGE
    cases = {"whole": frame(TEXT, bomb, rsv=0b100), "in pieces": cut(bomb, 1000, rsv=0b100)}

    assert_closed(target, subtests, cases, 1009, DEFLATE)


def test_f11_invalid_compression_is_refused(target: Target, subtests: pytest.Subtests) -> None:
    cases = {
        "not deflate": frame(TEXT, b"\xff" * 10, rsv=0b100),
        "a thousand last blocks": frame(TEXT, b"\x03\x00" * 1000, rsv=0b100),
    }

    assert_closed(target, subtests, cases, 1007, DEFLATE)


def test_f11_a_message_at_the_limit_may_be_compressed(target: Target) -> None:
    command = deflate(b'{"action":"ping","id":7}'.ljust(MAX_MESSAGE))
    with target.open(DEFLATE) as peer:
        peer.send(frame(TEXT, command, rsv=0b100))

        assert peer.next_item("$pong")["id"] == 7


def test_f13_valid_frames_are_served_byte_by_byte(target: Target) -> None:
    sent = frame(TEXT, b'{"action":"ping",', fin=False) + frame(PING, b"?") + frame(CONTINUATION, b'"id":7}')
    with target.open() as peer:
        for byte in sent:
            peer.send(bytes([byte]))

        received = [peer.read_frame()]
        while b'"$pong"' not in received[-1].payload:  # perhaps in one frame with $hello
            received.append(peer.read_frame())
        assert Received(PONG, b"?") in received
        assert b'"id":7' in received[-1].payload


def test_f13_frames_in_the_packet_of_the_handshake_are_served(target: Target) -> None:
    """No further packet arrives that would make the server read them."""
    commands = frame(TEXT, json.dumps(target.auth_command()).encode()) + frame(TEXT, b'{"action":"ping","id":7}')
    with target.open(token="", then=commands) as peer:
        assert peer.next_item("$pong")["id"] == 7


def test_f15_a_peer_that_does_not_disconnect_after_a_close_is_disconnected(target: Target) -> None:
    """After the client's close, after one for its violation, and after one of the hub that it never answers."""
    malformed = frame(TEXT, b"x") * 10
    with connections(target.open() for _ in range(3)) as (closing_peer, violating, malformed_peer):
        closing_peer.send_close()
        violating.send(frame(0x3))
        malformed_peer.send(malformed)

        for peer, code in ((closing_peer, 1000), (violating, 1002), (malformed_peer, 4400)):
            assert peer.read_close().code == code
        target.wait_disconnected()
        for peer in (closing_peer, violating, malformed_peer):
            assert peer.read_end() == b"", "nothing follows the close"
    target.assert_counted("protocol-fault")
    target.assert_counted("closed-4400")


def test_f16_resets_within_frames_leave_nothing(target: Target) -> None:
    begun = frame(TEXT, b'{"action":"subscribe","channels":["feed"]}') + frame(TEXT, b"x", length=100)
    for _, sizes in zip(range(30), itertools.repeat((1, 3, 8, 20, 48, 49, 50, 51, 52, len(begun)))):
        with connections(target.open(then=begun[:size]) for size in sizes) as peers:
            for peer in peers:
                peer.reset()
    assert_recovers(target)
