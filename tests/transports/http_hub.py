"""A hub and requests to its own HTTP, as a transport makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from analytics_hub import AuthenticationError, Channel, Handshake, Hub, Identity, PermissionDenied, Tuning, cheap
from analytics_hub.http import Request, Response
from analytics_hub.transports._http.endpoints import Endpoints
from analytics_hub.transports._http.events import EventStream
from analytics_hub.transports._origins import Origins
from analytics_hub.transports.memory import MemoryClient

ALLOWED_ORIGIN = "https://friend.example"
WRITERS = frozenset({"writer"})


class Price(msgspec.Struct, tag="price"):
    """The data of a channel with a schema."""

    symbol: str
    bid: Annotated[float, msgspec.Meta(gt=0)]
    tags: list[str] = []


CHANNELS = (
    Channel("plain", publishers=WRITERS),
    Channel("prices", publishers=WRITERS, schema=Price),
    Channel("table", mode="table", key="lp", publishers=WRITERS, max_keys=2),
    Channel("typed-table", mode="table", key="symbol", publishers=WRITERS, schema=Price),
    Channel("durable", mode="durable", publishers=WRITERS),
    Channel("user:*", publishers=WRITERS),
    Channel("closed"),
)
IDENTITIES = {
    "writer": Identity(id="writer", roles=WRITERS),
    "narrow": Identity(id="narrow", roles=WRITERS, channels=("user:7",)),
    "reader": Identity(id="reader"),
}
TUNING = Tuning(max_item_bytes=500, max_members=2)


@cheap
def authenticate(handshake: Handshake) -> Identity:
    if handshake.token is None:
        raise AuthenticationError("missing")
    if handshake.token == "banned":
        raise PermissionDenied("this identity is banned")
    if handshake.token not in IDENTITIES:
        raise AuthenticationError("invalid")
    return IDENTITIES[handshake.token]


def new_hub(**options: Any) -> Hub:
    return Hub(CHANNELS, **{"authenticate": authenticate, "tuning": TUNING, "grace": 0.1, **options})


async def send(
    hub: Hub,
    target: str,
    body: object = None,
    *,
    method: str | None = None,
    token: str | None = "writer",
    headers: Mapping[str, str] | None = None,
    scope: Mapping[str, Any] | None = None,
    **options: Any,
) -> Response:
    """The response to a POST of `body` (as JSON, unless it is bytes), or to a GET without one."""
    answer = await send_any(hub, target, body, method=method, token=token, headers=headers, scope=scope, **options)
    assert isinstance(answer, Response)
    return answer


async def send_any(
    hub: Hub,
    target: str,
    body: object = None,
    *,
    method: str | None = None,
    token: str | None = "writer",
    headers: Mapping[str, str] | None = None,
    scope: Mapping[str, Any] | None = None,
    **options: Any,
) -> Response | EventStream | None:
    """As `send`, for requests that may have another answer than a response."""
    endpoints = Endpoints(hub.gateway, origins=Origins([ALLOWED_ORIGIN]), **options)
    path, _, query = target.partition("?")
    sent = {"host": "hub.example", **(headers or {})}
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(method or ("GET" if body is None else "POST"), path, query, sent, content)
    return await endpoints.answer(request, client="192.0.2.7", scope=scope)


def read(response: Response) -> Any:
    assert response.content_type == "application/json"
    return json.loads(response.body)


def error_of(response: Response) -> tuple[int, str, str]:
    error = read(response)["error"]
    return response.status, error["code"], error["message"]


async def next_items(client: MemoryClient, count: int) -> list[dict[str, Any]]:
    """The next `count` data items."""
    items: list[dict[str, Any]] = []
    while len(items) < count:
        items += [item for item in await anext(client) if "seq" in item]
    return items
