"""A: who comes in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import pytest

from ..auth.test_jwt import segment
from .asking import (
    CLAIMS,
    ask,
    bearer,
    forge,
    introduce,
    knock,
    refusal,
    subscribe,
    told,
)
from .target import ASGI, NATIVE, SOME, Target
from .watch import targets

house = targets(*SOME)
everywhere = pytest.mark.parametrize("house", [*NATIVE, *ASGI], indirect=True)

HS256 = {"alg": "HS256", "typ": "JWT"}
MISSING, INVALID, EXPIRED, REVOKED = (f"{fault} token" for fault in ("missing", "invalid", "expired", "revoked"))

Cases = Mapping[str, tuple[str, str]]
"""A token, and why it is invalid: that only the counters tell."""


def refuse(target: Target, subtests: pytest.Subtests, cases: Cases) -> None:
    """In a handshake, and as a first message or over HTTP: nothing tells one reason from another."""
    answers = set()
    for number, (name, (token, _)) in enumerate(cases.items()):
        with subtests.test(name):
            answer = knock(target, bearer(token))
            assert refusal(answer) == (401, INVALID)
            answer.headers.pop("date", None)
            answers.add((*sorted(answer.headers.items()), answer.body))
            if number % 2:
                assert introduce(target, token) == (4401, INVALID)
            else:
                assert refusal(ask(target, "/ticket", bearer(token))) == (401, INVALID)
    assert len(answers) == 1, answers
    target.wait_counted("token-invalid", 2 * len(cases))
    for detail, number in Counter(detail for _, detail in cases.values()).items():
        target.wait_counted(f"invalid-{detail}", 2 * number)
    log = target.log()
    assert not [name for name, (token, _) in cases.items() if len(token) > 3 and token[-20:] in log]


# --- tokens

GARBAGE: Cases = {
    "a word": ("xyz", "malformed"),
    "dots": ("..", "malformed"),
    "two parts": ("eyJhbGciOiJIUzI1NiJ9.e30", "malformed"),
    "dots without end": ("." * 8000, "malformed"),
    "as long as may be": ("x" * 8000, "malformed"),
    "no JSON": (forge(b"alg", b"sub"), "malformed"),
    "UTF-16": (forge('{"alg":"HS256"}'.encode("utf-16")), "malformed"),
    "a deep header": (forge(b'{"alg":' + b"[" * 3000), "malformed"),
    "a header with a huge number": (forge(b'{"alg":"HS256","kid":' + b"9" * 5000 + b"}"), "malformed"),
    "deep claims": (forge(HS256, b'{"sub":"a","exp":' + b"[" * 3000), "claims"),
    "claims that are none": (forge(HS256, b"[]"), "claims"),
    "claims with a huge number": (forge(HS256, b'{"sub":"a","exp":' + b"9" * 4000 + b"}"), "claims"),
}


@everywhere
def test_a01_garbage_is_refused_in_one_way(target: Target, subtests: pytest.Subtests) -> None:
    refuse(target, subtests, GARBAGE)


def test_a01_long_tokens_are_refused(target: Target) -> None:
    """Over 8 KiB unparsed. What is longer than a header or a message may be is refused for that."""
    for size in (9000, 60_000):
        assert introduce(target, "x" * size) == (4401, INVALID)
    assert introduce(target, "x" * 100_000).code == 1009
    if not target.is_asgi:  # uvicorn lets it hang
        assert knock(target, bearer("x" * 100_000)).status == 431
    target.wait_counted("invalid-too-long", 2)


def test_a01_missing_and_expired_are_told_apart(target: Target) -> None:
    expired = target.token(now=time.time() - 7200)
    assert refusal(ask(target, "/ticket")) == (401, MISSING)
    assert introduce(target, "") == (4401, MISSING)
    assert refusal(knock(target, bearer(expired))) == (401, EXPIRED)
    assert refusal(ask(target, "/ticket", bearer(expired))) == (401, EXPIRED)
    assert introduce(target, expired) == (4401, EXPIRED)
    target.wait_counted("token-missing", 2)
    target.wait_counted("token-expired", 3)


def test_a01_pages_are_told_by_a_close_code(target: Target) -> None:
    """The status of a failed handshake is hidden from them."""
    with target.open("Origin: https://friend.example", token="wrong") as peer:
        assert told(peer) == (4401, INVALID)


KEY = {"kty": "oct", "k": segment(b"o" * 32)}

NO_NAMES: tuple[object, ...] = (["HS256"], ["none"], {}, None, 1, True)

ALGORITHMS: Cases = {
    **{repr(name): (forge({"alg": name}), "algorithm") for name in ("none", "None", "NONE", "nOnE", "", "hs256")},
    **{name: (forge({"alg": name}), "algorithm") for name in ("HS384", "HS512", "RS256", "ES256", "HS256\0")},
    **{repr(other): (forge({"alg": other}), "malformed") for other in NO_NAMES},
    "no algorithm": (forge({"typ": "JWT"}), "malformed"),
    "none, and no signature": (f"{segment({'alg': 'none'})}.{segment(CLAIMS)}.", "malformed"),
    "extensions": (forge({**HS256, "crit": ["b64"], "b64": False}), "malformed"),
    "its own key": (forge({**HS256, "jwk": KEY}, key=b"o" * 32), "signature"),
    "a key from elsewhere": (forge({**HS256, "jku": "http://127.0.0.1:1/", "kid": "../x"}, key=b"o" * 32), "signature"),
}


def test_a02_a_token_does_not_choose_its_algorithm(target: Target, subtests: pytest.Subtests) -> None:
    refuse(target, subtests, ALGORITHMS)


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
    refuse(target, subtests, SIGNATURES)

    target.open(token=forge(HS256)).close()


ODD_TEXTS = ("", "x" * 256, "a\nb", "a\x1b[2J", "a\0", "\u202ea", "\ud800", 7, None, True, ["a"], {"id": "a"})

STRANGERS: Cases = {
    **{f"sub {text!r:.20}": (forge(HS256, {**CLAIMS, "sub": text}), "claims") for text in ODD_TEXTS},
    **{f"{name} {{}}": (forge(HS256, {**CLAIMS, name: {}}), "claims") for name in ("role", "roles", "jti", "channels")},
    "a role with a line feed": (forge(HS256, {**CLAIMS, "roles": ["admin", "a\nb"]}), "claims"),
    "no sub": (forge(HS256, {"exp": 4_000_000_000}), "claims"),
    "no exp": (forge(HS256, {"sub": "mallory"}), "claims"),
    "an exp for ever": (forge(HS256, {**CLAIMS, "exp": 1e300}), "claims"),
    "an exp that is a text": (forge(HS256, {**CLAIMS, "exp": "4000000000"}), "claims"),
}


def test_a15_strange_users_are_refused(target: Target, subtests: pytest.Subtests) -> None:
    refuse(target, subtests, STRANGERS)


def test_a15_odd_but_possible_users_are_users(target: Target) -> None:
    """Of any script and meaning, up to 255 characters: none of it counts, and nobody reads it as markup or format."""
    for subject in ("x" * 255, "%s%n{0}", "</script>", "'; drop table", "../../etc", "Åsa 李", '"\\'):
        token = forge(HS256, {**CLAIMS, "sub": subject, "jti": subject, "account": subject, "roles": [subject]})
        with target.open(token=token) as peer:
            assert subscribe(peer, "feed", "secret") == {"feed": "ok", "secret": "forbidden"}
    assert not [name for name in target.report().counters if "x" * 9 in name or "%" in name]
