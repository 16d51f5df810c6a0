"""The user's own events instead of the simulation: one JSON object a line, `{"channel","type","data","key"?}`.

A line that cannot be published is reported with its number and the reason, and the others are published.
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

from ..channels import Channel, check_name, check_type, clip
from ..client.text import printable
from ..event_loop import threadsafe
from ..exceptions import HubClosed, HubError, InvalidItem
from ..trading import CHANNELS
from .pacing import Clock, Pace, Publisher, Sleep

FEED_CHANNELS: Final[tuple[Channel, ...]] = (*CHANNELS, Channel("*"))
"""The four of the trading profile, and every other name as a channel of mode `events`."""

MAX_LINE: Final = 256 * 1024
"""Bytes. More than the largest item of any hub, and a bound for a file without line ends."""
CHUNK: Final = 16 * 1024
"""Bytes read and published at a time: a few milliseconds of the event loop."""
_POLL_INTERVAL: Final = 0.05


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
    """The item of one line, None if it is blank; raises `InvalidItem` with the `number` of the line and the reason."""
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
    except ValueError as error:  # of msgspec, of decoding UTF-8, or an invalid name or type
        raise InvalidItem(f"line {number}: {_reason(error)}") from error
    return item


def _reason(error: Exception) -> str:
    """The message, safe for a terminal and of bounded length: it may quote the file."""
    return clip(printable(str(error)))


class LineSplitter:
    """Splits chunks into numbered lines, and buffers at most `MAX_LINE` bytes of an incomplete one.

    Of a longer line it returns the first `MAX_LINE` + 1 bytes, which `parse_line` refuses, and discards the rest.
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
        """The last line, if it has no line end."""
        rest, self._rest = self._rest, b""
        return [self._numbered(rest)] if rest else []

    def _numbered(self, line: bytes) -> tuple[int, bytes]:
        self._number += 1
        if self._number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors write
        return self._number, line[: MAX_LINE + 1]


class _LinePublisher:
    """Publishes the lines of one feed, and counts them."""

    def __init__(self, hub: Publisher, on_error: Callable[[int, str], object]) -> None:
        self.published = self.refused = 0
        self._hub = hub
        self._on_error = on_error

    def publish(self, number: int, line: bytes) -> None:
        try:
            item = parse_line(line, number)
        except InvalidItem as error:
            self._refused(str(error))
            return
        if item is None:
            return
        try:
            self._hub.publish(item.channel, item.data, type=item.type, key=item.key)
        except HubClosed:
            raise
        except HubError as error:
            self._refused(f"line {number}: {_reason(error)}")
            return
        self.published += 1

    def _refused(self, message: str) -> None:
        self.refused += 1
        self._on_error(self.refused, message)


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

    `on_error` is called for each refused line, with the number of refused lines so far and a message. `rate` is the
    maximum of lines a second; without it a file is published as fast as it is read. A file that cannot be opened or
    read raises `OSError`. Neither the event loop nor cancellation waits for the file.
    """
    pace = None if rate is None else Pace(rate, clock())
    publisher = _LinePublisher(hub, on_error)
    lines = LineSplitter()
    reader = _Reader(source)
    try:
        is_ended = False
        while not is_ended:
            chunk = await reader.read()
            is_ended = not chunk
            for number, line in lines.finish() if is_ended else lines.feed(chunk):
                if pace is not None:
                    while not pace.due(now := clock()):
                        await sleep(pace.delay(now))
                    pace.published(1)
                publisher.publish(number, line)
    except HubClosed:  # the hub was shut down: the end of the feed
        pass
    finally:
        reader.close()
    return FeedSummary(publisher.published, publisher.refused)


class _Reader:
    """Reads a file in a thread of its own, one chunk ahead of the event loop.

    Not `anyio.to_thread`: on asyncio its threads are not daemons, and one that waits for standard input would keep the
    process alive. Only the thread closes the file: otherwise its descriptor might already belong to a client when the
    thread reads again.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self._source = source
        self._chunks: deque[bytes | OSError] = deque()
        self._room = threading.Semaphore(2)
        self._is_closed = False
        self._has_chunk = anyio.Event()
        self._call_soon = threadsafe()
        threading.Thread(target=self._run, name="analytics-hub feed", daemon=True).start()

    async def read(self) -> bytes:
        """The next bytes, empty at the end; raises what opening or reading raised."""
        await checkpoint()  # a fast disk always has the next chunk, and other tasks must run too
        while not self._chunks:
            self._has_chunk = anyio.Event()
            await self._has_chunk.wait()
        chunk = self._chunks.popleft()
        self._room.release()
        if isinstance(chunk, OSError):
            raise chunk
        return chunk

    def close(self) -> None:
        """Let the thread end when its current read returns, without waiting for it."""
        self._is_closed = True
        self._room.release()

    def _on_chunk(self) -> None:
        self._has_chunk.set()

    def _run(self) -> None:
        try:
            with _open(self._source) as file:
                while not self._is_closed:
                    chunk = file.read(CHUNK)
                    if chunk is None:  # the file is non-blocking, and there is no data yet
                        time.sleep(_POLL_INTERVAL)
                        continue
                    self._put(chunk)
                    if not chunk:
                        return
        except OSError as error:
            self._put(error)

    def _put(self, chunk: bytes | OSError) -> None:
        self._room.acquire()
        self._chunks.append(chunk)
        self._call_soon(self._on_chunk)


def _open(source: str | os.PathLike[str]) -> RawIOBase:
    """Unbuffered, so that a read of a pipe returns what is available, and no buffer lock is held at exit."""
    if source == "-":
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    return Path(source).open("rb", buffering=0)
