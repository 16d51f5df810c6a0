"""The fuzzer is tested by planted bugs: each must be found, and made small."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec
import pytest

from analytics_hub import protocol
from analytics_hub.access.limits import ConnectionLimits
from analytics_hub.auth.jwt.claims import Claims
from analytics_hub.auth.jwt.keys import VerifyingKey
from analytics_hub.client import protocol as client
from analytics_hub.protocol import credentials as finding
from analytics_hub.protocol import formats
from analytics_hub.transports import _origins
from analytics_hub.transports._http import cursor
from analytics_hub.transports._tcp.lines import LineDecoder
from analytics_hub.transports._websocket import deflate, frames, handshake
from analytics_hub.transports._websocket import http11 as exchange

from .mutator import Mutator
from .runner import BLOCK, Finding, fails, inputs, run_block, shrink
from .target import Target
from .targets import TARGETS

BLOCKS: Final = 15


def always(value: object) -> Callable[..., Any]:
    return lambda *args, **options: value


def hunt(target: Target) -> Finding | None:
    for block in range(BLOCKS):
        if (finding := run_block(target, 0, block)) is not None:
            return finding
    return None


@pytest.mark.parametrize(
    ("name", "place", "attribute", "broken"),
    [
        ("head", exchange, "_check_lines", always(None)),
        ("head", exchange, "_check_size", always(None)),
        ("head", handshake, "_is_key", always(True)),
        ("offers", deflate, "_is_valid", always(True)),
        ("offers", deflate, "SMALLEST_WINDOW", 8),
        ("frames", frames.Decoder, "frame_inbound_header", always(frames._NO_BITS)),
        ("frames", frames, "MAX_ENDINGS", 1_000_000),
        ("frames", frames, "PARTS", 1_000_000),
        ("lines", LineDecoder, "_check", always(None)),
        ("commands-json", protocol, "clip", str),
        ("commands-msgpack", protocol, "clip", str),
        ("transcoding", formats, "_pack", msgspec.json.encode),
        ("cursor", cursor, "MAX_SEQ", 2**80),
        ("positions", cursor, "_quote", str),
        ("stripping", finding, "unquote_plus", str),
        ("redaction", finding, "_PARAMETER", re.compile(r"(token=)[^&\s]*")),
        ("jwt", VerifyingKey, "has_signed", always(True)),
        ("jwt", Claims, "is_well_formed", always(True)),
        ("origin", _origins, "_is_ours", always(True)),
        ("forwarded", ConnectionLimits, "_behind", lambda self, forwarded: forwarded.partition(",")[0]),
        ("items-json", client, "MAX_UNSUBSCRIBING", 1_000_000),
    ],
)
def test_planted_bugs_are_found(
    name: str, place: object, attribute: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, attribute, broken)

    finding = hunt(TARGETS[name])

    assert finding is not None
    assert len(finding.shrunk) <= len(finding.data)
    assert fails(TARGETS[name], finding.shrunk)


@pytest.mark.parametrize("name", TARGETS)
def test_one_seed_gives_one_run(name: str) -> None:
    target = TARGETS[name]

    first, again, other = ([*inputs(target, seed, 0)] for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert len(first) == BLOCK
    assert max(map(len, first)) <= target.longest


def test_what_does_not_matter_is_left_out() -> None:
    def check(data: bytes) -> None:
        if b"\xff" in data and b"needle" in data:
            raise ValueError("found")

    target = Target("hay", check, (b"hay",))
    noise = Random(1).randbytes(500).replace(b"\xff", b"")
    data = noise + b"needle" + noise + b"\xff" + noise
    place = fails(target, data)

    assert place is not None
    assert shrink(target, data, place) == b"needle\xff"


def test_words_and_samples_are_combined() -> None:
    mutator = Mutator(Random(1), Target("t", lambda data: None, (b"sample",), (b"WORD",), longest=10))

    made = [mutator.next() for _ in range(500)]

    assert sum(b"WORD" in each for each in made) > 20
    assert max(map(len, made)) <= 10
