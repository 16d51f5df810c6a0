"""The plain HTTP next to the socket, as functions from a request to a response."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from analytics_hub.http import Request, Respond, Response, compose, json_response, respond_health, respond_page, route


class Hub:
    """The part of a hub that `/healthz` reads."""

    is_draining = False


def answer(respond: Respond, method: str, path: str) -> Response:
    response = respond(Request(method, path))
    assert response is not None
    return response


def test_health_is_503_while_the_hub_drains() -> None:
    hub = Hub()
    respond = respond_health(hub)

    healthy = answer(respond, "GET", "/healthz")
    hub.is_draining = True
    draining = answer(respond, "GET", "/healthz")

    assert (healthy.status, json.loads(healthy.body)) == (200, {"status": "ok"})
    assert (draining.status, json.loads(draining.body)) == (503, {"status": "draining"})
    assert ("Cache-Control", "no-store") in draining.headers
    assert draining.content_type == "application/json"


@pytest.mark.parametrize("path", ["/", "/healthz/", "/healthz/x", "//healthz", ""])
def test_a_route_has_no_answer_for_other_paths(path: str) -> None:
    assert respond_health(Hub())(Request("GET", path)) is None


def test_head_has_the_headers_of_get() -> None:
    respond = respond_health(Hub())

    assert answer(respond, "HEAD", "/healthz") == answer(respond, "GET", "/healthz")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
def test_other_methods_are_refused_with_those_allowed(method: str) -> None:
    response = answer(respond_health(Hub()), method, "/healthz")

    assert response.status == 405
    assert dict(response.headers)["Allow"] == "GET, HEAD"
    assert b"GET, HEAD" in response.body


def test_a_route_without_get_has_no_head() -> None:
    respond = route("/x", {"POST": lambda request: json_response(200, len(request.body))})

    assert dict(answer(respond, "HEAD", "/x").headers)["Allow"] == "POST"
    assert answer(respond, "POST", "/x").body == b"0\n"


def test_composed_parts_are_called_in_turn() -> None:
    first = route("/a", {"GET": lambda request: Response(200, b"first")})
    second = compose(
        route("/a", {"GET": lambda request: Response(200, b"second")}),
        route("/b", {"GET": lambda request: Response(200, b"b")}),
    )
    respond = compose(first, second)

    assert answer(respond, "GET", "/a").body == b"first"
    assert answer(respond, "GET", "/b").body == b"b"
    assert respond(Request("GET", "/c")) is None
    assert compose()(Request("GET", "/a")) is None


def test_a_page_allows_only_its_own_script_and_style() -> None:
    script, style = "let x = '</' + 'b>';\n", "p { color: red }"
    html = f"<!doctype html><style>{style}</style><p>Grüße</p><script>{script}</script>"

    response = answer(respond_page("/", html), "GET", "/")
    headers = dict(response.headers)
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))

    assert response.body.decode() == html
    assert response.content_type == "text/html; charset=utf-8"
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    for text, directive in ((script, "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_a_page_without_script_allows_none() -> None:
    headers = dict(answer(respond_page("/", "<p>x</p>"), "GET", "/").headers)

    assert "script-src 'none'" in headers["Content-Security-Policy"]


def test_repr_shows_no_secrets() -> None:
    request = Request("POST", "/login", "token=hidden", {"authorization": "hidden"}, b"hidden")

    assert "hidden" not in repr(request)
    assert "hidden" not in repr(Response(200, b"hidden"))
