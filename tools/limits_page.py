"""Writes `docs/limits.md`, the limits and counters of the code: `python -m tools.limits_page`.

The value of a limit is in the code alone; what happens at the limit is described here, and each limit has a test.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from typing import Any, Final

from analytics_hub.telemetry import COUNTERS
from analytics_hub.tuning import Tuning
from tests.project.layout import ROOT

PAGE: Final = ROOT / "docs" / "limits.md"
INTRODUCTION: Final = """\
<!-- Generated from the code by `python -m tools.limits_page`; changes made here are overwritten. -->

# Limits and counters

Every limit has a default, an answer that names it, a close code or status, and a counter in `statistics().counters`.
`Tuning` belongs to the hub; `Limits` to each `serve` or `HubApp`; what is fixed cannot be set.
A limit that a client can keep to by itself is announced to it in `limits` of `$hello`.
[security.md](security.md#what-one-client-may-cost) explains how addresses, identities and bytes are counted.
"""

SETTINGS: Final[dict[str, Any]] = {
    "Tuning": Tuning(),
    "websocket": importlib.import_module("analytics_hub.transports.websocket").Limits(),
    "tcp": importlib.import_module("analytics_hub.transports.tcp").Limits(),
    "asgi": importlib.import_module("analytics_hub.transports.asgi").Limits(),
}
NO_LIMITS: Final = {
    "interval", "max_batch", "max_frames", "buffer_items", "buffer_bytes", "burst_items", "burst_bytes", "rate",
    "heartbeat", "expiry_warning", "reconnect_min", "reconnect_max", "journal_chunk", "max_item_bytes",
    "authorize_ttl", "revocation_memory", "ticket_ttl", "ping_interval",
}  # fmt: skip
"""Settings that no client can exceed: how clients are served, what is kept for them, what publishers may do."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One row. `settings` are `place.field`; a fixed one is `module:CONSTANT` of the package."""

    what: str
    settings: str
    unit: str
    answer: str
    counter: str = ""
    in_hello: str = ""


GROUPS: Final[dict[str, list[Limit]]] = {
    "Before a client is admitted": [
        Limit("from accept to admission, TLS and token included", "websocket.handshake_timeout tcp.handshake_timeout "
              "asgi.handshake_timeout", "s", "408, 503, 1011, or the connection is aborted",
              "handshake-timeout, check-timeout"),
        Limit("an HTTP request under ASGI", "asgi.request_timeout", "s", "408, 503 or 504", "request-timeout"),
        Limit("first token, where it comes as a message", "Tuning.auth_timeout", "s", "4408", "closed-4408"),
        Limit("a call of `authenticate` or `authorize`", "Tuning.auth_timeout", "s", "503, 1011 or refused",
              "authenticate-failed, authorize-failed"),
        Limit("worker threads for synchronous hooks", "hooks:MAX_THREADS", "", "waits, within the times above",
              "authenticate-failed, authorize-failed"),
        Limit("tokens checked at a time", "websocket.max_checks tcp.max_checks asgi.max_checks "
              "hub.gateway:MAX_CHECKS", "",
              "waits, within the times above", "check-timeout"),
        Limit("connections that are not admitted yet", "websocket.max_pending tcp.max_pending", "",
              "the oldest of the same address is aborted, or else the oldest of all", "handshake-evicted"),
        Limit("invalid tokens of one address that are checked in a minute", "Tuning.token_failures", "",
              "429 or 4429, with the seconds to wait; tokens that were accepted before are checked",
              "limited-failures"),
        Limit("a token", "auth.jwt.authenticator:MAX_TOKEN_LENGTH", "bytes", "401 or 4401", "token-invalid"),
        Limit("request line and headers together", "websocket.max_head", "bytes", "414, 431", "refused-size"),
        Limit("headers", "transports._websocket.http11:MAX_HEADERS", "", "431", "refused-size"),
        Limit("the body of a request", "http:MAX_BODY", "bytes", "413", "refused-size"),
        Limit("pieces of a body, such as chunks", "transports._websocket.http11:MAX_PIECES", "", "400",
              "refused-request"),
        Limit("all requests in progress; those below 16 KiB are always served",
              "transports._websocket.request:MAX_HELD transports._asgi.http:MAX_HELD", "bytes", "503",
              "refused-crowded"),
        Limit("a TLS ClientHello", "transports._sockets.tls:MAX_HELLO", "bytes", "the connection is aborted",
              "tls-refused"),
    ],
    "Connections and memory": [
        Limit("connections of one identity", "Tuning.max_per_identity", "", "429 or 4429", "limited-identity",
              "`connections`"),
        Limit("connections from one address", "Tuning.max_per_address", "",
              "429, 4429, or the connection is aborted", "limited-address"),
        Limit("clients of one transport", "websocket.max_clients tcp.max_clients asgi.max_clients", "",
              "503 or 1013", "refused-full"),
        Limit("bytes that wait because of all clients", "Tuning.max_buffered", "bytes",
              "503 or 1013 for new clients and requests", "overloaded"),
        Limit("open tickets of one identity", "access.tickets:MAX_PER_IDENTITY", "", "the oldest becomes invalid"),
        Limit("open tickets in all", "access.tickets:MAX_TICKETS", "", "503", "overloaded"),
    ],
    "What a client may send": [
        Limit("a message, inflated; a line", "websocket.max_message tcp.max_message asgi.max_message", "bytes",
              "1009", "protocol-fault", "`message`"),
        Limit("the commands of one HTTP request", "transports._http.commands:MAX_COMMANDS", "bytes", "413",
              "refused-size", "`message`"),
        Limit("frames of one message", "websocket.max_fragments", "", "1009", "protocol-fault"),
        Limit("pings and pongs in a `ping_interval` (20 s)", "websocket.max_control_frames", "", "4429",
              "protocol-fault"),
        Limit("from the first byte of a message to its last", "websocket.message_timeout tcp.message_timeout", "s",
              "4408", "closed-unfinished"),
        Limit("commands a second; one counts for each channel named and each 16 held", "Tuning.command_rate", "",
              "`$error` `rate-limited` with `after`",
              "error-rate-limited", "`commands`"),
        Limit("commands in a turn, counted in the same way", "core.commands:TURN", "",
              "the other clients have their turns first"),
        Limit("commands over that, less those served since", "core.commands:MAX_OVER_RATE", "", "4429", "closed-4429"),
        Limit("malformed commands in a row", "core.commands:MALFORMED_IN_A_ROW", "", "4400", "closed-4400"),
        Limit("commands that wait behind one", "Tuning.pending_bytes", "bytes", "reading pauses", "paused"),
        Limit("HTTP requests with commands that wait", "", "1", "429", "refused-busy"),
        Limit("channels of one command, and of a session", "Tuning.max_subscriptions", "",
              "`bad-request`; `too-many-subscriptions`", "error-bad-request, error-too-many-subscriptions",
              "`subscriptions`"),
        Limit("the name of a channel", "channels:MAX_NAME_LENGTH", "characters", "`bad-request`", "error-bad-request"),
        Limit("members of a pattern", "Tuning.max_members", "", "`unknown-channel`",
              "error-unknown-channel"),
        Limit("accounts of ended subscriptions that a session keeps", "core.subscriptions:MAX_CLOSED", "",
              "the oldest are dropped"),
        Limit("the cursor of a stream", "transports._http.cursor:MAX_CURSOR", "bytes",
              "resuming begins with a `$gap` that cannot be counted"),
    ],
    "How long a client may take": [
        Limit("without a sign of life, where the transport sends pings", "websocket.silence_timeout", "s", "4408",
              "closed-silent"),
        Limit("without an answer of the peer's kernel", "tcp.silence_timeout", "s", "the kernel ends the connection",
              "disconnected"),
        Limit("without a message, once it has sent `ping` or `seen`", "Tuning.silence_timeout", "s", "4408",
              "closed-4408"),
        Limit("unwritable", "Tuning.write_timeout", "s", "4503", "closed-4503"),
        Limit("unwritable, on durable channels", "Tuning.durable_write_timeout", "s", "4503", "closed-4503"),
        Limit("to read the close frame and close its side", "websocket.close_timeout tcp.close_timeout "
              "asgi.close_timeout", "s", "the connection is aborted", "close-timeout"),
        Limit("control items that wait for it", "Tuning.control_bytes", "bytes", "4503", "closed-4503"),
        Limit("unsent bytes, beyond which it counts as slow", "transports._sockets.connection:ROOM asgi.max_unsent",
              "bytes", "drop-oldest, conflation", "stalled"),
        Limit("frames that a client that confirms is behind", "asgi.max_unconfirmed", "", "the same", "stalled"),
        Limit("bytes that it is behind", "asgi.max_unconfirmed_bytes", "bytes", "the same", "stalled"),
    ],
}  # fmt: skip


def show(value: float | None, unit: str) -> str:
    if value is None:
        return "none"
    if unit == "bytes":
        for size, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
            if value >= size and value % size == 0:
                return f"{value // size:g} {name}"
    return f"{value:,g} {unit}".strip() if value < 1_000_000 else f"{value:,.0f} {unit}".strip()


def look_up(setting: str) -> Any:
    place, colon, name = setting.partition(":")
    if colon:
        return getattr(importlib.import_module(f"analytics_hub.{place}"), name)
    place, _, name = setting.partition(".")
    return getattr(SETTINGS[place], name)


def row_of(limit: Limit) -> str:
    settings = limit.settings.split()
    values = [show(look_up(setting), limit.unit) for setting in settings] or [limit.unit]
    if len(set(values)) == 1:
        values = values[:1]
    else:
        values = [f"{value} ({setting.partition('.')[0]})" for value, setting in zip(values, settings, strict=True)]
    names = dict.fromkeys(setting.partition(".")[2] for setting in settings if ":" not in setting)
    places = ", ".join(setting.partition(".")[0] for setting in settings if ":" not in setting)
    where = f"`{'`, `'.join(names)}` ({places})" if names else "fixed"
    counters = ", ".join(f"`{name}`" for name in limit.counter.split(", ") if name)
    return f"| {limit.what} | {', '.join(values)} | {where} | {limit.answer} | {counters} | {limit.in_hello} |"


def render_limits() -> str:
    parts = []
    for title, limits in GROUPS.items():
        head = f"| {title} | default | set by | at the limit | counter | in `$hello` |"
        parts.append("\n".join([head, "|---" * 6 + "|", *map(row_of, limits)]))
    return "\n\n".join(parts)


def render_counters() -> str:
    return "\n".join(["| counter | |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in COUNTERS.items())])


def render_page() -> str:
    return "\n".join([INTRODUCTION, "## Limits\n", render_limits(), "\n## Counters\n", render_counters(), ""])


def settable() -> set[str]:
    """Every field of every settings object, as the rows name it."""
    return {f"{place}.{field.name}" for place, settings in SETTINGS.items() for field in fields(settings)}


def shown() -> set[str]:
    return {
        setting
        for limits in GROUPS.values()
        for limit in limits
        for setting in limit.settings.split()
        if ":" not in setting
    }


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
