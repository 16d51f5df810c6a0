"""The `/login` of the demo: accepted and refused requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.auth import JWTAuthenticator
from analytics_hub.contracts import Handshake
from analytics_hub.demo.login import refuse_login, respond_login
from analytics_hub.http import Request, Response
from analytics_hub.identity import Identity
from analytics_hub.transports._origins import Origins

SECRET = "s" * 32
NOW = 1_700_000_000.0
RESPOND = respond_login(SECRET, clock=lambda: NOW)


def post(body: bytes | object, content_type: str = "application/x-www-form-urlencoded") -> Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"host": "localhost:7999", "content-type": content_type}
    response = RESPOND(Request("POST", "/login", headers=headers, body=data))
    assert response is not None
    return response


def error(response: Response) -> str:
    body: dict[str, Any] = json.loads(response.body)
    assert list(body) == ["error"]
    return str(body["error"])


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("admin", "application/x-www-form-urlencoded"), ("trader", "application/json"), ("monitor", "text/plain")],
)
def test_each_account_gets_a_token_with_its_role(name: str, content_type: str) -> None:
    response = post({"username": name, "password": name}, content_type)
    answer = json.loads(response.body)
    identity = JWTAuthenticator(SECRET, algorithms=["HS256"], clock=lambda: NOW)(Handshake(token=answer["token"]))

    assert response.status == 200
    assert isinstance(identity, Identity)
    assert (identity.id, identity.roles, identity.account) == (name, frozenset({name}), name)
    assert identity.expires == NOW + answer["expiresIn"]
    assert ("Cache-Control", "no-store") in response.headers


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("admin", "wrong"),
        ("admin", ""),
        ("admin", "trader"),
        ("unknown", ""),
        ("unknown", "unknown"),
        ("é", "ü"),
    ],
)
def test_invalid_credentials_all_get_the_same_message(username: str, password: str) -> None:
    response = post({"username": username, "password": password})

    assert response.status == 401
    assert error(response) == "wrong username or password"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"username=admin&password=admin", b"[" * 4000, b"\xff", [], None, {}, {"username": "admin"},
     {"username": "admin", "password": 1}, {"username": ["admin"], "password": "admin"}],
    ids=lambda body: repr(body)[:24],
)  # fmt: skip
def test_a_malformed_body_is_answered_with_an_example(body: bytes | object) -> None:
    response = post(body)

    assert response.status == 400
    assert '{"username":"admin","password":"admin"}' in error(response)


def test_a_large_body_is_refused() -> None:
    assert post(b" " * 5000).status == 413


@given(st.binary(max_size=64))
def test_any_body_is_answered(body: bytes) -> None:
    assert post(body).status in {400, 401}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:7999", 200),
        ("127.0.0.1:7999", 200),
        ("[::1]:7999", 200),
        ("attacker.example:7999", 403),
        ("localhost.attacker.example", 403),
        ("10.0.0.1", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_a_request_to_another_host_name_gets_no_token(host: str, status: int) -> None:
    request = Request("POST", "/login", headers={"host": host}, body=b'{"username":"admin","password":"admin"}')
    local, everywhere = RESPOND(request), respond_login(SECRET, local_only=False)(request)

    assert local is not None
    assert local.status == status
    assert everywhere is not None
    assert everywhere.status == 200


def test_other_methods_and_paths_are_refused() -> None:
    response = RESPOND(Request("GET", "/login"))

    assert response is not None
    assert response.status == 405
    assert ("Allow", "OPTIONS, POST") in response.headers
    assert RESPOND(Request("POST", "/login/")) is None


def test_a_disabled_login_answers_with_the_reason() -> None:
    response = refuse_login("not here")(Request("POST", "/login", body=b'{"username":"admin","password":"admin"}'))

    assert response is not None
    assert response.status == 403
    assert error(response) == "not here"


# --- pages ----------------------------------------------------------------------------------------------------------

ALLOWED = "https://dashboard.example"


def send(method: str, origin: str | None) -> tuple[int, dict[str, str]]:
    respond = respond_login(SECRET, origins=Origins([ALLOWED]))
    headers = {"host": "localhost:7999"} | ({} if origin is None else {"origin": origin})
    response = respond(Request(method, "/login", headers=headers, body=b'{"username":"admin","password":"admin"}'))
    assert response is not None
    return response.status, dict(response.headers)


def test_only_pages_of_allowed_origins_get_a_token() -> None:
    assert [send("POST", origin)[0] for origin in (None, "http://localhost:7999", ALLOWED)] == [200, 200, 200]
    assert send("POST", ALLOWED)[1]["Access-Control-Allow-Origin"] == ALLOWED
    assert "Access-Control-Allow-Origin" not in send("POST", "http://localhost:7999")[1]
    for origin in ("https://evil.example", "null"):
        status, headers = send("POST", origin)
        assert (status, "Access-Control-Allow-Origin" in headers) == (403, False)


def test_the_preflight_of_an_allowed_origin_is_answered() -> None:
    status, headers = send("OPTIONS", ALLOWED)

    assert (status, headers["Access-Control-Allow-Methods"]) == (204, "POST, OPTIONS")
    assert send("OPTIONS", "https://evil.example")[0] == 403
