"""The places that a URL of a hub may mean."""

from __future__ import annotations

import pytest

from analytics_hub.client.target import ENDPOINTS, Address
from analytics_hub.transports._http import endpoints


@pytest.mark.parametrize(
    ("url", "socket", "mount", "authority"),
    [
        ("ws://localhost:7999", "ws://localhost:7999/ws/analytics", "http://localhost:7999/", "localhost:7999"),
        ("http://localhost/", "ws://localhost:80/ws/analytics", "http://localhost:80/", "localhost"),
        ("wss://h/hub?x=1", "wss://h:443/hub/ws/analytics?x=1", "https://h:443/hub?x=1", "h"),
        ("https://h:7999/hub/ws", "wss://h:7999/hub/ws", "https://h:7999/hub/ws", "h:7999"),
        ("ws://h/hub/ws/analytics", "ws://h:80/hub/ws/analytics", "http://h:80/hub/ws/analytics", "h"),
        ("http://h/hub/publish", "ws://h:80/hub/ws/analytics", "http://h:80/hub", "h"),
        ("http://h/events?channels=a&x=1", "ws://h:80/ws/analytics?x=1", "http://h:80/?x=1", "h"),
        ("ws://[::1]:7999/ws", "ws://[::1]:7999/ws", "http://[::1]:7999/ws", "[::1]:7999"),
        ("ws://ü.example/", "ws://xn--tda.example:80/ws/analytics", "http://xn--tda.example:80/", "xn--tda.example"),
    ],
)  # fmt: skip
def test_the_first_places_to_try(url: str, socket: str, mount: str, authority: str) -> None:
    address = Address.parse(url)

    assert address.sockets[0].url == socket
    assert address.mounts[0].url == mount
    assert address.sockets[0].authority == address.mounts[0].authority == authority


def test_a_path_of_the_application_may_be_a_mount_or_a_socket() -> None:
    address = Address.parse("ws://h/api/live/")

    assert [place.resource for place in address.sockets] == ["/api/live/ws/analytics", "/api/live/ws", "/api/live/"]
    assert [place.resource for place in address.mounts] == ["/api/live", "/api"]

    assert [place.resource for place in Address.parse("ws://h/hub/ws").mounts] == ["/hub/ws", "/hub"]


def test_each_place_is_tried_once() -> None:
    for url in ("http://h", "http://h/", "ws://h/ws", "ws://h/hub/ws/analytics", "http://h/events"):
        address = Address.parse(url)
        assert len(set(address.sockets)) == len(address.sockets)
        assert len(set(address.mounts)) == len(address.mounts)


def test_the_paths_are_those_of_the_hub() -> None:
    assert set(endpoints._METHODS) == ENDPOINTS


def test_a_path_below_a_mount_keeps_the_query() -> None:
    (mount, *_) = Address.parse("http://h/hub/?tenant=a").mounts

    assert mount.below("/publish") == "/hub/publish?tenant=a"


def test_the_token_of_a_url_is_kept_apart_and_not_shown() -> None:
    address = Address.parse("ws://localhost:7999/ws/analytics?a=1&token=hidden")

    assert address.token == "hidden"
    assert address.sockets[0].resource == "/ws/analytics?a=1"
    assert "hidden" not in repr(address)


@pytest.mark.parametrize(
    "url", ["", "localhost:7999", "ftp://localhost", "ws://", "ws://:7999", "ws://x:99999", "ws://x:y", "ws://[x"]
)
def test_invalid_urls(url: str) -> None:
    with pytest.raises(ValueError, match="must begin with http://, https://, ws:// or wss://"):
        Address.parse(url)


@pytest.mark.parametrize("url", ["ws://x/a b", "ws://x/ü", "ws://x/a\x7f", "ws://x/a?b=ü"])
def test_paths_that_need_percent_encoding(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded"):
        Address.parse(url)
