"""What goes out, in which order: answers first, then what a flush still owes, then the next flush."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from ..protocol import MAX_FRAME_BYTES, CloseCode
from ..tuning import Tuning
from .batcher import Batcher
from .cohort import Cohort, Delivery
from .current_time import CurrentTime
from .cursor import speech_at
from .fanout import follow, unfollow
from .journal import JournalQueue
from .membership import Membership
from .registry import SubscriptionSet
from .session import Session
from .wire import is_cursor_wire

_BUSY: Final = 2
"""Items to be expected in an interval that make a cohort busy enough to follow its logs."""


class Output:
    """The lanes of control items, the flushes that are due, and the one that is under way."""

    def __init__(
        self,
        moment: CurrentTime,
        tuning: Tuning,
        placement: Membership,
        batcher: Batcher,
        journal: JournalQueue,
        end: Callable[[Session, int, str], None],
    ) -> None:
        self._moment = moment
        self._tuning = tuning
        self._placement = placement
        self._batcher = batcher
        self._journal = journal
        self._end = end
        self._outbox = placement.outbox
        self._talking: dict[Session, None] = {}
        self._due: deque[Cohort] = deque()
        self._sending: Cohort | None = None
        self._crowded: dict[SubscriptionSet, None] = {}

    def __bool__(self) -> bool:
        return bool(self._outbox or self._due or self._sending or self._talking)

    # --- control items

    def say(self, session: Session, *items: bytes) -> None:
        """Queue control items for one session; they go at once, or when it is resumed, and bypass all data."""
        if session.is_closed:
            return
        session.lane += items
        session.lane_bytes += sum(map(len, items))
        if not session.is_stalled:
            self._talking[session] = None
        elif session.lane_bytes > self._tuning.control_bytes:
            self._end(session, CloseCode.UNWRITABLE, "too many control items wait")

    def beat(self, session: Session) -> None:
        """Send the empty array that shows a silent connection to be alive, unless it is owed something anyway."""
        if not self._placement.settle(session):
            self._outbox.append(Delivery(session.wire.frame(()), (session,)))
        session.last_write = self._moment.now

    def resume(self, session: Session) -> None:
        """A session can be spoken to again."""
        if session.lane:
            self._talking[session] = None

    def finish(self, session: Session) -> None:
        """Let a session that ends have what it is owed and what was said to it, unless it takes nothing."""
        self._placement.settle(session)
        while session.lane and not session.is_stalled:
            self._outbox.append(self._speech(session))

    def forget(self, session: Session) -> None:
        """A session has gone."""
        self._talking.pop(session, None)
        session.lane = []

    def _speech(self, session: Session) -> Delivery:
        """One write from the lane of a session; what is too much for it stays there."""
        most = self._tuning.max_batch
        room = MAX_FRAME_BYTES
        frames: list[list[bytes]] = [[]]
        count = 0
        for item in session.lane:
            room -= len(item) + 4
            if room < 0 and count:
                break
            if len(frames[-1]) == most:
                frames.append([])
            frames[-1].append(item)
            count += 1
        del session.lane[:count]
        session.lane_bytes = sum(map(len, session.lane))
        session.last_write = self._moment.now
        if session.lane and not session.is_closed:
            self._talking[session] = None
        wire = session.wire
        if is_cursor_wire(wire):
            return Delivery(speech_at(wire, frames, session), (session,))
        return Delivery(b"".join([wire.frame(items) for items in frames]), (session,))

    # --- flushes

    def take_turn(self, layout: SubscriptionSet, now: float) -> None:
        """It is the turn of a layout: find its cohorts that are due, and let the others have another turn."""
        later = []
        for cohort in list(layout.cohorts):
            if cohort.inbox is not None:
                if not cohort.inbox:
                    unfollow(cohort)  # nothing for a whole beat: its next item is to go at once
                elif cohort.not_before <= now:
                    self._due.append(cohort)
                    continue
            if cohort.has_work:
                if self._batcher.next_turn(cohort) > now:
                    later.append(cohort)
                else:
                    self._due.append(cohort)
        if len(layout.cohorts) > 1:
            self._crowded[layout] = None
        for cohort in later:
            self._placement.wants(cohort, now)

    def deliveries(self) -> Iterator[Delivery]:
        """What is to be written now. Keeps no state of its own between two deliveries."""
        while self:
            delivery = self._next()
            if delivery is not None:
                yield delivery
        while self._crowded:
            layout, _ = self._crowded.popitem()
            self._placement.merge(layout, self._moment.now)

    def _next(self) -> Delivery | None:
        if self._outbox:
            one = self._outbox.popleft()
            # Who was stalled by the write before loses nothing by this, but a heartbeat or last words.
            return None if one.recipients[0].is_stalled else one
        if self._talking:
            session, _ = self._talking.popitem()
            if session.is_stalled:
                return None  # until it is resumed
            if self._placement.settle(session):
                self._talking[session] = None  # after what it is owed, which may stall it
                return None
            return self._speech(session)
        if self._sending is not None:
            return self._next_slice(self._sending)
        return self._flush(self._due.popleft())

    def _flush(self, cohort: Cohort) -> Delivery | None:
        """Take what is due to a cohort; returns the write for its first slice."""
        if not cohort.size or cohort.is_stalled or not cohort.has_work:
            return None
        now = self._moment.now
        placement = self._placement
        if cohort.not_before > now:
            placement.wants(cohort, now)
            return None
        layout = cohort.layout
        batch = self._batcher.take(cohort, layout.wire)
        if self._batcher.behind:
            self._journal.ask(self._batcher.behind)
            self._batcher.behind = []
        if batch is None:
            if cohort.dirty:
                placement.wants(cohort, now)
            return None
        # Not `cohort.not_before`: that may be far off for want of tokens, and is no concern of the other cohorts.
        layout.not_before = now + self._tuning.interval
        is_busy = batch.size * self._tuning.interval >= _BUSY * (now - cohort.last_write)
        cohort.last_write = now
        cohort.stray = None
        if cohort.inbox is None and not cohort.dirty and is_busy:
            follow(cohort)
        if cohort.dirty or cohort.inbox is not None:
            placement.wants(cohort, now)
        slices = cohort.slices
        if len(slices) > 1:
            cohort.frame = batch.frame
            cohort.taken = batch.taken
            cohort.owed = dict.fromkeys(slices[1:])
            self._sending = cohort
        return Delivery(batch.frame, list(slices[0].members))

    def _next_slice(self, cohort: Cohort) -> Delivery | None:
        if not cohort.owed:
            self._sending = None
            cohort.frame = b""
            cohort.taken = {}
            return None
        part = next(iter(cohort.owed))
        del cohort.owed[part]
        return Delivery(cohort.frame, list(part.members))
