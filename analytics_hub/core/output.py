"""What is written, in which order: control items first, then the rest of the flush under way, then the next flush."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ..protocol import MAX_FRAME_BYTES, CloseCode
from .batcher import Batcher
from .cohort import Cohort, Delivery
from .context import Context
from .cursor import control_frames_at
from .fanout import follow
from .membership import Membership
from .scheduler import Scheduler
from .session import Session
from .wire import is_cursor_wire

_BUSY: Final = 2
"""Items to be expected in an interval that make a cohort busy enough to follow its logs."""


class Output:
    """The control items that are queued, the flushes that are due, and the one that is under way."""

    def __init__(
        self,
        context: Context,
        scheduler: Scheduler,
        membership: Membership,
        batcher: Batcher,
        end: Callable[[Session, int, str], None],
    ) -> None:
        self._tuning = context.tuning
        self._current_time = context.current_time
        self._scheduler = scheduler
        self._membership = membership
        self._batcher = batcher
        self._end = end
        self._outbox = membership.outbox
        self._due = scheduler.due
        self._crowded = scheduler.crowded
        self._with_control: dict[Session, None] = {}
        self._under_way: Cohort | None = None

    def __bool__(self) -> bool:
        return bool(self._outbox or self._due or self._under_way or self._with_control)

    # --- control items

    def send_control(self, session: Session, *items: bytes) -> None:
        """Queue control items for one session. They go before all data, at once, or when the session is resumed."""
        if session.is_closed:
            return
        session.control_queue += items
        session.control_queue_bytes += sum(map(len, items))
        if not session.is_stalled:
            self._with_control[session] = None
        elif session.control_queue_bytes > self._tuning.control_bytes:
            self._end(session, CloseCode.UNWRITABLE, "too many control items wait")

    def send_heartbeat(self, session: Session) -> None:
        """Send an empty array, which shows that the connection is alive, unless the session is owed a frame anyway."""
        if not self._membership.send_owed(session):
            self._outbox.append(Delivery(session.wire.frame(()), (session,)))
        session.last_write = self._current_time.now

    def resume(self, session: Session) -> None:
        """A stalled session can be written to again."""
        if session.control_queue:
            self._with_control[session] = None

    def finish(self, session: Session) -> None:
        """Before a session ends: send what it is owed and its control items, unless it is stalled."""
        self._membership.send_owed(session)
        while session.control_queue and not session.is_stalled:
            self._outbox.append(self._control_frames(session))

    def forget(self, session: Session) -> None:
        """A session has ended."""
        self._with_control.pop(session, None)
        session.control_queue = []

    def _control_frames(self, session: Session) -> Delivery:
        """One write from the control queue of a session; what does not fit stays there."""
        size = self._tuning.max_batch
        room = MAX_FRAME_BYTES
        frames: list[list[bytes]] = [[]]
        count = 0
        for item in session.control_queue:
            room -= len(item) + 4
            if room < 0 and count:
                break
            if len(frames[-1]) == size:
                frames.append([])
            frames[-1].append(item)
            count += 1
        del session.control_queue[:count]
        session.control_queue_bytes = sum(map(len, session.control_queue))
        session.last_write = self._current_time.now
        if session.control_queue and not session.is_closed:
            self._with_control[session] = None
        wire = session.wire
        if is_cursor_wire(wire):
            return Delivery(control_frames_at(wire, frames, session), (session,))
        return Delivery(b"".join([wire.frame(items) for items in frames]), (session,))

    # --- flushes

    def deliveries(self) -> Iterator[Delivery]:
        """What must be written now. The iterator has no state of its own between two deliveries."""
        while self:
            delivery = self._next()
            if delivery is not None:
                yield delivery
        while self._crowded:
            subscription_set, _ = self._crowded.popitem()
            self._membership.merge(subscription_set, self._current_time.now)

    def _next(self) -> Delivery | None:
        if self._outbox:
            one = self._outbox.popleft()
            # A session that the previous write has stalled loses at most a heartbeat or its last control items here.
            return None if one.recipients[0].is_stalled else one
        if self._with_control:
            session, _ = self._with_control.popitem()
            if session.is_stalled:
                return None  # until it is resumed
            if self._membership.send_owed(session):
                self._with_control[session] = None  # after what it is owed, which may stall it
                return None
            return self._control_frames(session)
        if self._under_way is not None:
            return self._next_slice(self._under_way)
        return self._flush(self._due.popleft())

    def _flush(self, cohort: Cohort) -> Delivery | None:
        """Take what a cohort may have now; returns the write for its first slice."""
        if not cohort.size or cohort.is_stalled or not cohort.has_work:
            return None
        now = self._current_time.now
        scheduler = self._scheduler
        if cohort.not_before > now:
            scheduler.request_turn(cohort, now)
            return None
        subscription_set = cohort.subscription_set
        batch = self._batcher.next_batch(cohort, subscription_set.wire)
        if batch is None:
            if cohort.dirty:
                scheduler.request_turn(cohort, now)
            return None
        # Not `cohort.not_before`: that may be far off for want of tokens, which must not delay the other cohorts.
        subscription_set.not_before = now + self._tuning.interval
        is_busy = batch.size * self._tuning.interval >= _BUSY * (now - cohort.last_write)
        cohort.last_write = now
        cohort.stalled_peer = None
        if cohort.queue is None and not cohort.dirty and is_busy:
            follow(cohort)
        if cohort.dirty or cohort.queue is not None:
            scheduler.request_turn(cohort, now)
        slices = cohort.slices
        if len(slices) > 1:
            cohort.frame = batch.frame
            cohort.taken = batch.taken
            cohort.owed = dict.fromkeys(slices[1:])
            self._under_way = cohort
        return Delivery(batch.frame, list(slices[0].members))

    def _next_slice(self, cohort: Cohort) -> Delivery | None:
        if not cohort.owed:
            self._under_way = None
            cohort.frame = b""
            cohort.taken = {}
            return None
        part = next(iter(cohort.owed))
        del cohort.owed[part]
        return Delivery(cohort.frame, list(part.members))
