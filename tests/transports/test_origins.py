"""The origins of pages that may connect, and of those that may read the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analytics_hub.contracts import Handshake
from analytics_hub.exceptions import OriginNotAllowed
from analytics_hub.transports._origins import Origin, Origins, parse_origin, preflight

FRIEND = "https://friend.example"


@pytest.mark.parametrize(
    ("origin", "host", "is_allowed"),
    [
        (None, "hub.example", True),
        ("http://hub.example", "hub.example", True),
        ("https://hub.example", "hub.example", True),  # TLS may end in a proxy
        ("http://hub.example:80", "hub.example", True),
        ("https://hub.example", "hub.example:443", True),
        ("http://HUB.example", "hub.EXAMPLE", True),
        ("http://127.0.0.1:7999", "127.0.0.1:7999", True),
        ("http://[::1]:7999", "[::1]:7999", True),
        ("http://[0:0::1]", "[::1]", True),
        ("https://friend.example", "hub.example", True),
        ("HTTPS://Friend.Example:443", "hub.example", True),
        ("https://friend.example:8443", "hub.example", False),
        ("http://friend.example", "hub.example", False),
        ("http://hub.example:7999", "hub.example", False),
        ("http://hub.example", "hub.example:7999", False),
        ("https://hub.example", "hub.example:80", False),
        ("https://evil.example", "hub.example", False),
        ("https://friend.example.evil.example", "hub.example", False),
        ("https://evil-friend.example", "hub.example", False),
        ("https://sub.friend.example", "hub.example", False),
        ("https://friend.example.", "hub.example", False),
        ("https://hub.example/path", "hub.example", False),
        ("https://friend.example/", "hub.example", False),
        ("https://x@friend.example", "hub.example", False),
        ("https://friend.example, https://friend.example", "hub.example", False),
        ("https://friend.example\n", "hub.example", False),
        ("https://fr\u0131end.example", "hub.example", False),
        ("null", "hub.example", False),
        ("", "", False),
        ("http://", "", False),
        ("file://", "hub.example", False),
        ("http://hub.example:port", "hub.example", False),
        ("http://hub.example:99999", "hub.example:99999", False),
        ("http://[hub", "hub.example", False),
        ("http://[::g]", "[::g]", False),
        ("http://hub.example", "hub.example:port", False),
        ("chrome-extension://hub.example", "hub.example", False),
    ],
)
def test_which_origins_are_admitted(origin: str | None, host: str, is_allowed: bool) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})

    assert Origins([FRIEND]).admits(headers, is_secure=False) is is_allowed


def test_a_page_without_tls_is_refused_where_tls_ends_here() -> None:
    assert Origins().admits({"host": "hub", "origin": "https://hub"}, is_secure=True)
    assert not Origins().admits({"host": "hub", "origin": "http://hub"}, is_secure=True)


@pytest.mark.parametrize(
    ("site", "is_allowed"), [("cross-site", False), ("same-site", False), ("same-origin", True), ("none", True)]
)
def test_an_image_in_a_page_of_another_site_is_refused(site: str, is_allowed: bool) -> None:
    """Browsers send no origin with it, but the cookies of the user."""
    assert Origins([FRIEND]).admits({"host": "hub", "sec-fetch-site": site}, is_secure=False) is is_allowed


def test_a_required_origin_refuses_requests_without_one() -> None:
    pages = Origins([FRIEND], required=True)

    assert not pages.admits({"host": "hub"}, is_secure=False)
    assert not pages.admits({"host": "hub", "sec-fetch-site": "cross-site"}, is_secure=False)
    assert pages.admits({"host": "hub", "origin": FRIEND}, is_secure=False)
    # As browsers mark a GET of a page of the server itself, such as an `EventSource`.
    assert pages.admits({"host": "hub", "sec-fetch-site": "same-origin"}, is_secure=False)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("*", "it would admit every page of every site"),
        ("null", "every sandboxed page of every site has this origin"),
        ("friend.example", "it must be a scheme, a host and"),
        ("https://", "it must be a scheme, a host and"),
        ("https://friend.example/", "it must be a scheme, a host and"),
        ("https://friend.example/dashboard", "it must be a scheme, a host and"),
        ("https://friend.example?x", "it must be a scheme, a host and"),
        ("https://*.friend.example", "it must be a scheme, a host and"),
        ("https://me@friend.example", "it must be a scheme, a host and"),
        ("https://friend.example:0x1", "it must be a scheme, a host and"),
        ("https://friend.example:65536", "it must be a scheme, a host and"),
        ("https://m\u00fcnchen.example", "it must be a scheme, a host and"),
        (" https://friend.example", "it must be a scheme, a host and"),
        ("", "it must be a scheme, a host and"),
    ],
)
def test_an_invalid_origin_raises_in_the_constructor(entry: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^origin .*: {reason}"):
        Origins([FRIEND, entry])


def test_origins_must_be_a_list() -> None:
    with pytest.raises(TypeError, match=r"^origins is the text 'https://friend\.example'; it must be a list"):
        Origins(FRIEND)


def test_origins_of_native_applications_can_be_allowed() -> None:
    pages = Origins(["capacitor://localhost", "chrome-extension://abcdefghijklmnop"])

    assert pages.admits({"host": "hub", "origin": "capacitor://localhost"}, is_secure=True)
    assert not pages.admits({"host": "hub", "origin": "capacitor://localhost:1"}, is_secure=True)


# --- reading the answer


def test_only_allowed_origins_may_read_an_answer() -> None:
    pages = Origins([FRIEND])

    assert dict(pages.share({"host": "hub", "origin": FRIEND})) == {
        "Access-Control-Allow-Origin": FRIEND,
        "Access-Control-Allow-Credentials": "true",
    }
    for origin in ("https://evil.example", "null", "https://hub", "*", f"{FRIEND}\r\nX: y"):
        assert dict(pages.share({"host": "hub", "origin": origin})) == {}
    assert dict(pages.share({"host": "hub"})) == {}


def test_a_preflight_is_answered_with_methods_and_headers() -> None:
    headers = dict(preflight({"origin": FRIEND}, ("POST",)))

    assert headers["Access-Control-Allow-Methods"] == headers["Allow"] == "POST, OPTIONS"
    assert "authorization" in headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Methods" not in dict(preflight({}, ("POST",)))


# --- every site


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "\x00"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://hub:8080"},
    ],
    ids=str,
)
def test_public_data_is_open_to_every_site_without_the_session_of_its_user(headers: dict[str, str]) -> None:
    pages = Origins("every-site")
    sent = headers | {"host": "hub", "cookie": "session=1", "x": "y"}
    handshake = Handshake(token="t", headers=sent, scope={"session": {"user": "ann"}}, client="203.0.113.7")

    pages.check(sent, is_secure=False)
    limited = pages.without_session(handshake, is_secure=False)

    assert limited == replace(handshake, headers=headers | {"host": "hub", "x": "y"}, scope=None)
    assert dict(pages.share(sent)) == {"Vary": "Origin", "Access-Control-Allow-Origin": "*"}


@pytest.mark.parametrize("headers", [{"origin": "http://hub"}, {}, {"sec-fetch-site": "same-origin"}], ids=str)
def test_pages_of_the_server_itself_keep_the_session_of_their_user(headers: dict[str, str]) -> None:
    handshake = Handshake(headers=headers | {"host": "hub", "cookie": "session=1"}, scope={"session": {}})

    for pages in (Origins("every-site"), Origins([FRIEND])):
        assert pages.without_session(handshake, is_secure=False) is handshake


def test_a_listed_page_keeps_the_session_of_its_user() -> None:
    handshake = Handshake(headers={"origin": FRIEND, "host": "hub", "cookie": "session=1"}, scope={"session": {}})

    assert Origins([FRIEND]).without_session(handshake, is_secure=False) is handshake


def test_every_site_is_written_out_and_may_still_require_an_origin() -> None:
    for text in ("*", "EVERY-SITE", "every site", ""):
        with pytest.raises(TypeError, match="'every-site' if all data is public"):
            Origins(text)
    assert not Origins("every-site", required=True).admits({"host": "hub"}, is_secure=False)
    assert Origins("every-site", required=True).admits({"host": "hub", "origin": "null"}, is_secure=False)


# --- what the operator is told


def explain(headers: dict[str, str], *, allowed: Sequence[str] = (), is_secure: bool = False, **options: bool) -> str:
    with pytest.raises(OriginNotAllowed) as refused:
        Origins(allowed, **options).check(headers, is_secure=is_secure)
    assert str(refused.value) == refused.value.public_message == "this origin is not allowed"
    return refused.value.log_message


NGINX = "(nginx: `proxy_set_header Host $http_host;`, not `$host`, which has no port)"


def test_the_log_has_the_origin_the_host_what_is_allowed_and_the_remedy() -> None:
    message = explain({"origin": "http://Localhost:5173", "host": "localhost:8000"}, allowed=[FRIEND])

    assert message == (
        "a page was refused: its Origin is http://Localhost:5173, the Host as seen here is localhost:8000; allowed: "
        "http://localhost:8000, https://localhost:8000, https://friend.example. "
        'If the page is yours, pass origins=["http://localhost:5173"]; if it has the address of this server, '
        f"a proxy in front must pass on the Host {NGINX}"
    )


@pytest.mark.parametrize(
    ("origin", "host", "is_secure", "remedy"),
    [
        (
            "http://dash.example.com:8080",
            "dash.example.com",
            False,
            (
                f"A proxy may have lost the port: it must pass on the Host as it is {NGINX}. "
                'If the page is yours, pass origins=["http://dash.example.com:8080"]'
            ),
        ),
        (
            "http://[::1]:8080",
            "[::1]",
            False,
            (
                f"A proxy may have lost the port: it must pass on the Host as it is {NGINX}. "
                'If the page is yours, pass origins=["http://[::1]:8080"]'
            ),
        ),
        (
            "https://dash.example.com",
            "",
            False,
            (
                'If the page is yours, pass origins=["https://dash.example.com"]; '
                f"a proxy in front must pass on the Host that it receives {NGINX}"
            ),
        ),
        (
            "http://dash.example.com",
            "dash.example.com",
            True,
            (
                "The page was loaded without TLS: load it by https. "
                'If the page is yours, pass origins=["http://dash.example.com"]'
            ),
        ),
        (
            "null",
            "localhost:7999",
            False,
            (
                "A page from a file or in a sandbox has this origin: serve it over HTTP, "
                "from this server for instance, or if all data is public, pass origins='every-site'"
            ),
        ),
        ("https://x/path", "localhost:7999", False, "This is not an origin that can be allowed"),
    ],
)
def test_the_log_names_the_likely_cause(origin: str, host: str, is_secure: bool, remedy: str) -> None:
    assert explain({"origin": origin, "host": host}, is_secure=is_secure).partition(". ")[2] == remedy


def test_the_log_names_what_sent_no_origin() -> None:
    assert "its Sec-Fetch-Site is cross-site" in explain({"host": "hub", "sec-fetch-site": "cross-site"})
    assert "requires_origin=True admits browsers only" in explain({"host": "hub"}, required=True)


@given(st.text(max_size=400), st.text(max_size=400), st.booleans())
@example("https://evil.example\nERROR all is lost", "h\r\n", False)
@example("https://" + "a" * 10_000, "b" * 10_000, True)
def test_what_a_peer_sends_is_escaped_and_cut_in_the_log(origin: str, host: str, is_secure: bool) -> None:
    headers = {"origin": origin, "host": host}
    if Origins().admits(headers, is_secure=is_secure):
        return
    message = explain(headers, is_secure=is_secure)

    assert message.isprintable()
    assert len(message) < 1200


@given(st.sampled_from(["https://a.example", "http://a.example:8080", "http://[::1]:1", "app://x", "https://a:80"]))
def test_the_remedy_admits_the_page(origin: str) -> None:
    message = explain({"origin": origin, "host": "hub"})
    remedy = message.partition("origins=[")[2].partition("]" if "[::1]" not in origin else '"]')[0].strip('"')

    assert Origins([remedy]).admits({"origin": origin, "host": "hub"}, is_secure=False)


# --- any origin

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Written:
    """An origin, and one of the ways to write it."""

    meant: tuple[str, str, int | None]
    text: str


@st.composite
def origins(draw: st.DrawFn) -> Written:
    scheme = draw(st.sampled_from(["http", "https", "app"]))
    host = draw(st.sampled_from(["a.example", "b.example", "a.example.b.example", "127.0.0.1", "[::1]", "a"]))
    port = draw(st.sampled_from([None, 80, 443, 8443]))
    text = f"{scheme}://{host}" + ("" if port is None else f":{port}")
    if draw(st.booleans()):
        text = text.upper()
    return Written((scheme, host, PORTS.get(scheme) if port is None else port), text)


@given(st.lists(origins(), max_size=4), origins())
def test_an_origin_is_admitted_if_and_only_if_it_is_allowed(allowed: list[Written], sent: Written) -> None:
    pages = Origins([each.text for each in allowed])
    is_allowed = sent.meant in [each.meant for each in allowed]

    assert pages.admits({"host": "hub.example", "origin": sent.text}, is_secure=False) is is_allowed
    assert ("Access-Control-Allow-Origin" in dict(pages.share({"origin": sent.text}))) is is_allowed


@given(
    st.text(max_size=40) | st.text(alphabet="htps:/.[]@a0-_%\\?#\t\r\n ", max_size=20).map(lambda text: FRIEND + text)
)
@example(FRIEND)
@example(f"{FRIEND}:443")
def test_any_text_is_an_exact_origin_or_refused(text: str) -> None:
    origin = parse_origin(text)
    is_friend = Origins([FRIEND]).admits({"host": "hub.example", "origin": text}, is_secure=True)

    assert is_friend is (origin in (Origin("https", "friend.example", 443), Origin("https", "hub.example", 443)))
    if origin is not None:
        assert text.isascii()
        assert parse_origin(text.swapcase()) == origin
        assert not any(map(str.isspace, text))
