"""Tokens: finding them in a request, keeping them out of logs, and verifying them."""

from __future__ import annotations

import base64
import hmac
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import example, given
from hypothesis import strategies as st

from analytics_hub.auth import (
    TOKEN_DETAILS,
    Credentials,
    JWTAuthenticator,
    find_token,
    mint,
    redact,
    strip_headers,
    strip_query,
)
from analytics_hub.auth.jwt.token import CompactToken
from analytics_hub.contracts import Handshake
from analytics_hub.exceptions import AuthenticationError
from analytics_hub.identity import Identity

from ..project.layout import ROOT

KEY = "k" * 32
OTHER_KEY = "o" * 32
NOW = 1_700_000_000.0
FAMILIES = ("RS256", "PS384", "ES256", "EdDSA")


class Clock:
    """A wall clock that tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def authenticator(key: Any = KEY, algorithms: Sequence[str] = ("HS256",), **options: Any) -> JWTAuthenticator:
    return JWTAuthenticator(key, algorithms=algorithms, clock=options.pop("clock", Clock()), **options)


def signed(claims: Mapping[str, object], key: Any = KEY, algorithm: str = "HS256") -> str:
    """A token by PyJWT's signer, so that claims are possible which `mint` refuses."""
    return jwt.PyJWS().encode(json.dumps({"sub": "ann", "exp": NOW + 60, **claims}).encode(), key, algorithm)


def segment(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def check(token: str | None, authenticate: JWTAuthenticator | None = None) -> Identity:
    found = (authenticate or authenticator())(Handshake(token=token))
    assert isinstance(found, Identity), "static keys need no waiting"
    return found


def refusal(token: str | None, authenticate: JWTAuthenticator | None = None) -> tuple[str, str]:
    with pytest.raises(AuthenticationError) as caught:
        check(token, authenticate)
    error = caught.value
    assert error.__context__ is None, "a foreign exception in the chain may carry the token"
    assert str(error) == f"{error.fault} token"
    assert error.detail in TOKEN_DETAILS
    assert error.is_genuine is (error.detail in ("expired", "not-yet-valid", "issued-in-future")), "only if well signed"
    return error.fault, error.detail


def key_pair(algorithm: str) -> tuple[str, str]:
    """Private and public PEM for `algorithm`."""
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    if algorithm.startswith("ES"):
        private = ec.generate_private_key(ec.SECP256R1())
    elif algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    else:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode(), public.decode()


class TestFindToken:
    def test_the_header_comes_before_the_subprotocol_before_the_query(self) -> None:
        headers, offered, query = {"authorization": "Bearer h"}, ["hub.v1", "bearer.s"], "a=1&token=q"

        assert find_token(headers, query, offered) == Credentials("h", "header")
        assert find_token({}, query, offered) == Credentials("s", "subprotocol")
        assert find_token({}, query, ["hub.v1"]) == Credentials("q", "query")
        assert find_token({}, "", []) is None

    @pytest.mark.parametrize("value", ["bearer h", "BEARER   h  ", " Bearer h"])
    def test_the_scheme_is_case_insensitive(self, value: str) -> None:
        assert find_token({"authorization": value}, "", []) == Credentials("h", "header")

    @pytest.mark.parametrize("value", ["Basic h", "Bearer", "Bearer ", "Bearerh", ""])
    def test_other_schemes_and_empty_tokens_are_ignored(self, value: str) -> None:
        assert find_token({"authorization": value}, "token=", ["bearer."]) is None
        assert find_token({"authorization": value}, "token=q", []) == Credentials("q", "query")

    def test_the_query_is_decoded(self) -> None:
        assert find_token({}, "%74oken=a%2Eb", []) == Credentials("a.b", "query")


class TestKeepingSecrets:
    def test_headers_lose_only_the_token(self) -> None:
        headers = {
            "authorization": "Bearer x",
            "host": "h",
            "sec-websocket-protocol": "bearer.x, analytics-hub.v1.json",
        }

        assert strip_headers(headers) == {"host": "h", "sec-websocket-protocol": "analytics-hub.v1.json"}
        assert strip_headers({"sec-websocket-protocol": "bearer.x"}) == {}

    def test_the_query_loses_only_the_token(self) -> None:
        assert strip_query("a=1&token=x&b=%20&token=y") == "a=1&b=%20"
        assert strip_query("tok%65n=x") == ""
        assert strip_query("tokens=x&a") == "tokens=x&a"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("/ws?token=abc", "/ws?token=[redacted]"),
            ("GET /ws?a=1&TOKEN=abc&b=2 HTTP/1.1", "GET /ws?a=1&TOKEN=[redacted]&b=2 HTTP/1.1"),
            ("/ws?%74oke%6E=abc", "/ws?%74oke%6E=[redacted]"),
            ("/ws?access_token%3Dabc", "/ws?access_token%3D[redacted]"),
            ("Authorization: Bearer abc", "Authorization: Bearer [redacted]"),
            ("hub.v1, bearer.abc, x", "hub.v1, bearer.[redacted], x"),
            ("found eyJhbGciOi.eyJzdWIi.c2ln here", "found [redacted] here"),
            ("/page?ticket=abc&b=2", "/page?ticket=[redacted]&b=2"),
            ("used ticket.Ab-c_9, again", "used ticket.[redacted], again"),
            ("/ws?%74icket%3dabc", "/ws?%74icket%3d[redacted]"),
            ("/x/ticket%2EAb-c", "/x/ticket%2E[redacted]"),
            ("/ws?a=1", "/ws?a=1"),
        ],
    )
    def test_redacting(self, text: str, expected: str) -> None:
        assert redact(text) == expected

    @given(
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=60),
        st.lists(st.booleans(), min_size=5, max_size=5),
        st.booleans(),
    )
    def test_no_spelling_of_the_parameter_gets_through(self, token: str, encoded: list[bool], plain: bool) -> None:
        name = "".join(f"%{ord(char):02x}" if hide else char for char, hide in zip("token", encoded, strict=True))
        value = quote(token, safe="!$'()*,;:@/?") if plain else quote(token, safe="")
        query = f"z=1&{name}={value}&y=2"

        assert find_token({}, query, []) == Credentials(token, "query")
        assert strip_query(query) == "z=1&y=2"
        assert redact(f"/ws?{query}") == f"/ws?z=1&{name}=[redacted]&y=2"

    def test_repr_shows_neither_key_nor_token(self) -> None:
        authenticate = authenticator([KEY, OTHER_KEY])

        assert KEY not in repr(authenticate)
        assert OTHER_KEY not in repr(authenticate)
        assert "hidden" not in repr(Handshake(token="hidden"))


class TestVerifying:
    def test_all_claims_arrive(self) -> None:
        token = mint(
            KEY, subject="ann", roles=["trader"], ttl=60, now=NOW,
            role="monitor", account="A-1", jti="t1", channels=["alerts", "user:*"],
        )  # fmt: skip

        assert check(token) == Identity(
            id="ann",
            roles=frozenset({"trader", "monitor"}),
            expires=NOW + 60,
            account="A-1",
            channels=("alerts", "user:*"),
            token_id="t1",
            issued=NOW,
        )

    def test_sub_and_exp_are_enough(self) -> None:
        assert check(signed({})) == Identity(id="ann", expires=NOW + 60, issued=0.0)

    @pytest.mark.parametrize("missing", ["sub", "exp"])
    def test_sub_and_exp_are_required(self, missing: str) -> None:
        claims = {"sub": "ann", "exp": NOW + 60}
        del claims[missing]

        assert refusal(jwt.encode(claims, KEY, "HS256")) == ("invalid", "claims")

    @pytest.mark.parametrize("token", [None, ""])
    def test_an_absent_token_is_missing(self, token: str | None) -> None:
        assert refusal(token) == ("missing", "no-token")

    def test_expiry_and_leeway(self) -> None:
        clock = Clock()
        strict, lenient = authenticator(clock=clock), authenticator(clock=clock, leeway=5)
        token = mint(KEY, subject="ann", ttl=60, now=NOW)

        clock.now = NOW + 59.9
        assert check(token, strict).expires == NOW + 60
        clock.now = NOW + 60
        assert refusal(token, strict) == ("expired", "expired")
        assert check(token, lenient).expires == NOW + 65, "otherwise the hub would end the session at once"
        clock.now = NOW + 65
        assert refusal(token, lenient) == ("expired", "expired")

    def test_a_token_is_refused_before_nbf_and_if_issued_in_the_future(self) -> None:
        assert refusal(signed({"nbf": NOW + 1})) == ("invalid", "not-yet-valid")
        assert check(signed({"nbf": NOW + 1}), authenticator(leeway=1)).id == "ann"
        assert check(signed({"iat": NOW + 30})).id == "ann", "clocks differ by seconds"
        assert refusal(signed({"iat": NOW + 31})) == ("invalid", "issued-in-future")

    def test_an_expired_token_that_is_also_invalid_is_invalid(self) -> None:
        expired = {"exp": NOW - 1}

        assert refusal(signed(expired, OTHER_KEY)) == ("invalid", "signature")
        assert refusal(signed(expired), authenticator(issuer="hub")) == ("invalid", "issuer")

    @pytest.mark.parametrize("configured", ["desk", ["office", "desk"], frozenset({"desk"})])
    def test_issuer_and_audience_are_checked_when_configured(self, configured: Any) -> None:
        authenticate = authenticator(issuer=configured, audience=configured)

        assert check(signed({"iss": "desk", "aud": "desk"}), authenticate).id == "ann"
        assert check(signed({"iss": "desk", "aud": ["x", "desk"]}), authenticate).id == "ann"
        assert refusal(signed({"aud": "desk"}), authenticate) == ("invalid", "issuer")
        assert refusal(signed({"iss": "bank", "aud": "desk"}), authenticate) == ("invalid", "issuer")
        assert refusal(signed({"iss": "desk"}), authenticate) == ("invalid", "audience")
        assert refusal(signed({"iss": "desk", "aud": []}), authenticate) == ("invalid", "audience")
        assert refusal(signed({"iss": "desk", "aud": ["x"]}), authenticate) == ("invalid", "audience")

    def test_a_token_with_an_audience_is_refused_where_none_is_configured(self) -> None:
        assert refusal(signed({"aud": "billing"})) == ("invalid", "audience")
        assert check(signed({"iss": "anyone"})).id == "ann"

    @pytest.mark.parametrize(
        "claims",
        [
            {"sub": ""},
            {"sub": "x" * 256},
            {"sub": "a\x1b[2J"},
            {"sub": "a\nb"},
            {"sub": "a\u202eb"},
            {"sub": 7},
            {"sub": {"id": "ann"}},
            {"sub": ["ann"]},
            {"exp": None},
            {"exp": "1700000060"},
            {"exp": True},
            {"exp": -1},
            {"exp": (NOW + 60) * 1000},
            {"nbf": "soon"},
            {"iat": []},
            {"iss": 1},
            {"aud": {"x": 1}},
            {"role": ["admin"]},
            {"role": ""},
            {"roles": "admin"},
            {"roles": ["admin", 1]},
            {"roles": ["a\x00"]},
            {"account": 7},
            {"account": ""},
            {"jti": 7},
            {"jti": "\t"},
            {"channels": "alerts"},
            {"channels": ["no blanks"]},
            {"channels": ["a*b"]},
            {"channels": [""]},
        ],
    )
    def test_claims_of_another_form_are_invalid(self, claims: dict[str, object]) -> None:
        assert refusal(signed(claims)) == ("invalid", "claims")

    def test_claims_may_be_in_any_language_and_unknown_ones_are_ignored(self) -> None:
        assert check(signed({"sub": "Åsa 李", "nested": {"deep": [1]}})).id == "Åsa 李"
        assert check(signed({"channels": ["*"], "role": None})).channels == ("*",)

    @pytest.mark.parametrize("payload", [b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 3000, b'{"sub":"\xff","exp":1}'])
    def test_a_signed_payload_without_claims_is_invalid(self, payload: bytes) -> None:
        assert refusal(jwt.PyJWS().encode(payload, KEY, "HS256")) == ("invalid", "claims")

    def test_keys_are_tried_in_turn(self) -> None:
        authenticate = authenticator([OTHER_KEY, KEY])

        assert check(signed({}), authenticate).id == "ann"
        assert check(signed({}, OTHER_KEY), authenticate).id == "ann"
        assert refusal(signed({}, "x" * 32), authenticate) == ("invalid", "signature")


class TestAttacks:
    @pytest.mark.parametrize("length", [8193, 100_000, 1_000_000])
    def test_a_token_over_8_kb_is_refused_unparsed(self, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
        token = signed({"sub": "x" * length})
        monkeypatch.setattr(CompactToken, "parse", None)

        assert refusal(token) == ("invalid", "too-long")

    @pytest.mark.parametrize(
        "token", ["x" * 8192, "." * 8192, f"{'A' * 4000}.{'A' * 4000}.AAAA", "\x00", "Å.Å.Å", "a.b"]
    )
    def test_garbage_is_malformed(self, token: str) -> None:
        assert refusal(token) == ("invalid", "malformed")

    @pytest.mark.parametrize(
        ("alg", "detail"),
        [
            *(
                (alg, "algorithm")
                for alg in ("none", "None", "NONE", "nOnE", "", "none ", "HS512", "hs256", "HS256\x00")
            ),
            *((alg, "malformed") for alg in (None, [], ["HS256"], {"HS256": 1}, 1, True)),
        ],
    )
    @pytest.mark.parametrize("signature", ["AAAA", segment(bytes(32))])
    def test_the_token_never_chooses_its_algorithm(self, alg: object, detail: str, signature: str) -> None:
        token = f"{segment({'alg': alg})}.{segment({'sub': 'ann', 'exp': NOW + 60})}.{signature}"

        assert refusal(token) == ("invalid", detail)
        assert refusal(token.rpartition(".")[0] + ".") == ("invalid", "malformed"), "no signature at all"

    def test_the_payload_is_not_decoded_before_the_signature_is_verified(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CompactToken, "payload", None)

        assert refusal(signed({}, OTHER_KEY)) == ("invalid", "signature")
        assert refusal(f"{segment({'alg': 'HS256'})}.{segment(b'[' * 3000)}.{segment(bytes(32))}")[1] == "signature"

    def test_signatures_are_compared_in_constant_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compared: list[tuple[int, int]] = []
        honest = hmac.compare_digest

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((len(one), len(other)))
            return honest(one, other)

        monkeypatch.setattr(hmac, "compare_digest", compare)

        assert refusal(signed({}, OTHER_KEY)) == ("invalid", "signature")
        assert compared == [(32, 32)]

    @pytest.mark.parametrize("algorithm", ["HS256", *FAMILIES])
    def test_a_signature_that_is_zero_short_long_or_of_another_token_is_refused(self, algorithm: str) -> None:
        private, public = (KEY, KEY) if algorithm == "HS256" else key_pair(algorithm)
        authenticate = authenticator(public, [algorithm])
        message, _, signature = signed({}, private, algorithm).rpartition(".")
        size = len(base64.urlsafe_b64decode(signature + "=="))
        elsewhere = signed({"sub": "bob"}, private, algorithm).rpartition(".")[2]

        for wrong in (bytes(size), bytes(size - 1), bytes(1), b"\xff" * size, bytes(size + 1), bytes(2000)):
            assert refusal(f"{message}.{segment(wrong)}", authenticate) == ("invalid", "signature")
        assert refusal(f"{message}.{elsewhere}", authenticate) == ("invalid", "signature")
        assert refusal(f"{message}.{signature[: len(signature) // 2 // 4 * 4]}", authenticate)[1] == "signature"
        assert refusal(f"{message}.{signature}{signature}", authenticate)[0] == "invalid"

    @pytest.mark.parametrize(
        "kid", ["x" * 512, "../../../etc/passwd", "' OR '1'='1", "http://evil/", "\x00\n\u202e", "", None]
    )
    def test_the_key_id_is_ignored_where_keys_have_none(self, kid: object) -> None:
        token = jwt.PyJWS().encode(json.dumps({"sub": "ann", "exp": NOW + 60}).encode(), KEY, "HS256")
        _, body, _ = token.split(".")
        message = f"{segment({'alg': 'HS256', 'kid': kid})}.{body}"
        good = jwt.get_algorithm_by_name("HS256").sign(message.encode(), KEY.encode())

        assert check(f"{message}.{segment(good)}").id == "ann"
        assert refusal(f"{message}.{segment(bytes(32))}") == ("invalid", "signature")

    @pytest.mark.parametrize("kid", [7, {"a": 1}, ["x"], True, "x" * 513], ids=lambda kid: repr(kid)[:20])
    def test_an_invalid_key_id_is_malformed(self, kid: object) -> None:
        head, body = segment({"alg": "HS256", "kid": kid}), segment({"sub": "ann", "exp": NOW + 60})

        assert refusal(f"{head}.{body}.{segment(bytes(32))}") == ("invalid", "malformed")

    @pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
    def test_a_key_in_the_header_is_ignored(self, name: str) -> None:
        own = {"kty": "oct", "k": segment(OTHER_KEY.encode())}
        value = {"jku": "http://127.0.0.1:1/", "x5u": "file:///dev/zero", "jwk": own, "x5c": ["MIIB"]}[name]
        head, body = segment({"alg": "HS256", name: value}), segment({"sub": "ann", "exp": NOW + 60})
        sign = jwt.get_algorithm_by_name("HS256").sign

        assert (
            refusal(f"{head}.{body}.{segment(sign(f'{head}.{body}'.encode(), OTHER_KEY.encode()))}")[1] == "signature"
        )
        assert check(f"{head}.{body}.{segment(sign(f'{head}.{body}'.encode(), KEY.encode()))}").id == "ann"

    @pytest.mark.parametrize(
        "header",
        [
            *(b"[]", b"{}", b"{", b"null", b"\xff", b"[" * 3000, b'{"a":' * 1200, b'{"alg":' + b"9" * 5000 + b"}"),
            '{"alg":"HS256"}'.encode("utf-16"),
        ],
    )
    def test_an_invalid_header_is_malformed(self, header: bytes) -> None:
        assert refusal(f"{segment(header)}.{segment({'sub': 'ann'})}.AAAA") == ("invalid", "malformed")

    def test_a_deeply_nested_header_is_refused(self) -> None:
        header = b'{"alg":"HS256","a":' + b"[" * 2900 + b"]" * 2900 + b"}"

        assert refusal(f"{segment(header)}.{segment({'sub': 'ann'})}.{segment(bytes(32))}")[0] == "invalid"

    @pytest.mark.parametrize(
        "extra", [{"crit": ["x"]}, {"crit": []}, {"crit": None}, {"b64": False}, {"b64": False, "crit": ["b64"]}]
    )
    def test_unsupported_critical_headers_are_refused(self, extra: dict[str, object]) -> None:
        head, body = segment({"alg": "HS256", **extra}), segment({"sub": "ann", "exp": NOW + 60})
        good = jwt.get_algorithm_by_name("HS256").sign(f"{head}.{body}".encode(), KEY.encode())

        assert refusal(f"{head}.{body}.{segment(good)}") == ("invalid", "malformed")

    @pytest.mark.parametrize("algorithm", FAMILIES)
    def test_a_public_key_signs_nothing_as_an_hmac_secret(self, algorithm: str) -> None:
        private, public = key_pair(algorithm)
        authenticate = authenticator(public, [algorithm])
        head, body = segment({"alg": "HS256", "typ": "JWT"}), segment({"sub": "ann", "exp": NOW + 60})
        forged = jwt.get_algorithm_by_name("HS256").sign(f"{head}.{body}".encode(), public.encode())

        assert check(signed({}, private, algorithm), authenticate).id == "ann"
        assert refusal(f"{head}.{body}.{segment(forged)}", authenticate) == ("invalid", "algorithm")
        assert refusal(signed({}, KEY, "HS256"), authenticate) == ("invalid", "algorithm")
        assert refusal(signed({}, key_pair(algorithm)[0], algorithm), authenticate) == ("invalid", "signature")

    def test_no_token_has_a_second_spelling(self) -> None:
        token = signed({})
        last = token[-1]

        assert refusal(token + "=") == ("invalid", "malformed")
        for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
            if char != last:  # of the last one only four bits count
                assert refusal(token[:-1] + char)[0] == "invalid"

    @given(st.data())
    def test_a_mutated_token_never_passes(self, data: st.DataObject) -> None:
        token = mint(KEY, subject="ann", roles=["admin"], ttl=60, now=NOW)
        kind = data.draw(st.sampled_from(["replace", "insert", "delete", "cut", "swap"]))
        at = data.draw(st.integers(0, len(token) - 1))
        char = data.draw(st.characters(max_codepoint=0x2FF))
        mutated = {
            "replace": token[:at] + char + token[at + 1 :],
            "insert": token[:at] + char + token[at:],
            "delete": token[:at] + token[at + 1 :],
            "cut": token[:at],
            "swap": token[at:] + token[:at],
        }[kind]

        if mutated != token:
            assert refusal(mutated)[0] in {"invalid", "missing"}

    @given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda raw: raw.decode("latin-1"))))
    @example("a.b.c")
    @example("..")
    @example("\ud800.\ud800.\ud800")
    def test_any_text_is_refused(self, text: str) -> None:
        refusal(text)

    @given(st.lists(st.one_of(st.binary(max_size=60).map(segment), st.just("")), min_size=2, max_size=4).map(".".join))
    def test_any_three_segments_are_refused(self, text: str) -> None:
        refusal(text)

    @given(
        st.dictionaries(
            st.sampled_from(["sub", "exp", "nbf", "iat", "iss", "aud", "role", "roles", "account", "jti", "channels"]),
            st.recursive(
                st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
                lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner)),
                max_leaves=5,
            ),
        )
    )
    def test_any_signed_claims_give_an_identity_of_the_declared_form_or_a_refusal(self, claims: Any) -> None:
        try:
            identity = check(jwt.PyJWS().encode(json.dumps(claims).encode(), KEY, "HS256"))
        except AuthenticationError:
            return
        assert 0 < len(identity.id) <= 255
        assert identity.expires is not None
        assert identity.expires > NOW
        assert all(isinstance(role, str) for role in identity.roles)


class TestConfiguring:
    @pytest.mark.parametrize(
        ("key", "algorithms", "message"),
        [
            (KEY, [], "algorithms is"),
            (KEY, "HS256", "algorithms is"),
            (KEY, ["none"], "algorithms is"),
            (KEY, ["HS256", "none"], "algorithms is"),
            (KEY, ["hs256"], "algorithms is"),
            (KEY, ["HS256", "RS256"], "mix HMAC"),
            ([], ["HS256"], "no key fits HS256"),
            ("k" * 31, ["HS256"], "at least 32 bytes, this one has 31"),
            ("k" * 47, ["HS384"], "at least 48 bytes"),
            (b"k" * 63, ["HS512"], "at least 64 bytes"),
            (KEY, ["HS256", "HS512"], "at least 64 bytes"),
            ([KEY, "short"], ["HS256"], "key 2 of 2"),
            ("", ["HS256"], "empty"),
            (None, ["HS256"], "key 1 of 1"),
            ('{"kty":"oct","k":"' + "a" * 43 + '"}', ["HS256"], "JWK"),
            ("ssh-rsa " + "A" * 80, ["HS256"], "asymmetric"),
            (KEY, ["RS256"], "key 1 of 1"),
            (KEY, ["EdDSA"], "key 1 of 1"),
        ],
    )
    def test_an_invalid_configuration_is_refused_without_showing_the_key(
        self, key: Any, algorithms: Sequence[str], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            JWTAuthenticator(key, algorithms=algorithms)
        assert not isinstance(key, str) or not key or key not in str(caught.value)

    @pytest.mark.parametrize("leeway", [-1, 30.1, float("nan"), float("inf")])
    def test_leeway_must_be_in_its_range(self, leeway: float) -> None:
        with pytest.raises(ValueError, match="between 0 and 30 seconds"):
            authenticator(leeway=leeway)

    @pytest.mark.parametrize("algorithm", FAMILIES)
    def test_a_pem_is_refused_as_an_hmac_secret(self, algorithm: str) -> None:
        for pem in key_pair(algorithm):
            with pytest.raises(ValueError, match="asymmetric key"):
                JWTAuthenticator(pem, algorithms=["HS256"])

    def test_rsa_and_ec_keys_serve_side_by_side(self) -> None:
        (rsa_private, rsa_public), (ec_private, ec_public) = key_pair("RS256"), key_pair("ES256")
        authenticate = authenticator([rsa_public, ec_public], ["RS256", "ES256"])

        assert check(signed({}, rsa_private, "RS256"), authenticate).id == "ann"
        assert check(signed({}, ec_private, "ES256"), authenticate).id == "ann"
        assert refusal(signed({}, rsa_private, "PS256"), authenticate) == ("invalid", "algorithm")
        with pytest.raises(ValueError, match="no key fits ES256"):
            authenticator([rsa_public], ["RS256", "ES256"])

    @pytest.mark.parametrize("algorithm", FAMILIES)
    def test_only_the_public_half_of_a_private_key_is_kept(self, algorithm: str) -> None:
        private, _ = key_pair(algorithm)
        authenticate = authenticator(private, [algorithm])

        assert check(signed({}, private, algorithm), authenticate).id == "ann"
        assert refusal(signed({}, key_pair(algorithm)[0], algorithm), authenticate) == ("invalid", "signature")

    def test_a_short_rsa_key_is_refused(self) -> None:
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()

        with pytest.raises(ValueError, match="1024 bits"):
            authenticator(weak, ["RS256"])

    def test_without_cryptography_the_error_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jwt.algorithms.has_crypto", False)
        monkeypatch.setattr("jwt.api_jws.has_crypto", False)

        with pytest.raises(ImportError, match=r"pip install analytics-hub\[crypto\]"):
            authenticator("x", ["RS256"])
        assert check(signed({})).id == "ann"


class TestMint:
    @pytest.mark.parametrize(("algorithm", "length"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
    def test_a_minted_token_is_accepted(self, algorithm: str, length: int) -> None:
        token = mint("k" * length, subject="ann", ttl=1, algorithm=algorithm, now=NOW)

        assert check(token, authenticator("k" * length, [algorithm])).expires == NOW + 1

    def test_a_token_may_be_minted_with_an_asymmetric_key(self) -> None:
        private, public = key_pair("EdDSA")

        token = mint(private, subject="ann", algorithm="EdDSA", now=NOW)

        assert check(token, authenticator(public, ["EdDSA"])).id == "ann"

    def test_the_wall_clock_is_the_default(self) -> None:
        assert check(mint(KEY, subject="ann"), JWTAuthenticator(KEY, algorithms=["HS256"])).id == "ann"

    @pytest.mark.parametrize(
        "invalid",
        [
            {"key": "short"},
            {"subject": ""},
            {"subject": "a\nb"},
            {"subject": 7},
            {"ttl": 0},
            {"ttl": float("inf")},
            {"roles": [""]},
            {"channels": "alerts"},
            {"channels": ["no blanks"]},
            {"algorithm": "none"},
        ],
        ids=repr,
    )
    def test_a_token_that_would_be_refused_is_not_minted(self, invalid: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r".") as caught:
            mint(**{"key": KEY, "subject": "ann", **invalid})
        assert KEY not in str(caught.value)


def test_the_documentation_has_the_signature_of_mint() -> None:
    parameters = inspect.signature(mint).parameters.values()
    plain = inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])
    page = (ROOT / "docs/security.md").read_text("utf-8")

    assert f"def mint{plain}: ...".replace("'", '"') in page
