"""The user's own events instead of the simulation: one JSON object a line, `{"channel","type","data","key"?}`.

A line that cannot be published is reported with its number and the reason, and the rest goes on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from ..channels import Channel, check_name, check_type
from ..exceptions import HubClosed, HubError, InvalidItem
from ..hub.inbox import threadsafe
from ..trading import CHANNELS
from .driver import Clock, Pace, Publisher, Sleep

CHANNELS_OF_A_FEED: Final[tuple[Channel, ...]] = (*CHANNELS, Channel("*"))
"""The four of the trading profile as they are, and every other name as a plain stream of events."""

MAX_LINE: Final = 256 * 1024
"""Bytes. More than any hub takes as one item, and a bound for a file that has no line ends."""
CHUNK: Final = 16 * 1024
"""Bytes read, and then published, in one go: a few milliseconds of the event loop."""
_NONBLOCKING_PAUSE: Final = 0.05


class FeedItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    channel: str
    type: str
    data: Any
    key: str | None = None


@dataclass(frozen=True, slots=True)
class FeedSummary:
    published: int
    refused: int


_decoder: Final = msgspec.json.Decoder(FeedItem)


def parse_line(line: str | bytes, number: int) -> FeedItem | None:
    """One line of a feed, None if it is blank; raises `InvalidItem` with the line's `number` and the reason."""
    if len(line) > MAX_LINE:
        raise InvalidItem(f"line {number} is longer than {MAX_LINE // 1024} KiB")
    if not line.strip():
        return None
    try:
        item = _decoder.decode(line)
        check_name(item.channel)
        check_type(item.type)
    except RecursionError:
        raise InvalidItem(f"line {number}: nested too deeply") from None
    except ValueError as exc:  # what msgspec raises, text that is not UTF-8, a name or type that is none
        raise InvalidItem(f"line {number}: {_printable(exc)}") from exc
    return item


def _printable(exc: Exception) -> str:
    """The reason in words fit for a terminal: it may hold what is in the file, and as much of it."""
    text = "".join(character if character.isprintable() else "?" for character in str(exc)[:301])
    return text if len(text) <= 300 else f"{text[:300]}..."


class LineSplitter:
    """Cuts chunks into numbered lines and holds at most `MAX_LINE` bytes of one that has not ended.

    Of a longer line it returns the first `MAX_LINE` + 1 bytes, which `parse_line` refuses, and drops the rest.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._number = 0
        self._is_skipping = False

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """The lines that end in `chunk`."""
        *ended, self._rest = (self._rest + chunk).split(b"\n")
        lines = []
        for line in ended:
            if not self._is_skipping:
                lines.append(self._numbered(line))
            self._is_skipping = False
        if len(self._rest) > MAX_LINE and not self._is_skipping:
            lines.append(self._numbered(self._rest))
            self._is_skipping = True
        if self._is_skipping:
            self._rest = b""
        return lines

    def finish(self) -> list[tuple[int, bytes]]:
        """The last line, if the file does not end with a line end."""
        rest, self._rest = self._rest, b""
        return [self._numbered(rest)] if rest else []

    def _numbered(self, line: bytes) -> tuple[int, bytes]:
        self._number += 1
        if self._number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # what some editors put in front
        return self._number, line[: MAX_LINE + 1]


class _Feed:
    """One run of `publish_feed`: its counters and where it reports."""

    def __init__(self, hub: Publisher, on_error: Callable[[int, str], object]) -> None:
        self.published = self.refused = 0
        self._hub = hub
        self._on_error = on_error

    def publish(self, number: int, line: bytes) -> None:
        try:
            item = parse_line(line, number)
        except InvalidItem as exc:
            self._refuse(str(exc))
            return
        if item is None:
            return
        try:
            self._hub.publish(item.channel, item.data, type=item.type, key=item.key)
        except HubClosed:
            raise
        except HubError as exc:
            self._refuse(f"line {number}: {_printable(exc)}")
            return
        self.published += 1

    def _refuse(self, sentence: str) -> None:
        self.refused += 1
        self._on_error(self.refused, sentence)


async def publish_feed(
    hub: Publisher,
    source: str | os.PathLike[str],
    *,
    on_error: Callable[[int, str], object],
    rate: float | None = None,
    clock: Clock = time.monotonic,
    sleep: Sleep = anyio.sleep,
) -> FeedSummary:
    """Publish the lines of the file `source`, or of standard input for "-", until it ends or the hub has shut down.

    `on_error` is called for each bad line with the number of bad ones so far and a sentence. `rate` is at most so many
    lines a second; without it a file goes out as fast as it is read. A file that cannot be opened or read raises
    `OSError`. The event loop never waits for the file, and cancellation never waits for somebody to type.
    """
    pace = None if rate is None else Pace(rate, clock())
    feed = _Feed(hub, on_error)
    lines = LineSplitter()
    reader = _Reader(source)
    try:
        is_ended = False
        while not is_ended:
            chunk = await reader.read()
            is_ended = not chunk
            for number, line in lines.finish() if is_ended else lines.feed(chunk):
                await _paced(pace, clock, sleep)
                feed.publish(number, line)
    except HubClosed:  # whoever has shut it down knows
        pass
    finally:
        reader.close()
    return FeedSummary(feed.published, feed.refused)


async def _paced(pace: Pace | None, clock: Clock, sleep: Sleep) -> None:
    if pace is not None:
        while not pace.due(now := clock()):
            await sleep(pace.wait(now))
        pace.take(1)


class _Reader:
    """Reads a file in a thread of its own, a chunk ahead of the event loop.

    Not `anyio.to_thread`: on asyncio its threads are no daemons, and one that waits for standard input would keep the
    process from ending. The file belongs to the thread alone: closed elsewhere, its descriptor could already be that
    of a client when the thread reads on.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self._source = source
        self._chunks: deque[bytes | OSError] = deque()
        self._room = threading.Semaphore(2)
        self._is_closed = False
        self._news = anyio.Event()
        self._wake = threadsafe(self._tell)
        threading.Thread(target=self._run, name="analytics-hub feed", daemon=True).start()

    async def read(self) -> bytes:
        """The next bytes, none at the end; raises what opening or reading raised."""
        await checkpoint()  # a fast disk always has the next chunk, and others have work too
        while not self._chunks:
            self._news = anyio.Event()
            await self._news.wait()
        chunk = self._chunks.popleft()
        self._room.release()
        if isinstance(chunk, OSError):
            raise chunk
        return chunk

    def close(self) -> None:
        """Let the thread go, as soon as what it waits for has come; nobody waits for it."""
        self._is_closed = True
        self._room.release()

    def _tell(self) -> None:
        self._news.set()

    def _run(self) -> None:
        try:
            with _open(self._source) as file:
                while not self._is_closed:
                    chunk = file.read(CHUNK)
                    if chunk is None:  # somebody has made it non-blocking, and there is nothing yet
                        time.sleep(_NONBLOCKING_PAUSE)
                        continue
                    self._put(chunk)
                    if not chunk:
                        return
        except OSError as exc:
            self._put(exc)

    def _put(self, chunk: bytes | OSError) -> None:
        self._room.acquire()
        self._chunks.append(chunk)
        self._wake()


def _open(source: str | os.PathLike[str]) -> RawIOBase:
    """Unbuffered, so that a pipe gives what it has, and no lock of a buffer is held when the process ends."""
    if source == "-":
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    return Path(source).open("rb", buffering=0)
