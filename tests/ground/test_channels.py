from __future__ import annotations

import re
from collections import deque
from typing import Any

import msgspec
import pydantic
import pytest
from markupsafe import Markup

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


def test_shorten_never_raises() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise ValueError("no words")

    assert shorten(10**5000) == "a number of thousands of digits"
    assert shorten(Silent()) == "a value of type Silent"


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


@pytest.mark.parametrize("key", ["", 5, b"id", "\ud800"], ids=["empty", "number", "bytes", "surrogate"])
def test_an_invalid_key_is_refused(key: Any) -> None:
    with pytest.raises(InvalidChannel, match=r"^key "):
        Channel("a", mode="table", key=key)


def test_a_type_must_be_a_text_that_can_be_sent() -> None:
    with pytest.raises(InvalidChannel, match="UTF-8"):
        Channel("a", type="\ud800")


class Unresolved(msgspec.Struct):
    other: "Missing"  # type: ignore[name-defined]  # noqa: F821, UP037


class Node(msgspec.Struct):
    children: list["Node"]  # noqa: UP037
    model: pydantic.BaseModel | None = None


class Nested(msgspec.Struct):
    node: Node
    odd: dict[str, tuple[deque[int], ...]]


BAD_SCHEMAS: dict[str, tuple[Any, str]] = {
    "no type": (object(), "is not supported"),
    "a class": (complex, "cannot decode complex; use a struct, a dataclass, a TypedDict or a pydantic model"),
    "a class within": (Nested, "cannot decode deque"),
    "a class in a list": (list[Markup], "cannot decode Markup"),
    "a name that is not defined": (Unresolved, "Missing"),
    "a union that msgspec cannot tell apart": (Node | dict[str, int], "more than one dict-like type"),
    "a union of two models": (pydantic.BaseModel | pydantic.RootModel[int], "more than one custom type"),
}


@pytest.mark.parametrize(("schema", "reason"), BAD_SCHEMAS.values(), ids=BAD_SCHEMAS.keys())
def test_a_schema_that_cannot_be_decoded_is_refused(schema: Any, reason: str) -> None:
    with pytest.raises(InvalidChannel, match=r"^the schema of channel 'odd' cannot be decoded: .*" + re.escape(reason)):
        Channel("odd", schema=schema)


@pytest.mark.parametrize("schema", [int, Any, Node, list[pydantic.BaseModel], dict[str, pydantic.RootModel[int]]])
def test_a_schema_may_be_whatever_can_be_decoded(schema: Any) -> None:
    assert Channel("fine", schema=schema).schema is schema


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
