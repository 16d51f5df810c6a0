"""A: tokens."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import pytest

from ..auth.test_jwt import segment
from .environment import targets
from .exchanges import (
    CLAIMS,
    bearer,
    closed_with,
    forge,
    is_served,
    refusal_of,
    send_request,
    subscribe,
    try_first_message,
    try_handshake,
)
from .target import ASGI, NATIVE, SOME, Target

environment = targets(*SOME)
everywhere = pytest.mark.parametrize("environment", [*NATIVE, *ASGI], indirect=True)

HS256 = {"alg": "HS256", "typ": "JWT"}
MISSING, INVALID, EXPIRED, REVOKED = (f"{fault} token" for fault in ("missing", "invalid", "expired", "revoked"))

Cases = Mapping[str, tuple[str, str]]
"""A token, and why it is invalid, which only the counters show."""


def assert_invalid(target: Target, subtests: pytest.Subtests, cases: Cases) -> None:
    """All are refused with one answer, in a handshake, and as a first message or over HTTP."""
    answers = set()
    for number, (name, (token, _)) in enumerate(cases.items()):
        with subtests.test(name):
            answer = try_handshake(target, bearer(token))
            assert refusal_of(answer) == (401, INVALID)
            answer.headers.pop("date", None)
            answers.add((*sorted(answer.headers.items()), answer.body))
            if number % 2:
                assert try_first_message(target, token) == (4401, INVALID)
            else:
                assert refusal_of(send_request(target, "/ticket", bearer(token))) == (401, INVALID)
    assert len(answers) == 1, answers
    target.assert_counted("token-invalid", 2 * len(cases))
    for detail, number in Counter(detail for _, detail in cases.values()).items():
        target.assert_counted(f"invalid-{detail}", 2 * number)
    log = target.log()
    assert not [name for name, (token, _) in cases.items() if len(token) > 3 and token[-20:] in log]


# --- tokens

GARBAGE: Cases = {
    "a word": ("xyz", "malformed"),
    "dots": ("..", "malformed"),
    "two parts": ("eyJhbGciOiJIUzI1NiJ9.e30", "malformed"),
    "8000 dots": ("." * 8000, "malformed"),
    "the maximum length": ("x" * 8000, "malformed"),
    "not JSON": (forge(b"alg", b"sub"), "malformed"),
    "UTF-16": (forge('{"alg":"HS256"}'.encode("utf-16")), "malformed"),
    "a deep header": (forge(b'{"alg":' + b"[" * 3000), "malformed"),
    "a header with a huge number": (forge(b'{"alg":"HS256","kid":' + b"9" * 5000 + b"}"), "malformed"),
    "deep claims": (forge(HS256, b'{"sub":"a","exp":' + b"[" * 3000), "claims"),
    "claims that are a list": (forge(HS256, b"[]"), "claims"),
    "claims with a huge number": (forge(HS256, b'{"sub":"a","exp":' + b"9" * 4000 + b"}"), "claims"),
}


@everywhere
def test_a01_garbage_gets_one_answer(target: Target, subtests: pytest.Subtests) -> None:
    assert_invalid(target, subtests, GARBAGE)


def test_a01_long_tokens_are_refused(target: Target) -> None:
    """Over 8 KiB unparsed; over the limit of a header or a message, for that limit."""
    for size in (9000, 60_000):
        assert try_first_message(target, "x" * size) == (4401, INVALID)
    assert try_first_message(target, "x" * 100_000).code == 1009
    if not target.is_asgi:  # uvicorn never answers
        assert try_handshake(target, bearer("x" * 100_000)).status == 431
    target.assert_counted("invalid-too-long", 2)


def test_a01_missing_and_expired_tokens_have_answers_of_their_own(target: Target) -> None:
    expired = target.token(now=time.time() - 7200)
    assert refusal_of(send_request(target, "/ticket")) == (401, MISSING)
    assert try_first_message(target, "") == (4401, MISSING)
    assert refusal_of(try_handshake(target, bearer(expired))) == (401, EXPIRED)
    assert refusal_of(send_request(target, "/ticket", bearer(expired))) == (401, EXPIRED)
    assert try_first_message(target, expired) == (4401, EXPIRED)
    target.assert_counted("token-missing", 2)
    target.assert_counted("token-expired", 3)


def test_a01_pages_get_a_close_code(target: Target) -> None:
    """Browsers hide the status of a failed handshake from them."""
    with target.open("Origin: https://friend.example", token="wrong") as peer:
        assert closed_with(peer) == (4401, INVALID)


KEY = {"kty": "oct", "k": segment(b"o" * 32)}

NOT_NAMES: tuple[object, ...] = (["HS256"], ["none"], {}, None, 1, True)

ALGORITHMS: Cases = {
    **{repr(name): (forge({"alg": name}), "algorithm") for name in ("none", "None", "NONE", "nOnE", "", "hs256")},
    **{name: (forge({"alg": name}), "algorithm") for name in ("HS384", "HS512", "RS256", "ES256", "HS256\0")},
    **{repr(other): (forge({"alg": other}), "malformed") for other in NOT_NAMES},
    "no algorithm": (forge({"typ": "JWT"}), "malformed"),
    "none, and no signature": (f"{segment({'alg': 'none'})}.{segment(CLAIMS)}.", "malformed"),
    "extensions": (forge({**HS256, "crit": ["b64"], "b64": False}), "malformed"),
    "its own key": (forge({**HS256, "jwk": KEY}, key=b"o" * 32), "signature"),
    "a key by URL": (forge({**HS256, "jku": "http://127.0.0.1:1/", "kid": "../x"}, key=b"o" * 32), "signature"),
}


def test_a02_a_token_does_not_choose_its_algorithm(target: Target, subtests: pytest.Subtests) -> None:
    assert_invalid(target, subtests, ALGORITHMS)


MESSAGE, _, SIGNATURE = forge(HS256).rpartition(".")

SIGNATURES: Cases = {
    "another key": (forge(HS256, key=b"o" * 32), "signature"),
    "no key": (forge(HS256, key=b""), "signature"),
    "zeros": (f"{MESSAGE}.{segment(bytes(32))}", "signature"),
    "cut": (f"{MESSAGE}.{SIGNATURE[:40]}", "signature"),
    "a byte": (f"{MESSAGE}.AA", "signature"),
    "none": (f"{MESSAGE}.", "malformed"),
    "twice": (f"{MESSAGE}.{SIGNATURE}.{SIGNATURE}", "malformed"),
    "padded": (f"{MESSAGE}.{SIGNATURE}=", "malformed"),
    "another spelling": (f"{MESSAGE}.{SIGNATURE[:-1]}{chr(ord(SIGNATURE[-1]) + 1)}", "malformed"),
    "of another token": (f"{MESSAGE}.{forge(HS256, {**CLAIMS, 'sub': 'a'}).rpartition('.')[2]}", "signature"),
    "altered claims": (f"{segment(HS256)}.{segment({**CLAIMS, 'role': 'admin'})}.{SIGNATURE}", "signature"),
    "altered header": (f"{segment({**HS256, 'kid': 'x'})}.{segment(CLAIMS)}.{SIGNATURE}", "signature"),
}


def test_a03_signatures_are_verified(target: Target, subtests: pytest.Subtests) -> None:
    assert_invalid(target, subtests, SIGNATURES)

    with target.open(token=forge(HS256)) as peer:
        assert is_served(peer)


ODD_TEXTS = ("", "x" * 256, "a\nb", "a\x1b[2J", "a\0", "\u202ea", "\ud800", 7, None, True, ["a"], {"id": "a"})

INVALID_CLAIMS: Cases = {
    **{f"sub {text!r:.20}": (forge(HS256, {**CLAIMS, "sub": text}), "claims") for text in ODD_TEXTS},
    **{f"{name} {{}}": (forge(HS256, {**CLAIMS, name: {}}), "claims") for name in ("role", "roles", "jti", "channels")},
    "a role with a line feed": (forge(HS256, {**CLAIMS, "roles": ["admin", "a\nb"]}), "claims"),
    "no sub": (forge(HS256, {"exp": 4_000_000_000}), "claims"),
    "no exp": (forge(HS256, {"sub": "mallory"}), "claims"),
    "an infinite exp": (forge(HS256, {**CLAIMS, "exp": 1e300}), "claims"),
    "an exp that is a string": (forge(HS256, {**CLAIMS, "exp": "4000000000"}), "claims"),
}


def test_a15_invalid_claims_are_refused(target: Target, subtests: pytest.Subtests) -> None:
    assert_invalid(target, subtests, INVALID_CLAIMS)


def test_a15_unusual_valid_subjects_are_admitted(target: Target) -> None:
    """Of any script, up to 255 characters; they appear in no counter, and are never used as markup or format."""
    for subject in ("x" * 255, "%s%n{0}", "</script>", "'; drop table", "../../etc", "Åsa 李", '"\\'):
        token = forge(HS256, {**CLAIMS, "sub": subject, "jti": subject, "account": subject, "roles": [subject]})
        with target.open(token=token) as peer:
            assert subscribe(peer, "feed", "secret") == {"feed": "ok", "secret": "forbidden"}
    assert not [name for name in target.report().counters if "x" * 9 in name or "%" in name]
