"""One client's state: who it is, what it subscribed to, and the commands that wait."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from ..identity import Identity
from ..protocol import CommandId, Parsed
from .bucket import TokenBucket
from .ledger import Ledger
from .subscription import Subscription
from .wire import Positions, Wire

if TYPE_CHECKING:
    from .cohort import Cohort, Slice
    from .membership import Detached
    from .transport import Transport


class SessionState(Enum):
    """A session begins NEW without an identity or OPEN with one; it becomes OPEN by a token and ends CLOSED."""

    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


class Session:
    """What the engine knows of one client. The driver writes to its `transport`.

    `lane` holds control items on their way; they never wait behind data, only for a stalled client. `told` is where it
    stood before the changes of its subscriptions of which the lane tells, if its wire has a cursor. While `is_waiting`
    for an answer from outside, `commands` queue in order.
    """

    __slots__ = (
        "bucket",
        "cohort",
        "commands",
        "commands_bytes",
        "expiry_warned",
        "final",
        "id",
        "identity",
        "is_paused",
        "is_pinging",
        "is_waiting",
        "joined_at",
        "lane",
        "lane_bytes",
        "last_heard",
        "last_write",
        "malformed",
        "max_message",
        "pending_id",
        "refused",
        "slice",
        "stalled_since",
        "standing",
        "started",
        "state",
        "subscriptions",
        "told",
        "transport",
        "wake_at",
        "wire",
    )

    def __init__(
        self, id: str, transport: Transport, wire: Wire, identity: Identity | None, bucket: TokenBucket, now: float
    ) -> None:
        self.id = id
        self.transport: Final = transport
        self.wire = wire
        self.identity = identity
        self.state = SessionState.NEW
        self.subscriptions: dict[str, Subscription] = {}
        self.final: dict[str, Ledger] = {}
        self.cohort: Cohort | None = None
        self.slice: Slice | None = None
        self.standing: Detached | None = None  # its rate and pace while it has no subscription
        self.lane: list[bytes] = []
        self.lane_bytes = 0
        self.told: Positions | None = None
        self.bucket = bucket
        self.commands: list[tuple[Parsed, int]] = []  # an empty deque takes 700 bytes, and most sessions are idle
        self.commands_bytes = 0
        self.max_message: int | None = None  # what the transport takes at a time, for the client to know
        self.is_waiting = False
        self.pending_id: CommandId = None  # of the command that waits
        self.is_paused = False
        self.is_pinging = False
        self.malformed = 0
        self.refused = 0
        self.started = now
        self.last_heard = now
        self.last_write = now
        self.joined_at = now  # its cohort
        self.stalled_since: float | None = None
        self.expiry_warned: float | None = None
        self.wake_at: float | None = None

    @property
    def is_open(self) -> bool:
        return self.state is SessionState.OPEN

    @property
    def is_closed(self) -> bool:
        return self.state is SessionState.CLOSED

    @property
    def written_at(self) -> float:
        """When anything was written to it, alone or with its cohort: what that wrote before it came does not count."""
        cohort = self.cohort
        if cohort is not None and cohort.last_write > self.joined_at:
            return max(self.last_write, cohort.last_write)
        return self.last_write

    @property
    def is_stalled(self) -> bool:
        return self.stalled_since is not None
