"""URLs of a hub."""

from __future__ import annotations

import pytest

from analytics_hub.client.target import Target


@pytest.mark.parametrize(
    ("url", "shown", "authority"),
    [
        ("ws://localhost:7999", "ws://localhost:7999/ws/analytics", "localhost:7999"),
        ("ws://localhost/", "ws://localhost:80/ws/analytics", "localhost"),
        ("wss://hub.example/push?x=1", "wss://hub.example:443/push?x=1", "hub.example"),
        ("wss://hub.example:7999/", "wss://hub.example:7999/ws/analytics", "hub.example:7999"),
        ("ws://[::1]:7999/ws", "ws://[::1]:7999/ws", "[::1]:7999"),
        ("ws://münchen.example/", "ws://xn--mnchen-3ya.example:80/ws/analytics", "xn--mnchen-3ya.example"),
    ],
)
def test_valid_urls(url: str, shown: str, authority: str) -> None:
    target = Target.parse(url)

    assert target.url == shown
    assert target.authority == authority


def test_the_token_of_a_url_is_kept_apart_and_not_shown() -> None:
    target = Target.parse("ws://localhost:7999/ws/analytics?a=1&token=hidden")

    assert target.token == "hidden"
    assert target.resource == "/ws/analytics?a=1"
    assert "hidden" not in f"{target!r} {target.url}"


@pytest.mark.parametrize(
    "url", ["", "localhost:7999", "http://localhost", "ws://", "ws://:7999", "ws://x:99999", "ws://x:y", "ws://[x"]
)
def test_invalid_urls(url: str) -> None:
    with pytest.raises(ValueError, match="must begin with ws://"):
        Target.parse(url)


@pytest.mark.parametrize("url", ["ws://x/a b", "ws://x/ü", "ws://x/a\x7f"])
def test_paths_that_need_percent_encoding(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded"):
        Target.parse(url)
