"""F: frames. Everything here comes from clients that were let in."""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from collections.abc import Mapping
from functools import partial

import pytest

from ..transports.peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Received
from .attack import crowd, frame
from .target import MIB, NATIVE, Report, Target
from .watch import targets

house = targets(*NATIVE)

MAX_MESSAGE = 64 * 1024
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def refuse(target: Target, subtests: pytest.Subtests, cases: Mapping[str, bytes], code: int, *headers: str) -> None:
    """What a client sends is answered with a close, and nothing after it."""
    for name, sent in cases.items():
        with subtests.test(name), target.open(*headers) as peer:
            peer.send(sent)

            close = peer.read_close()
            assert close.code == code, close
            assert close.reason, "it is told why"
            assert peer.read_end() == b""
    target.wait_counted("protocol-fault", len(cases))


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


def test_f01_unmasked_frames_are_refused(target: Target, subtests: pytest.Subtests) -> None:
    refuse(target, subtests, {str(code): frame(code, masked=False) for code in (TEXT, BINARY, PING, PONG, CLOSE)}, 1002)


BROKEN = {
    **{f"reserved bits {bits:03b}": frame(TEXT, b"{}", rsv=bits) for bits in (1, 2, 4, 7)},
    **{f"reserved bits {bits:03b} in a ping": frame(PING, rsv=bits) for bits in (1, 4)},
    **{f"opcode {opcode:#x}": frame(opcode) for opcode in (*range(3, 8), *range(11, 16))},
    "a continuation of nothing": frame(CONTINUATION, b"{}"),
    "a beginning that is a continuation": frame(CONTINUATION, b"{}", fin=False),
    "text in text": frame(TEXT, b"[", fin=False) + frame(TEXT, b"]"),
    "binary in text": frame(TEXT, b"[", fin=False) + frame(BINARY, b"]"),
    "text in binary": frame(BINARY, b"[", fin=False) + frame(TEXT, b"]"),
    "a compressed continuation": frame(TEXT, b"[", fin=False) + frame(CONTINUATION, rsv=0b100),
    "a continuation after the end": frame(TEXT, b"[]") + frame(CONTINUATION, b"[]"),
}


def test_f02_reserved_bits_opcodes_and_nested_fragments_are_refused(target: Target, subtests: pytest.Subtests) -> None:
    refuse(target, subtests, BROKEN, 1002)


def test_f03_long_and_split_control_frames_are_refused_by_their_header(
    target: Target, subtests: pytest.Subtests
) -> None:
    """Those that are only declared are answered without waiting for what they declare."""
    cases = {}
    for opcode in (PING, PONG, CLOSE):
        cases[f"{opcode}, long"] = frame(opcode, b"x" * 126)
        cases[f"{opcode}, split"] = frame(opcode, fin=False)
        for length in (126, 65_536, 2**62):
            cases[f"{opcode}, declared {length}"] = frame(opcode, length=length)

    refuse(target, subtests, cases, 1002)


def test_f04_bad_closing_codes_are_refused(target: Target, subtests: pytest.Subtests) -> None:
    codes = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32_768, 65_535)

    refuse(target, subtests, {str(code): closing(code) for code in codes} | {"a byte": frame(CLOSE, b"\x03")}, 1002)


def test_f04_bad_closing_reasons_are_refused(target: Target, subtests: pytest.Subtests) -> None:
    refuse(target, subtests, {"no UTF-8": closing(1000, b"\xff"), "cut": closing(1000, b"\xe2\x82")}, 1007)


def test_f04_good_closing_codes_are_answered_with_the_same(target: Target) -> None:
    for code in (1000, 1001, 1011, 3000, 4999):
        with target.open() as peer:
            peer.send(closing(code, b"bye"))

            assert peer.read_close().code == code
            assert peer.read_end() == b""
    target.wait_counted("disconnected", 5)


NO_UTF8 = {
    "a byte that never is": frame(TEXT, b'"\xff"'),
    "an overlong form": frame(TEXT, b'"\xc0\xaf"'),
    "a surrogate": frame(TEXT, b'"\xed\xa0\x80"'),
    "beyond the last character": frame(TEXT, b'"\xf4\x90\x80\x80"'),
    "cut at the end": frame(TEXT, b'"\xe2\x82'),
    "cut by a fragment": frame(TEXT, b'"\xe2', fin=False) + frame(CONTINUATION, b'"'),
    "in an unfinished message": frame(TEXT, b'"', fin=False) + frame(CONTINUATION, b"\xff", fin=False),
    "in an unfinished frame": frame(TEXT, b"x" * 1000 + b"\xff" + b"x" * 63_000)[:2000],
}


def test_f05_invalid_utf8_is_refused_at_the_first_bad_byte(target: Target, subtests: pytest.Subtests) -> None:
    refuse(target, subtests, NO_UTF8, 1007)


def test_f06_a_declared_length_is_refused_by_the_header_and_nothing_allocated(
    target: Target, subtests: pytest.Subtests
) -> None:
    target.allowance.peak = 4 * MIB
    cases = {f"{length}": frame(BINARY, length=length) for length in (MAX_MESSAGE + 1, 2**31, 2**62, 2**63 - 1)}
    cases["in all"] = frame(TEXT, b"x", fin=False) + frame(CONTINUATION, length=MAX_MESSAGE)

    refuse(target, subtests, cases, 1009)


def test_f06_a_length_that_cannot_be_is_refused(target: Target, subtests: pytest.Subtests) -> None:
    refuse(target, subtests, {"2^63": frame(TEXT, length=2**63)}, 1002)


def test_f07_a_message_over_the_limit_is_refused(target: Target, subtests: pytest.Subtests) -> None:
    cases = {
        "whole": frame(TEXT, b"x" * (MAX_MESSAGE + 1)),
        "in pieces": cut(b"x" * (MAX_MESSAGE + 1), 1000),
        "endless pieces": frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 5000,
        "endless empty pieces": frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 5000,
    }

    refuse(target, subtests, cases, 1009)


def test_f07_a_message_at_the_limit_is_taken(target: Target) -> None:
    command = b'{"action":"ping","id":7}'.ljust(MAX_MESSAGE)
    with target.open() as peer:
        peer.send(frame(TEXT, command) + cut(command, 65))

        assert peer.next_item("$pong")["id"] == 7


def test_f09_messages_that_are_begun_and_never_finished(target: Target) -> None:
    """200 of them hold no more than 200 times the limit, and not for long."""
    begun = frame(TEXT, b" " * 60_000, length=MAX_MESSAGE)
    with crowd(target.open(then=begun) for _ in range(200)) as peers:
        for peer in peers:
            assert peer.read_close().code == 4408
    # Who is also silent for long, on a machine that stands still, is ended for that.
    ended = target.report().counters
    assert ended["closed-unfinished"] + ended.get("closed-silent", 0) >= 200


def test_f10_a_flood_of_pings_piles_nothing_up(target: Target) -> None:
    """Of those who do not read, the last ping is answered, and of the others as many as fit on the way."""
    target.allowance.peak = 3 * MIB
    pings = [(b"%d" % number).ljust(125) for number in range(6000)]
    with target.open(room=4096) as peer:
        for at in range(0, len(pings), 500):
            peer.send(b"".join(frame(PING, ping) for ping in pings[at : at + 500]))
            peer.say({"action": "subscribe", "channels": [f"room:{at}"]})
            target.wait_until(partial(_has_subscribed, target, at // 500 + 1), "it has heard all of these")

        answered = 1
        while peer.read_frame() != Received(PONG, pings[-1]):
            answered += 1
        assert answered < len(pings) / 2, answered


def _has_subscribed(target: Target, number: int, now: Report) -> bool:
    return now.subscriptions == target.before.subscriptions + number


def test_f11_a_decompression_bomb_is_refused_while_it_inflates(target: Target, subtests: pytest.Subtests) -> None:
    """64 KiB that become 60 MiB."""
    target.allowance.peak = 6 * MIB
    bomb = deflate(b" " * (60 * MIB))
    assert len(bomb) < MAX_MESSAGE
    cases = {"whole": frame(TEXT, bomb, rsv=0b100), "in pieces": cut(bomb, 1000, rsv=0b100)}

    refuse(target, subtests, cases, 1009, DEFLATE)


def test_f11_broken_compression_is_refused(target: Target, subtests: pytest.Subtests) -> None:
    cases = {
        "no deflate": frame(TEXT, b"\xff" * 10, rsv=0b100),
        "a thousand last blocks": frame(TEXT, b"\x03\x00" * 1000, rsv=0b100),
    }

    refuse(target, subtests, cases, 1007, DEFLATE)


def test_f11_a_message_at_the_limit_may_be_compressed(target: Target) -> None:
    command = deflate(b'{"action":"ping","id":7}'.ljust(MAX_MESSAGE))
    with target.open(DEFLATE) as peer:
        peer.send(frame(TEXT, command, rsv=0b100))

        assert peer.next_item("$pong")["id"] == 7


def test_f13_good_frames_one_byte_at_a_time_are_served(target: Target) -> None:
    sent = frame(TEXT, b'{"action":"ping",', fin=False) + frame(PING, b"?") + frame(CONTINUATION, b'"id":7}')
    with target.open() as peer:
        for byte in sent:
            peer.send(bytes([byte]))

        received = [peer.read_frame() for _ in range(3)]
        assert Received(PONG, b"?") in received
        assert b'"$pong"' in received[-1].payload or peer.next_item("$pong")["id"] == 7


def test_f13_frames_in_the_packet_of_the_handshake_are_served(target: Target) -> None:
    """A client that waits for the answer sends nothing more."""
    commands = frame(TEXT, json.dumps(target.credentials()).encode()) + frame(TEXT, b'{"action":"ping","id":7}')
    with target.open(token="", then=commands) as peer:
        assert peer.next_item("$pong")["id"] == 7


def test_f15_who_closes_and_stays_is_hung_up_on(target: Target) -> None:
    """After the client's close, after ours for its fault, and after one of the hub's that it never answers."""
    malformed = frame(TEXT, b"x") * 10
    with crowd(target.open() for _ in range(3)) as (leaver, offender, fool):
        leaver.send_close()
        offender.send(frame(0x3))
        fool.send(malformed)

        for peer, code in ((leaver, 1000), (offender, 1002), (fool, 4400)):
            assert peer.read_close().code == code
        target.wait_hung_up()
        for peer in (leaver, offender, fool):
            assert peer.read_end() == b"", "nothing follows our close"
    target.wait_counted("protocol-fault")
    target.wait_counted("closed-4400")


def test_f16_resets_in_mid_frame(target: Target) -> None:
    begun = frame(TEXT, b'{"action":"subscribe","channels":["feed"]}') + frame(TEXT, b"x", length=100)
    for _, sizes in zip(range(30), itertools.repeat((1, 3, 8, 20, 48, 49, 50, 51, 52, len(begun)))):
        with crowd(target.open(then=begun[:size]) for size in sizes) as peers:
            for peer in peers:
                peer.reset()
