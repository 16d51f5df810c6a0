"""The settings of a hub: one frozen object, validated when it is created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

Profile = Literal["default", "high-frequency", "low-latency", "memory-constrained"]

KIB: Final = 1024
MIB: Final = 1024 * KIB

# field -> (least, most, unit); both ends are allowed.
RANGES: Final[dict[str, tuple[float, float, str]]] = {
    "interval": (0.001, 60.0, "seconds"),
    "max_batch": (1, 10_000, "items a frame"),
    "max_frames": (1, 10_000, "frames a flush"),
    "max_item_bytes": (64, 128 * KIB, "bytes"),
    "buffer_items": (1, 1_000_000, "items"),
    "buffer_bytes": (1, 1024 * MIB, "bytes"),
    "burst_items": (1, 10_000_000, "items"),
    "burst_bytes": (1, 4096 * MIB, "bytes"),
    "rate": (0.1, 10_000_000, "items a second"),
    "command_rate": (0.1, 1_000_000, "commands a second"),
    "max_subscriptions": (1, 100_000, "channels a session"),
    "max_members": (1, 10_000_000, "members a pattern"),
    "control_bytes": (1 * KIB, 64 * MIB, "bytes"),
    "pending_bytes": (1 * KIB, 64 * MIB, "bytes"),
    "heartbeat": (0.1, 3600.0, "seconds"),
    "auth_timeout": (0.1, 3600.0, "seconds"),
    "authorize_ttl": (0.0, 3600.0, "seconds"),
    "revocation_memory": (1.0, 31_622_400.0, "seconds"),
    "ticket_ttl": (1.0, 3600.0, "seconds"),
    "write_timeout": (0.1, 3600.0, "seconds"),
    "durable_write_timeout": (0.1, 3600.0, "seconds"),
    "silence_timeout": (1.0, 86_400.0, "seconds"),
    "expiry_warning": (0.0, 86_400.0, "seconds"),
    "reconnect_min": (0.0, 3600.0, "seconds"),
    "reconnect_max": (0.1, 86_400.0, "seconds"),
    "journal_chunk": (1, 10_000, "items"),
    "max_per_identity": (1, 10_000_000, "connections"),
    "max_per_address": (1, 10_000_000, "connections"),
    "token_failures": (1, 1_000_000, "invalid tokens a minute"),
    "max_buffered": (1 * MIB, 1024 * 1024 * MIB, "bytes"),
}
_OPTIONAL: Final = frozenset(
    {"rate", "command_rate", "max_frames", "max_per_identity", "max_per_address", "token_failures", "max_buffered"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The numbers of a hub (`docs/protocol.md` §7). A value outside its range raises `ValueError`.

    All in seconds, bytes and items. Rates, `max_frames`, `token_failures`, `max_buffered` and the limits of connections
    may be None for no limit.
    """

    interval: float = 0.016
    """Between two writes of data to a client; 16 ms is 60 frames a second."""
    max_batch: int = 50
    max_frames: int | None = None
    max_item_bytes: int = 64 * KIB
    buffer_items: int = 256
    """Items that may wait for a client at the end of a flush; older items of `events` channels are dropped."""
    buffer_bytes: int = 1 * MIB
    burst_items: int = 16_384
    """Items that a channel keeps between two flushes."""
    burst_bytes: int = 16 * MIB
    rate: float | None = 1000.0
    """Data items a second for each client, with one second of burst."""
    command_rate: float | None = 1000.0
    max_subscriptions: int = 128
    max_members: int = 10_000
    control_bytes: int = 64 * KIB
    """Control items that may wait for a congested client before it is closed with 4503."""
    pending_bytes: int = 64 * KIB
    """Commands that may wait behind one that waits for the application, before reading pauses."""
    heartbeat: float = 20.0
    auth_timeout: float = 10.0
    authorize_ttl: float = 30.0
    """How long an answer of `authorize` is cached; 0 turns caching off."""
    revocation_memory: float = 86_400.0
    """How long a revocation is remembered: at least the lifetime of tokens."""
    ticket_ttl: float = 30.0
    write_timeout: float = 60.0
    durable_write_timeout: float = 10.0
    silence_timeout: float = 60.0
    """For clients that have sent `ping` or `seen` at least once: a client that only listens is healthy."""
    expiry_warning: float = 30.0
    reconnect_min: float = 0.5
    reconnect_max: float = 30.0
    journal_chunk: int = 256
    """Items read from the journal at a time for a client that is behind the memory of a durable channel."""
    max_per_identity: int | None = 100
    """Connections of one identity; those of `anonymous` are not counted."""
    max_per_address: int | None = 1000
    """Connections from one address (of IPv6, one /64), where it is known: `Hub(proxies=...)`."""
    token_failures: int | None = 30
    """Invalid tokens of one address that are checked, in a minute or at once; not those that were valid once."""
    max_buffered: int | None = 256 * MIB
    """Bytes that wait in memory because of clients, beyond which new clients and requests are refused."""

    def __post_init__(self) -> None:
        for field, (least, most, unit) in RANGES.items():
            value = getattr(self, field)
            if value is None and field in _OPTIONAL:
                continue
            wants_float = isinstance(least, float) or field in ("rate", "command_rate")
            if isinstance(value, bool) or not isinstance(value, (int, float) if wants_float else int):
                raise ValueError(f"{field} is {value!r}; it must be {'a number' if wants_float else 'a whole number'}")
            if not least <= value <= most:  # also refuses NaN
                raise ValueError(f"{field} is {value!r}; it must be between {least:g} and {most:g} {unit}")
        if self.reconnect_min > self.reconnect_max:
            raise ValueError(f"reconnect_min is {self.reconnect_min!r}; it must not exceed {self.reconnect_max!r}")

    @classmethod
    def profile(cls, name: Profile) -> Tuning:
        """One of the ready-made settings by name; `dataclasses.replace` changes single values of it."""
        try:
            return PROFILES[name]
        except KeyError:
            raise ValueError(f"no profile {name!r}; there are {', '.join(get_args(Profile))}") from None


PROFILES: Final[dict[str, Tuning]] = {
    "default": Tuning(),
    "high-frequency": Tuning(max_batch=100, interval=0.008, buffer_items=512),
    "low-latency": Tuning(max_batch=10, interval=0.005),
    "memory-constrained": Tuning(buffer_items=64, max_frames=5),
}
