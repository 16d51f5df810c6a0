from __future__ import annotations

from typing import Any

import pytest

from analytics_hub.channels import Channel, check_name, check_type, matches, shorten
from analytics_hub.exceptions import InvalidChannel
from analytics_hub.identity import Identity


@pytest.mark.parametrize("name", ["a", "A-Z_a.z:0/9", "x" * 255])
def test_a_legal_name_comes_back(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a\n", "ä", "a*", "x" * 256, None, 5, b"a"])
def test_an_invalid_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidChannel, match=r"^channel name .* is not 1 to 255 characters of A-Z a-z 0-9"):
        check_name(name)


def test_a_refused_name_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidChannel) as caught:
        check_name("!" * 100_000)

    assert len(str(caught.value)) < 200


def test_shorten_keeps_short_values() -> None:
    assert shorten("abc") == "'abc'"
    assert shorten(5) == "5"
    assert shorten("abcdef", 3) == "'ab...'"


@pytest.mark.parametrize("name", ["*", "user:*", "user:42"])
def test_a_channel_is_a_name_or_a_pattern(name: str) -> None:
    assert Channel(name).is_pattern == name.endswith("*")


@pytest.mark.parametrize("name", ["", "a*b", "**", "*a", "a b*", "user:**"])
def test_a_star_may_only_be_the_end(name: str) -> None:
    with pytest.raises(InvalidChannel):
        Channel(name)


def test_an_unknown_mode_is_refused_with_the_known_modes() -> None:
    mode: Any = "queue"

    with pytest.raises(InvalidChannel, match=r"mode 'queue'; the modes are events, table, latest, durable$"):
        Channel("a", mode=mode)


def test_only_a_table_has_a_key() -> None:
    assert Channel("a", mode="table", key="id").key == "id"
    with pytest.raises(InvalidChannel, match=r"has the key 'id'; only a channel of mode 'table' has keys$"):
        Channel("a", mode="latest", key="id")


def test_roles_are_a_set_of_names() -> None:
    roles: Any = ["admin", "admin"]

    assert Channel("a", roles=roles).roles == frozenset({"admin"})


def test_roles_must_not_be_one_text() -> None:
    roles: Any = "admin"

    with pytest.raises(InvalidChannel, match=r"must be a set of names, not the text 'admin'$"):
        Channel("a", roles=roles)


@pytest.mark.parametrize("type_", ["", "$gap", 5])
def test_an_invalid_type_is_refused(type_: Any) -> None:
    with pytest.raises(InvalidChannel, match="must be a text that is not empty and does not start with"):
        Channel("a", type=type_)
    with pytest.raises(InvalidChannel):
        check_type(type_)


def test_a_legal_type_comes_back() -> None:
    assert check_type("lp-metrics") == "lp-metrics"
    assert Channel("a", type="lp-metrics").type == "lp-metrics"


@pytest.mark.parametrize(
    ("field", "value"), [("max_keys", 0), ("keep_items", 0), ("keep_bytes", 0), ("keep_seconds", -1)]
)
def test_bounds_of_a_log_have_a_minimum(field: str, value: int) -> None:
    options: dict[str, Any] = {field: value}
    allowed: dict[str, Any] = {field: value + 1}

    with pytest.raises(InvalidChannel, match=f"^{field} of channel 'a' is {value}; it must be at least {value + 1}$"):
        Channel("a", mode="table", **options)
    assert getattr(Channel("a", **allowed), field) == value + 1


def test_a_name_matches_itself_and_the_patterns_it_begins_with() -> None:
    assert matches("user:1", "user:1")
    assert not matches("user:1", "user:12")
    assert matches("user:*", "user:12")
    assert not matches("user:*", "users")


def test_a_channel_without_roles_admits_everyone() -> None:
    assert Channel("a").admits(Identity(id="x"), "a")


def test_one_role_in_common_is_enough() -> None:
    channel = Channel("a", roles=frozenset({"admin", "risk"}))

    assert channel.admits(Identity(id="x", roles=frozenset({"risk", "desk"})), "a")
    assert not channel.admits(Identity(id="x", roles=frozenset({"desk"})), "a")
    assert not channel.admits(Identity(id="x"), "a")


def test_an_identity_may_be_narrowed_to_channels() -> None:
    identity = Identity(id="x", channels=("a", "user:*"))

    assert Channel("a").admits(identity, "a")
    assert Channel("user:*").admits(identity, "user:9")
    assert not Channel("b").admits(identity, "b")
    assert not Channel("b", roles=frozenset({"r"})).admits(Identity(id="x", roles=frozenset({"r"}), channels=()), "b")


@pytest.mark.parametrize(
    ("publishers", "reach", "may"),
    [
        (set(), None, False),
        ({"service"}, None, True),
        ({"other"}, None, False),
        ({"other", "service"}, ("user:*",), True),
        ({"service"}, ("user:2",), False),
    ],
)
def test_publishing_over_the_network_needs_a_role_and_reach(
    publishers: set[str], reach: tuple[str, ...] | None, may: bool
) -> None:
    identity = Identity(id="a", roles=frozenset({"service"}), channels=reach)

    assert Channel("user:*", publishers=frozenset(publishers)).takes_from(identity, "user:1") is may
