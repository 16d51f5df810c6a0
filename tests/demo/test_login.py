"""The demo's `/login`: what curl sends, what it answers, and whom it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_hub.auth import JWTAuthenticator
from analytics_hub.contracts import Handshake
from analytics_hub.demo.login import ACCOUNTS, refuse_login, respond_login
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


@pytest.mark.parametrize("name", ACCOUNTS)
@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/json", "text/plain"])
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
        ("nobody", ""),
        ("nobody", "nobody"),
        ("", ""),
        ("é", "ü"),
    ],
)
def test_wrong_credentials_get_one_message(username: str, password: str) -> None:
    response = post({"username": username, "password": password})

    assert response.status == 401
    assert error(response) == "wrong username or password"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"username=admin&password=admin", b"[" * 4000, b"\xff", [], None, {}, {"username": "admin"},
     {"username": "admin", "password": 1}, {"username": ["admin"], "password": "admin"}],
    ids=lambda body: repr(body)[:24],
)  # fmt: skip
def test_a_malformed_body_is_answered_with_what_is_right(body: bytes | object) -> None:
    response = post(body)

    assert response.status == 400
    assert '{"username":"admin","password":"admin"}' in error(response)


def test_a_large_body_is_refused() -> None:
    assert post(b" " * 5000).status == 413


@given(st.binary(max_size=64))
def test_no_body_raises(body: bytes) -> None:
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
def test_a_name_that_was_made_to_point_here_gets_no_token(host: str, status: int) -> None:
    request = Request("POST", "/login", headers={"host": host}, body=b'{"username":"admin","password":"admin"}')
    local, everywhere = RESPOND(request), respond_login(SECRET, local_only=False)(request)

    assert local is not None
    assert local.status == status
    assert everywhere is not None
    assert everywhere.status == 200


def test_other_methods_and_paths() -> None:
    response = RESPOND(Request("GET", "/login"))

    assert response is not None
    assert response.status == 405
    assert ("Allow", "OPTIONS, POST") in response.headers
    assert RESPOND(Request("POST", "/login/")) is None


def test_where_strangers_could_log_in_it_says_why_not() -> None:
    response = refuse_login("not here")(Request("POST", "/login", body=b'{"username":"admin","password":"admin"}'))

    assert response is not None
    assert response.status == 403
    assert error(response) == "not here"


# --- pages ----------------------------------------------------------------------------------------------------------

FRIEND = "https://dashboard.example"


def ask(method: str, origin: str | None) -> tuple[int, dict[str, str]]:
    respond = respond_login(SECRET, origins=Origins([FRIEND]))
    headers = {"host": "localhost:7999"} | ({} if origin is None else {"origin": origin})
    response = respond(Request(method, "/login", headers=headers, body=b'{"username":"admin","password":"admin"}'))
    assert response is not None
    return response.status, dict(response.headers)


def test_pages_of_other_sites_get_no_token_but_those_that_are_named() -> None:
    assert [ask("POST", origin)[0] for origin in (None, "http://localhost:7999", FRIEND)] == [200, 200, 200]
    assert ask("POST", FRIEND)[1]["Access-Control-Allow-Origin"] == FRIEND
    assert "Access-Control-Allow-Origin" not in ask("POST", "http://localhost:7999")[1]
    for origin in ("https://evil.example", "null"):
        status, headers = ask("POST", origin)
        assert (status, "Access-Control-Allow-Origin" in headers) == (403, False)


def test_a_page_that_is_named_has_its_preflight_answered() -> None:
    status, headers = ask("OPTIONS", FRIEND)

    assert (status, headers["Access-Control-Allow-Methods"]) == (204, "POST, OPTIONS")
    assert ask("OPTIONS", "https://evil.example")[0] == 403
