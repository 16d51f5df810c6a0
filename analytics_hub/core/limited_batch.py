"""One write for a cohort that something holds back: its rate, a gap to report, a large table, the journal."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Final

from ..protocol import MAX_FRAME_BYTES
from .cohort import Cohort
from .reader import Reader
from .ring import Entry, by_order, merge_oldest

_A_TOKEN: Final = 1 - 1e-9  # less the rounding of sums of floats
_COMMA_BYTES: Final = 4  # between items, and a share of the headers of the frames
_GAP_BYTES: Final = 512  # room for a `$gap` and a channel name of 255 bytes

_LOOK_AHEAD: Final = 2048
"""Entries examined for one write, over all readers: twice what fits it at 250 bytes each. A backlog may be long."""


class LimitedBatch:
    """Fills one write from several readers, oldest item first, until tokens, bytes or frames run out.

    Of a log that conflates everything live goes or nothing, because taking a part each time would starve keys: with its
    first item everything is taken and paid for, into debt if need be, and what does not fit this write is carried.
    `reserve` bytes of it are not for items, and each item takes `share` bytes beyond its own and a comma.
    """

    def __init__(
        self, cohort: Cohort, now: float, max_items: int, timestamp: str, *, reserve: int = 0, share: int = 0
    ) -> None:
        self.items: list[Entry] = []
        self.taken: dict[Reader, int] = {}
        self.behind: list[Reader] = []
        """Readers with next items that only the journal has."""
        self.spent = 0
        self.is_short_of_tokens = False
        self._readers = cohort.readers
        self._held_by = cohort.held_by
        self._tokens = cohort.bucket.available(now)
        self._max_items = max_items
        self._room = MAX_FRAME_BYTES - reserve
        self._share = _COMMA_BYTES + share
        self._timestamp = timestamp
        self._paid: dict[Reader, None] = {}

    def fill(self, readers: Sequence[Reader]) -> None:
        """Take what may go from `readers`; the cost is proportional to them and to what they offer."""
        if any(reader.log.conflates for reader in readers):
            entries = [entry for reader in readers for entry in self._offer(reader, self._max_items)]
            entries.sort(key=by_order)
            self._fill_one_by_one(entries)
        else:
            self._fill_at_once(readers)
        for reader, count in self.taken.items():
            if reader.carry:
                reader.carry = reader.carry[count:]
            else:
                reader.position += count
        self._report_last_gaps(readers)

    def _fill_at_once(self, readers: Sequence[Reader]) -> None:
        """As many as fit and are paid for. A cohort that has fallen behind is always here: no Python for each item."""
        paid = max(0, int(min(self._tokens, self._max_items) + 1 - _A_TOKEN))
        limit = min(self._max_items, paid + 1)  # one more shows that tokens are what is short
        most = min(limit, 1 + _LOOK_AHEAD // max(1, len(readers)))
        fitting = merge_oldest([run for reader in readers if (run := self._offer(reader, most))], limit)
        gaps = [self._readers[name] for name in {entry.channel: None for entry in fitting} if self._readers[name].gaps]
        room = self._room - _GAP_BYTES * len(gaps)
        share = self._share
        sizes = list(accumulate([len(entry.data) + share for entry in fitting]))
        count = min(bisect_right(sizes, room), self._max_items - len(gaps))
        if gaps and count <= 0:  # no room for a gap and its item: the gaps go first
            for reader in gaps[: self._max_items]:
                self._report_gap(reader)
            return
        if paid < count:
            count = paid
            self.is_short_of_tokens = True
        chosen = fitting[:count]
        self.spent = len(chosen)
        self.items = chosen
        names = [entry.channel for entry in chosen]
        self.taken = {self._readers[name]: number for name, number in Counter(names).items()}
        places = [(names.index(reader.log.name), reader) for reader in gaps if reader in self.taken]
        for place, reader in sorted(places, key=itemgetter(0), reverse=True):
            self.items.insert(place, reader.report_gap(self._held_by, self._timestamp))
        self._room = room - (sizes[count - 1] if count else 0)

    def _report_gap(self, reader: Reader) -> None:
        self.items.append(reader.report_gap(self._held_by, self._timestamp))
        self._room -= _GAP_BYTES

    def _report_last_gaps(self, readers: Sequence[Reader]) -> None:
        """A loss with no later item in its channel is reported now, not with the next item, which may be hours away."""
        for reader in readers:
            while reader.gaps and not reader.carry and reader.position >= reader.log.head:
                if self._room < _GAP_BYTES or len(self.items) >= self._max_items:
                    return
                self._report_gap(reader)

    def _fill_one_by_one(self, entries: list[Entry]) -> None:
        for entry in entries:
            reader = self._readers[entry.channel]
            if reader not in self._paid and not self._pay(reader):
                if not self._paid:
                    break
                continue  # what is paid for already may still go
            if not self._add(reader, entry):
                break

    def _offer(self, reader: Reader, most: int) -> Sequence[Entry]:
        """What a reader could give, in order: `most` entries, or more where all of it goes or nothing."""
        log = reader.log
        if reader.carry:
            if log.conflates:
                self._paid[reader] = None
            return reader.carry
        if log.conflates:
            entries = log.after(reader.position)
            if reader.is_fresh:
                entries = [entry for entry in entries if not entry.deleted]
                if not entries:  # nothing but deletions of keys that it never knew
                    reader.read_live()
            return entries
        if reader.position < log.floor:
            reader.skip_overwritten()
            if reader.position < log.floor:
                self.behind.append(reader)
                return ()
        return log.some_after(reader.position, most)

    def _pay(self, reader: Reader) -> bool:
        """Spend a token on the next item, or as many as a log that conflates has items; False if there is none."""
        if self._tokens - self.spent < _A_TOKEN:
            self.is_short_of_tokens = True
            return False
        if reader.log.conflates:
            reader.carry = reader.read_live()
            self._paid[reader] = None
            self.spent += len(reader.carry)
        else:
            self.spent += 1
        return True

    def _add(self, reader: Reader, entry: Entry) -> bool:
        """Put an entry into this write, after the `$gap` before it if there is one; False if there is no room."""
        while reader.has_gap_before(entry.seq) and self._room >= _GAP_BYTES and len(self.items) < self._max_items:
            self._report_gap(reader)
        need = len(entry.data) + self._share
        if reader.has_gap_before(entry.seq) or need > self._room or len(self.items) >= self._max_items:
            if reader not in self._paid:
                self.spent -= 1
            return False
        self.items.append(entry)
        self.taken[reader] = self.taken.get(reader, 0) + 1
        self._room -= need
        return True
