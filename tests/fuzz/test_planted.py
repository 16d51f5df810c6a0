"""The fuzzer is tested by planted bugs, each of which it must find."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec
import pytest
from hypothesis import Phase, find, settings

from analytics_hub.access.proxies import TrustedProxies
from analytics_hub.auth.jwt.claims import Claims
from analytics_hub.auth.jwt.keys import VerifyingKey
from analytics_hub.client import protocol as client
from analytics_hub.protocol import commands, credentials, formats
from analytics_hub.transports import _origins
from analytics_hub.transports._http import cursor
from analytics_hub.transports._tcp.lines import LineDecoder
from analytics_hub.transports._websocket import deflate, frames, handshake, http11

from .strategies import LARGE_INPUTS
from .target import Target
from .targets import TARGETS

SEARCH: Final = settings(
    max_examples=20_000,
    phases=[Phase.generate],
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=LARGE_INPUTS,
)


def always(value: object) -> Callable[..., Any]:
    return lambda *args, **options: value


def breaks(target: Target, data: bytes) -> bool:
    try:
        target.check(data)
    except Exception:  # noqa: BLE001 - whatever a target raises is a find
        return True
    return False


@pytest.mark.parametrize(
    ("name", "place", "attribute", "broken"),
    [
        ("head", http11, "_check_lines", always(None)),
        ("head", http11, "_check_size", always(None)),
        ("head", handshake, "_is_key", always(True)),
        ("offers", deflate, "_is_valid", always(True)),
        ("offers", deflate, "SMALLEST_WINDOW", 8),
        ("frames", frames.Decoder, "frame_inbound_header", always(frames._NO_BITS)),
        ("frames", frames, "MAX_ENDINGS", 1_000_000),
        ("frames", frames, "PARTS", 1_000_000),
        ("lines", LineDecoder, "_check", always(None)),
        ("commands-json", commands, "clip", str),
        ("commands-msgpack", commands, "clip", str),
        ("transcoding", formats, "_pack", msgspec.json.encode),
        ("cursor", cursor, "MAX_SEQ", 2**80),
        ("positions", cursor, "_quote", str),
        ("stripping", credentials, "unquote_plus", str),
        ("redaction", credentials, "_PARAMETER", re.compile(r"(token=)[^&\s]*")),
        ("jwt", VerifyingKey, "has_signed", always(True)),
        ("jwt", Claims, "is_well_formed", always(True)),
        ("origin", _origins, "_is_ours", always(True)),
        ("forwarded", TrustedProxies, "_last_untrusted", lambda self, forwarded: forwarded.partition(",")[0]),
        ("items-json", client, "MAX_UNSUBSCRIBING", 1_000_000),
    ],
)
def test_a_planted_bug_is_found(
    name: str, place: object, attribute: str, broken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TARGETS[name]
    monkeypatch.setattr(place, attribute, broken)

    found = find(target.inputs, lambda data: breaks(target, data), settings=SEARCH, random=Random(1))

    assert breaks(target, found)
