"""The state of one client: its identity, its subscriptions, and the commands that wait."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from ..identity import Identity
from ..protocol import CommandId, Parsed
from .bucket import TokenBucket
from .reader import Detached, Reader
from .statistics import Ledger
from .wire import Positions, Wire

if TYPE_CHECKING:
    from .cohort import Cohort, Slice
    from .transport import Transport


class SessionState(Enum):
    """A session begins NEW without an identity or OPEN with one; a token makes it OPEN; it ends CLOSED."""

    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


class Subscription:
    """The account of one session with a reader that its cohort shares.

    The counters of a reader run since the reader began; `dropped` and `conflated` here are what must be added to get
    those of this session. So a flush counts once for all members, and joining or leaving a cohort costs two
    subtractions.
    """

    __slots__ = ("conflated", "dropped", "max_hz", "start")

    def __init__(self, start: int, max_hz: float | None) -> None:
        self.start = start
        self.max_hz = max_hz
        self.dropped = 0
        self.conflated = 0

    def move(self, old: Reader, new: Reader) -> None:
        """The session moves from one reader to another at the same position."""
        self.dropped += old.dropped - new.dropped
        self.conflated += old.conflated - new.conflated

    def ledger(self, reader: Reader, owed: int = 0) -> Ledger:
        """The counts now. `owed` items were taken from the log, but not written to this session yet."""
        log = reader.log
        lost = reader.lost
        pending = log.count_pending(reader.position, reader.is_fresh)
        superseded = log.head - reader.position - pending - lost
        dropped = self.dropped + reader.dropped
        conflated = self.conflated + reader.conflated
        waiting = len(reader.carry) + owed
        return Ledger(
            published=log.head - self.start,
            delivered=reader.position - self.start - dropped - conflated - waiting,
            conflated=conflated + superseded,
            dropped=dropped + lost,
            pending=pending + waiting,
        )


class Session:
    """What the engine knows about one client. The driver writes to its `transport`.

    `control_queue` holds control items; they never wait behind data, only for a stalled client. `announced`, if its
    wire has a cursor, is its position before the changes of its subscriptions that the queue still has to announce.
    While it `is_waiting` for an answer from outside, `commands` queue up in order.
    """

    __slots__ = (
        "announced",
        "bucket",
        "cohort",
        "commands",
        "commands_bytes",
        "control_queue",
        "control_queue_bytes",
        "detached",
        "expiry_warned",
        "final",
        "id",
        "identity",
        "is_paused",
        "is_pinging",
        "is_waiting",
        "joined_at",
        "last_heard",
        "last_write",
        "malformed",
        "max_message",
        "over_rate",
        "pending_id",
        "slice",
        "stalled_since",
        "started",
        "state",
        "subscriptions",
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
        self.detached: Detached | None = None  # its rate and pace while it has no subscription
        self.control_queue: list[bytes] = []
        self.control_queue_bytes = 0
        self.announced: Positions | None = None
        self.bucket = bucket  # for commands
        self.commands: list[tuple[Parsed, int]] = []  # an empty deque takes 700 bytes, and most sessions are idle
        self.commands_bytes = 0
        self.max_message: int | None = None  # bytes that the transport accepts at a time, to tell the client
        self.is_waiting = False
        self.pending_id: CommandId = None  # of the command that waits
        self.is_paused = False
        self.is_pinging = False
        self.malformed = 0  # commands in a row
        self.over_rate = 0  # commands, less those carried out since
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
        """When something was last written to it, alone or with its cohort; writes before it joined do not count."""
        cohort = self.cohort
        if cohort is not None and cohort.last_write > self.joined_at:
            return max(self.last_write, cohort.last_write)
        return self.last_write

    @property
    def is_stalled(self) -> bool:
        return self.stalled_since is not None
