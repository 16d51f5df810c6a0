"""The AsyncAPI document and the JSON Schemas, also checked by the official parser."""

from __future__ import annotations

import enum
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, NamedTuple

import jsonschema
import msgspec
import pydantic
import pytest

from analytics_hub import Channel, Hub, anonymous
from analytics_hub.asyncapi import describe
from analytics_hub.asyncapi.schemas import json_schemas
from analytics_hub.cli import main
from analytics_hub.trading import CHANNELS

from ..project.layout import ROOT
from ..support.programs import go_without, need

PARSER = ROOT / "tests" / "asyncapi"
RENEW = "analytics-hub asyncapi --url ws://localhost:7999/ws/analytics"


class Corner(NamedTuple):
    x: int
    y: float = 0.5


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(msgspec.Struct, tag="line"):
    """Two corners.

    The second paragraph is indented in the source.
    """

    ends: tuple[Corner, Corner]
    colour: Annotated[Colour, msgspec.Meta(description="of the pen")] = Colour.RED
    discriminator: int = 0
    """A name that is a keyword of schemas."""


class Dot(msgspec.Struct, tag="dot", array_like=False):
    at: Corner
    items: list[int] = msgspec.field(default_factory=list)


class Position(msgspec.Struct):
    """Has the name of a type of the protocol."""

    raw: msgspec.Raw
    share: float = float("inf")


@dataclass
class Order:
    symbol: str
    positions: list[Position] = field(default_factory=list)


class Quote(msgspec.Struct, array_like=True):
    bid: float
    ask: float | None = None


UNUSUAL = (
    Channel("shapes", schema=Line | Dot | None),
    Channel("user:*", schema=Order, publishers=frozenset({"secret-role"}), roles=frozenset({"other-role"})),
    Channel("user/member", schema=list[Quote], type="quote"),
    Channel("user.member", mode="latest", schema=int),
    Channel("a.b/c:*", mode="table", schema=Quote),
    Channel("*"),
    Channel("connection", mode="durable"),
    Channel("commands", mode="table", key="k"),
    Channel("::"),
)


def validator(schema: dict[str, Any]) -> jsonschema.Draft7Validator:
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def item(channel: str, data: object, **fields: object) -> dict[str, Any]:
    stamp = "2026-01-19T10:30:45.160Z"
    return {"channel": channel, "seq": 1, "type": "t", "timestamp": stamp, "data": data} | fields


# --- the official parser ----------------------------------------------------------------------------------------------


def problems(*documents: dict[str, Any]) -> list[list[str]]:
    """The problems that the official parser finds in each document."""
    node = need("node")
    if not (PARSER / "node_modules" / "@asyncapi" / "parser").is_dir():
        go_without("the AsyncAPI parser is not installed; to get it: npm --prefix tests/asyncapi ci")
    done = subprocess.run(
        [node, PARSER / "validate.mjs"], input=json.dumps(documents), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


def test_the_official_parser_accepts_the_documents() -> None:
    broken = describe(CHANNELS)
    broken["operations"]["deliver-alerts"]["messages"].append({"$ref": "#/channels/connection/messages/hello"})

    *sound, found = problems(
        describe(CHANNELS, server_url="wss://example.org"), describe(UNUSUAL), describe(MODELS), describe(()), broken
    )

    assert sound == [[], [], [], []]
    assert found, "the parser finds problems"


def test_its_packages_are_pinned_without_the_address_of_a_registry() -> None:
    lock = (PARSER / "package-lock.json").read_text()

    assert '"integrity"' in lock
    assert '"resolved"' not in lock


# --- the document -----------------------------------------------------------------------------------------------------


def test_the_committed_document_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RENEW.split()[1:]) == 0

    assert capsys.readouterr().out == (ROOT / "docs" / "asyncapi.json").read_text("utf-8"), f"regenerate it: {RENEW}"


def test_a_channel_is_described_with_its_mode_and_its_key() -> None:
    channel = describe(CHANNELS)["channels"]["lp-performance"]

    assert channel["address"] == "lp-performance"
    assert (channel["x-mode"], channel["x-key"]) == ("table", "lpName")
    assert list(channel["messages"]) == ["item", "deletion"]


def test_a_pattern_has_a_parameter() -> None:
    channel = describe([Channel("user:*")])["channels"]["user-member"]

    assert channel["address"] == "user:{member}"
    assert list(channel["parameters"]) == ["member"]


@pytest.mark.parametrize(
    ("channel", "good", "bad"),
    [
        (
            Channel("log", publishers=frozenset({"w"}), schema=int),
            [{"channel": "log", "data": 1}, {"channel": "log", "data": 1, "type": "t"}],
            [{"channel": "log"}, {"channel": "log", "data": "1"}, {"channel": "log", "data": 1, "key": "k"}],
        ),
        (
            Channel("t:*", mode="table", publishers=frozenset({"w"})),
            [{"channel": "t:1", "data": None, "key": "k"}, {"channel": "t:1", "key": "k", "deleted": True}],
            [{"channel": "t:1", "data": 1}, {"channel": "t:1", "key": "k"}, {"channel": "t:1", "deleted": True}],
        ),
        (
            Channel("t", mode="table", key="id", publishers=frozenset({"w"})),
            [{"channel": "t", "data": {"id": "k"}}, {"channel": "t", "data": 1, "key": "k"}],
            [{"channel": "t", "data": 1, "type": "$t"}, {"channel": "t", "data": 1, "key": ""}],
        ),
    ],
    ids=["events", "table", "keyed"],
)
def test_publications_over_http_are_described(channel: Channel, good: Sequence[Any], bad: Sequence[Any]) -> None:
    document = describe([channel, Channel("other")])

    operations = [one for one in document["operations"].values() if one["channel"]["$ref"].startswith("#/channels/pub")]
    assert [one["action"] for one in operations] == ["receive"]
    (publishing,) = [one for one in document["channels"].values() if one["address"] == "/publish"]
    check = validator({"oneOf": [message["payload"] for message in publishing["messages"].values()]})
    assert [value for value in good if not check.is_valid(value)] == []
    assert [value for value in bad if check.is_valid(value)] == []


def test_roles_are_left_out() -> None:
    document = json.dumps([describe(UNUSUAL), json_schemas(UNUSUAL), describe(CHANNELS)])

    assert not any(role in document for role in ("secret-role", "other-role", "monitor"))


def test_the_address_of_a_server_is_without_secrets() -> None:
    server = describe((), server_url="wss://name:word@example.org:8443/ws?token=abc")["servers"]["hub"]

    assert (server["host"], server["pathname"], server["protocol"]) == ("example.org:8443", "/ws", "wss")
    assert "servers" not in describe(())


@pytest.mark.parametrize("url", ["localhost:7999", "tcp://localhost", "ws:///path", ""])
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="it must be like ws://"):
        describe((), server_url=url)


def local_struct(default: object) -> type[Any]:
    class Local(msgspec.Struct):
        value: Any = default

    return Local


class Envelope(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")


class Unlucky(pydantic.BaseModel):
    callback: Callable[[], None] = print


class Raising(pydantic.BaseModel):
    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        raise KeyError("of the application")


INEXPRESSIBLE: dict[str, Any] = {
    "raw JSON with a default, a limitation of msgspec": Envelope,
    "two types of one name": GenericAlias(tuple, (local_struct(1), local_struct(2))),
    "a default of an unknown type": local_struct(1j),
    "a default with too many digits": local_struct(10**5000),
    "a default that UTF-8 cannot encode": local_struct("\ud800"),
    "a model that has no schema": Unlucky,
    "a model that raises": list[Raising],
    "a description that is no text": Annotated[int, msgspec.Meta(extra_json_schema={"description": 7})],
}


@pytest.mark.parametrize("schema", INEXPRESSIBLE.values(), ids=INEXPRESSIBLE.keys())
def test_a_schema_that_cannot_be_expressed_is_any_value_and_harms_no_other_channel(schema: Any) -> None:
    channels = [Channel("odd", schema=schema, publishers=frozenset({"w"})), Channel("even", schema=int)]

    document = describe(channels)
    schemas = json_schemas(channels)

    odd = document["channels"]["odd"]["messages"]["item"]["payload"]["properties"]["data"]
    assert odd == {"description": "Any value: the schema of this channel cannot be expressed."}
    validator(schemas["odd"]).validate(item("odd", {"any": "thing"}))
    assert not validator(schemas["even"]).is_valid(item("even", "text"))


def test_descriptions_are_the_same_in_every_version_of_python() -> None:
    line = describe(UNUSUAL)["components"]["schemas"]["Line"]

    assert line["description"] == "Two corners.\n\nThe second paragraph is indented in the source."


# --- models of pydantic -----------------------------------------------------------------------------------------------


class Venue(pydantic.BaseModel):
    name: str
    parent: Venue | None = None


class Fill(pydantic.BaseModel):
    """One trade."""

    price: Decimal
    venue: Venue
    tags: tuple[str, int] = ("a", 1)


class Report(msgspec.Struct):
    fills: list[Fill]
    position: Position


def same_name() -> Any:
    class Venue(pydantic.BaseModel):
        city: str

    return Venue


MODELS = (
    Channel("fill", schema=Fill, publishers=frozenset({"w"})),
    Channel("report", schema=Report, publishers=frozenset({"w"})),
    Channel("venues", schema=dict[str, Venue]),
    Channel("other", schema=same_name()),
    Channel("root", schema=pydantic.RootModel[list[int]]),
    Channel("maybe", schema=Venue | None),
)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("fill", {"price": "1.5", "venue": {"name": "A", "parent": {"name": "B"}}, "tags": ["x", 2]}, {"price": "1.5"}),
        ("fill", {"price": "1.5", "venue": {"name": "A"}}, {"price": "1.5", "venue": {"name": "A"}, "tags": [1]}),
        ("report", {"fills": [{"price": "1", "venue": {"name": "A"}}], "position": {"raw": 1}}, {"fills": [{}]}),
        ("venues", {"x": {"name": "A", "parent": None}}, {"x": {"city": "B"}}),
        ("other", {"city": "B"}, {"name": "A"}),
        ("root", [1, 2], {"root": [1]}),
        ("maybe", None, []),
    ],
)
def test_models_are_described_in_any_place(name: str, good: object, bad: object) -> None:
    check = validator(json_schemas(MODELS)[name])

    check.validate(item(name, good))
    assert not check.is_valid(item(name, bad))


def test_what_a_model_accepts_may_differ_from_what_it_shows() -> None:
    document = describe(MODELS)

    def data_of(id: str) -> jsonschema.Draft7Validator:
        payload = document["channels"][id]["messages"]["item"]["payload"]
        return validator(payload["properties"]["data"] | {"components": document["components"]})

    venue = {"name": "A"}
    assert data_of("publish:fill").is_valid({"price": 1.5, "venue": venue})
    assert not data_of("fill").is_valid({"price": 1.5, "venue": venue})
    assert data_of("publish:report").is_valid({"fills": [{"price": 1.5, "venue": venue}], "position": {"raw": 1}})
    assert not data_of("report").is_valid({"fills": [{"price": 1.5, "venue": venue}], "position": {"raw": 1}})


def test_every_reference_has_its_component() -> None:
    document = describe([*MODELS, *UNUSUAL])

    names = set(re.findall(r'"#/components/schemas/([^"]*)"', json.dumps(document)))
    assert names == set(document["components"]["schemas"])
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)


# --- one schema for each channel --------------------------------------------------------------------------------------


def test_every_channel_has_a_schema() -> None:
    assert list(json_schemas(UNUSUAL)) == [
        "commands",
        "control",
        "shapes",
        "user-member",
        "user-member-2",
        "user.member",
        "a.b-c-member",
        "member",
        "connection-2",
        "commands-2",
        "channel",
    ]


def test_a_schema_has_the_definitions_that_it_refers_to() -> None:
    schemas = json_schemas(UNUSUAL)

    assert set(schemas["shapes"]["definitions"]) == {"Line", "Dot", "Corner", "Colour"}
    assert schemas["channel"]["definitions"] == {}
    assert all("$ref" not in json.dumps(schemas[name]) for name in ("channel", "user.member"))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("shapes", [{"type": "line", "ends": [[1, 2.5], [3]]}, None], [{"type": "line", "ends": [[1], [2], [3]]}, {}]),
        ("shapes", [{"type": "dot", "at": [1]}], [{"type": "dot", "at": [1, 2, 3]}, {"type": "blot", "at": [1]}]),
        ("shapes", [{"type": "line", "ends": [[1], [2]], "colour": "blue"}], [{"type": "line", "ends": [[1], ["2"]]}]),
        ("user-member-2", [[[1.5, 2]], [[1.5]], []], [[[]], [["1"]], {}]),
        ("user.member", [3], [None, "3", 3.5]),
        ("channel", [3, None, {"any": ["thing"]}], []),
    ],
)
def test_data_is_valid_if_msgspec_accepts_it(name: str, good: Sequence[Any], bad: Sequence[Any]) -> None:
    channel = {"user-member-2": "user/member", "channel": "::"}.get(name, name)
    schema = {each.name: each for each in UNUSUAL}[channel].schema or Any
    check = validator(json_schemas(UNUSUAL)[name])

    for data in good:
        msgspec.convert(data, schema)
        check.validate(item(channel, data))
    for data in bad:
        assert not check.is_valid(item(channel, data))
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(data, schema)


def test_items_and_deletions_of_a_pattern_are_distinguished() -> None:
    check = validator(json_schemas(UNUSUAL)["a.b-c-member"])

    assert check.is_valid(item("a.b/c:7", [1.0], key="k"))
    assert check.is_valid(item("a.b/c:7", None, key="k", deleted=True))
    assert not check.is_valid(item("a.b/c:7", [1.0], key="k", deleted=True))
    assert not check.is_valid(item("a.b/c:7", None, key="k"))
    assert not check.is_valid(item("a.b/c:7", [1.0]))
    assert not check.is_valid(item("axb/c:7", [1.0], key="k"))


# --- the command ------------------------------------------------------------------------------------------------------

APP = """
from analytics_hub import Channel, Hub, anonymous

channels = [Channel("mine", schema=int)]
hub = Hub(channels, authenticate=anonymous)
nothing = []

class State:
    hub = hub

def make_hub():
    return hub
"""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "sample_app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "sample_app", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["channels", "hub", "make_hub", "State.hub"])
def test_the_channels_of_an_application(app: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["asyncapi", f"sample_app:{name}", "--title", "Mine", "--api-version", "7"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document == describe([Channel("mine", schema=int)], title="Mine", version="7")


def test_schemas_go_into_a_folder(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["asyncapi", "sample_app:hub", "--schemas", "made/there"]) == 0

    assert capsys.readouterr().out == ""
    written = {path.stem: json.loads(path.read_text()) for path in (app / "made" / "there").iterdir()}
    assert written == json_schemas([Channel("mine", schema=int)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample_app"], "module:name, where name is a Hub, a list of channels, or a function"),
        (["nowhere.to_be:found"], "there is no module 'nowhere'"),
        (["sample_app:missing"], "sample_app has no 'missing'; "),
        (["sample_app:State"], "sample_app:State is of type type; "),
        (["sample_app:nothing"], "sample_app:nothing is of type list; "),
        (["--url", "localhost"], "server_url is 'localhost'; it must be like"),
        (["--schemas", "sample_app.py"], "cannot write to sample_app.py: "),
    ],
)
def test_an_invalid_argument_is_reported(
    app: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["asyncapi", *arguments]) == 1

    assert message in capsys.readouterr().err


def test_a_hub_has_its_channels_in_order() -> None:
    hub = Hub(iter(UNUSUAL), authenticate=anonymous)

    assert hub.channels == UNUSUAL
