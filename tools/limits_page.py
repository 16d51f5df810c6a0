"""The tables of limits and counters in `docs/security.md`: `python -m tools.limits_page` makes them from the code.

What a limit is set to stands in the code alone; what happens at it stands here, and the tests of each show it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from typing import Any, Final

from analytics_hub.telemetry import COUNTERS
from analytics_hub.tuning import Tuning
from tests.project.layout import ROOT

PAGE: Final = ROOT / "docs" / "security.md"

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
"""Settings that a client cannot run into: how it is served, what is kept for it, what publishers may."""


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
    "Before a client is let in": [
        Limit(
            "accept until let in, TLS and token included", "websocket.handshake_timeout tcp.handshake_timeout "
            "asgi.handshake_timeout", "s", "408, 503, 1011 or a hang-up", "handshake-timeout, check-timeout",
        ),
        Limit("a request of HTTP under ASGI", "asgi.request_timeout", "s", "408, 503 or 504", "request-timeout"),
        Limit("first token, where it comes as a message", "Tuning.auth_timeout", "s", "4408", "closed-4408"),
        Limit("a call of `authenticate` or `authorize`", "Tuning.auth_timeout", "s", "503, 1011 or refused",
              "authenticate-failed, authorize-failed"),
        Limit("tokens checked at a time", "websocket.max_checks tcp.max_checks asgi.max_checks "
              "reception:MAX_CHECKS", "",
              "waits, within the time above", "check-timeout"),
        Limit("connections not let in yet", "websocket.max_pending tcp.max_pending", "",
              "the oldest of the same address is cut off, or of all", "handshake-evicted"),
        Limit("refused tokens of one address, in a minute", "Tuning.token_failures", "",
              "429 or 4429, with the seconds; the token is not looked at", "limited-failures"),
        Limit("a token", "auth.authenticator:MAX_TOKEN_LENGTH", "bytes", "401 or 4401", "token-invalid"),
        Limit("request line and headers together", "transports._websocket.exchange:MAX_HEAD", "bytes", "431",
              "refused-size"),
        Limit("the request line, one header", "transports._websocket.exchange:MAX_LINE", "bytes", "414, 431",
              "refused-size"),
        Limit("headers", "transports._websocket.exchange:MAX_HEADERS", "", "431", "refused-size"),
        Limit("the body of a request", "http:MAX_BODY", "bytes", "413", "refused-size"),
        Limit("pieces in which it comes, such as chunks", "transports._websocket.exchange:MAX_PIECES", "", "400",
              "refused-request"),
        Limit("bodies of all requests under way", "transports._websocket.incoming:MAX_HELD "
              "transports._asgi.http:MAX_HELD", "bytes", "503", "refused-crowded"),
        Limit("a ClientHello of TLS", "transports._sockets.tls:MAX_HELLO", "bytes", "hang-up", "tls-refused"),
    ],
    "How many there are": [
        Limit("connections of one identity", "Tuning.max_per_identity", "", "429 or 4429", "limited-identity",
              "`connections`"),
        Limit("connections from one address", "Tuning.max_per_address", "", "429, 4429 or a hang-up",
              "limited-address"),
        Limit("clients of one transport", "websocket.max_clients tcp.max_clients asgi.max_clients", "",
              "503 or 1013", "refused-full"),
        Limit("bytes that wait because of all clients", "Tuning.max_buffered", "bytes",
              "503 or 1013 for whatever is new", "overloaded"),
        Limit("tickets of one identity", "tickets:MAX_FOR_ONE", "", "the oldest is worth nothing any more"),
        Limit("tickets of all", "tickets:MAX_TICKETS", "", "503", "overloaded"),
    ],
    "What a client may say": [
        Limit("a message, inflated; a line", "websocket.max_message tcp.max_message asgi.max_message", "bytes",
              "1009", "protocol-fault", "`message`"),
        Limit("the commands of one request", "transports._http.commands:MAX_COMMANDS", "bytes", "413",
              "refused-size", "`message`"),
        Limit("frames of one message", "websocket.max_fragments", "", "1009", "protocol-fault"),
        Limit("pings and pongs in a `ping_interval` (20 s)", "websocket.max_control_frames", "", "4429",
              "protocol-fault"),
        Limit("a message that was begun", "websocket.message_timeout tcp.message_timeout", "s", "4408",
              "closed-unfinished"),
        Limit("commands a second; one counts for each channel named and each 16 held", "Tuning.command_rate", "",
              "`$error` `rate-limited` with `after`",
              "error-rate-limited", "`commands`"),
        Limit("commands in a turn, counted in the same way", "core.dialogue:TURN", "",
              "the others have theirs first"),
        Limit("commands over that, less those served since", "core.dialogue:MAX_REFUSED", "", "4429", "closed-4429"),
        Limit("malformed commands in a row", "core.dialogue:MALFORMED_IN_A_ROW", "", "4400", "closed-4400"),
        Limit("commands that wait behind one", "Tuning.pending_bytes", "bytes", "reading stops", "paused"),
        Limit("commands over HTTP that wait", "", "1", "429", "refused-busy"),
        Limit("channels of one command, and of a session", "Tuning.max_subscriptions", "",
              "`bad-request`; `too-many-subscriptions`", "error-bad-request, error-too-many-subscriptions",
              "`subscriptions`"),
        Limit("the name of a channel", "channels:MAX_NAME_LENGTH", "characters", "`bad-request`", "error-bad-request"),
        Limit("members of a pattern", "Tuning.max_members", "", "`unknown-channel`",
              "error-unknown-channel"),
        Limit("accounts of ended subscriptions that a session keeps", "core.subscriptions:MAX_CLOSED", "",
              "the oldest go"),
        Limit("the cursor of a stream", "transports._http.cursor:MAX_CURSOR", "bytes",
              "a gap that cannot be counted"),
    ],
    "How long it may take": [
        Limit("without a sign of life, where there are pings", "websocket.silence_timeout", "s", "4408",
              "closed-silent"),
        Limit("without a sign of a machine", "tcp.silence_timeout", "s", "the kernel gives up", "disconnected"),
        Limit("without a word, once it has said `ping` or `seen`", "Tuning.silence_timeout", "s", "4408",
              "closed-4408"),
        Limit("unwritable", "Tuning.write_timeout", "s", "4503", "closed-4503"),
        Limit("unwritable, on durable channels", "Tuning.durable_write_timeout", "s", "4503", "closed-4503"),
        Limit("to take the last words and hang up", "websocket.close_timeout tcp.close_timeout asgi.close_timeout",
              "s", "cut off", "close-timeout"),
        Limit("control items that wait for it", "Tuning.control_bytes", "bytes", "4503", "closed-4503"),
        Limit("unsent bytes, then it counts as slow", "transports._sockets.outlet:ROOM asgi.max_unsent", "bytes",
              "drop-oldest, conflation", "stalled"),
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


TABLES: Final = {"limits": render_limits, "counters": render_counters}


def renew(text: str) -> str:
    """The page with each table between its marks as the code has it."""
    for name, render in TABLES.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert end, f"{PAGE} has no place for the table of {name}"
        text = f"{before}{start}{render()}\n{end}{after}"
    return text


def settable() -> set[str]:
    """Every field of every object that sets limits, as rows name it."""
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
    PAGE.write_text(renew(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
