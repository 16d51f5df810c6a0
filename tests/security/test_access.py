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
from .target import ASGI, NATIVE, SOME, Target, choose

environment = targets(*SOME)
everywhere = pytest.mark.parametrize("environment", choose((*NATIVE, *ASGI)), indirect=True)

HS256 = {"alg": "HS256", "typ": "JWT"}
MISSING, INVALID, EXPIRED, REVOKED = (f"{fault} token" for fault in ("missing", "invalid", "expired", "revoked"))

KEY = {"kty": "oct", "k": segment(b"o" * 32)}
MESSAGE, _, SIGNATURE = forge(HS256).rpartition(".")

INVALID_TOKENS: Mapping[str, tuple[str, str]] = {
    "the maximum length": ("x" * 8000, "malformed"),
    "UTF-16": (forge('{"alg":"HS256"}'.encode("utf-16")), "malformed"),
    "a deep header": (forge(b'{"alg":' + b"[" * 3000), "malformed"),
    "alg none": (forge({"alg": "none"}), "algorithm"),
    "alg none, and no signature": (f"{segment({'alg': 'none'})}.{segment(CLAIMS)}.", "malformed"),
    "another algorithm": (forge({"alg": "HS512"}), "algorithm"),
    "a list of algorithms": (forge({"alg": ["HS256"]}), "malformed"),
    "its own key": (forge({**HS256, "jwk": KEY}, key=b"o" * 32), "signature"),
    "another key": (forge(HS256, key=b"o" * 32), "signature"),
    "a signature of zeros": (f"{MESSAGE}.{segment(bytes(32))}", "signature"),
    "another spelling": (f"{MESSAGE}.{SIGNATURE[:-1]}{chr(ord(SIGNATURE[-1]) + 1)}", "malformed"),
    "altered claims": (f"{segment(HS256)}.{segment({**CLAIMS, 'role': 'admin'})}.{SIGNATURE}", "signature"),
    "a subject with a line feed": (forge(HS256, {**CLAIMS, "sub": "a\nb"}), "claims"),
    "a subject that is a list": (forge(HS256, {**CLAIMS, "sub": ["a"]}), "claims"),
    "deep claims": (forge(HS256, b'{"sub":"a","exp":' + b"[" * 3000), "claims"),
    "claims with a huge number": (forge(HS256, b'{"sub":"a","exp":' + b"9" * 4000 + b"}"), "claims"),
    "an infinite exp": (forge(HS256, {**CLAIMS, "exp": 1e300}), "claims"),
}
"""A token, and why it is invalid, which only the counters show. `tests/auth/test_jwt.py` has all kinds."""


@everywhere
def test_a01_a02_a03_a15_invalid_tokens_get_one_answer(target: Target, subtests: pytest.Subtests) -> None:
    """In a handshake, as a first message and over HTTP."""
    answers = set()
    for number, (name, (token, _)) in enumerate(INVALID_TOKENS.items()):
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
    target.assert_counted("token-invalid", 2 * len(INVALID_TOKENS))
    for detail, number in Counter(detail for _, detail in INVALID_TOKENS.values()).items():
        target.assert_counted(f"invalid-{detail}", 2 * number)
    log = target.log()
    assert not [name for name, (token, _) in INVALID_TOKENS.items() if token[-20:] in log]
    with target.open(token=forge(HS256)) as peer:
        assert is_served(peer), "the same token with a valid signature"


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


def test_a15_unusual_valid_subjects_are_admitted(target: Target) -> None:
    """Of any script, up to 255 characters; they appear in no counter, and are never used as markup or format."""
    for subject in ("x" * 255, "%s%n{0}", "</script>", "'; drop table", "../../etc", "Åsa 李", '"\\'):
        token = forge(HS256, {**CLAIMS, "sub": subject, "jti": subject, "account": subject, "roles": [subject]})
        with target.open(token=token) as peer:
            assert subscribe(peer, "feed", "secret") == {"feed": "ok", "secret": "forbidden"}
    assert not [name for name in target.report().counters if "x" * 9 in name or "%" in name]
