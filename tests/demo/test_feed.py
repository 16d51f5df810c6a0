"""Feeds: valid and invalid lines, splitting into lines, and reading that does not block the event loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analytics_hub import Channel, Hub, HubClosed, Identity, InvalidItem, UnknownChannel, anonymous
from analytics_hub.demo.feed import (
    CHUNK,
    FEED_CHANNELS,
    MAX_LINE,
    FeedItem,
    FeedSummary,
    LineSplitter,
    parse_line,
    publish_feed,
)
from analytics_hub.trading import CHANNELS
from analytics_hub.transports.memory import subscribe

from ..project.layout import ROOT

pytestmark = pytest.mark.anyio

LINE = '{"channel":"alerts","type":"alert","data":{"title":"Hello"}}'


def line(**fields: object) -> str:
    return json.dumps({"channel": "alerts", "type": "alert", "data": 1, **fields})


class TestParseLine:
    @pytest.mark.parametrize("data", [None, 0, 1.5, "text", [], {"a": [1, {"b": None}]}, 2**80], ids=repr)
    def test_data_may_be_any_json(self, data: object) -> None:
        text = line(data=data, key="LMAX")

        assert (
            parse_line(text, 1)
            == parse_line(text.encode(), 1)
            == FeedItem(channel="alerts", type="alert", data=data, key="LMAX")
        )

    @pytest.mark.parametrize("blank", ["", " ", "\t \r", b"", b"\r"], ids=repr)
    def test_blank_lines_have_no_item(self, blank: str | bytes) -> None:
        assert parse_line(blank, 1) is None

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("{", "Input data was truncated"),
            (LINE + LINE, "trailing characters"),
            ("[]", "Expected `object`, got `array`"),
            ('{"type":"t","data":1}', "missing required field `channel`"),
            (line(extra=1), "unknown field `extra`"),
            (line(channel=5), "Expected `str`, got `int` - at `$.channel`"),
            (line(channel="no blanks"), "channel name 'no blanks'"),
            (line(type="$hello"), "type '$hello'"),
            ('{"channel":"c","type":"t","data":NaN}', "JSON is malformed"),
            ('{"channel":"c","type":"t","data":1e999}', "Number out of range"),
            (b'{"channel":"c","type":"t","data":"\xff"}', "utf-8"),
            ("[" * 100_000, "Expected `object`, got `array`"),
            ('{"channel":"c","type":"t","data":' + "[" * 100_000, "nested too deeply"),
            (line(data="x" * MAX_LINE), "is longer than 256 KiB"),
        ],
        ids=range(14),
    )
    def test_an_invalid_line_raises_its_number_and_the_reason(self, text: str | bytes, reason: str) -> None:
        with pytest.raises(InvalidItem) as caught:
            parse_line(text, 12)

        assert str(caught.value).startswith("line 12")
        assert reason in str(caught.value)

    def test_the_reason_is_short_and_printable(self) -> None:
        with pytest.raises(InvalidItem) as caught:
            parse_line(line(**{"\x1b[2J\n" * 50_00: 1}), 1)

        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()

    @given(st.binary() | st.text())
    @example(b'{"channel":"c","type":"t","data":"\\ud800"}')
    def test_any_text_is_parsed_or_refused(self, text: str | bytes) -> None:
        try:
            item = parse_line(text, 1)
        except InvalidItem as exc:
            refusal = str(exc)
            assert refusal.startswith("line 1")
        else:
            assert item is None or isinstance(item, FeedItem)


class TestLineSplitter:
    @given(
        st.lists(st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"").lstrip(b"\xef")), max_size=20),
        st.lists(st.integers(0, 200), max_size=20),
        st.booleans(),
    )
    def test_the_lines_do_not_depend_on_the_chunks(self, lines: list[bytes], cuts: list[int], is_ended: bool) -> None:
        text = b"\n".join(lines) + (b"\n" if is_ended and lines else b"")
        at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]

        splitter = LineSplitter()
        found = [pair for start, end in pairwise(at) for pair in splitter.feed(text[start:end])] + splitter.finish()

        expected = text.split(b"\n")
        if expected[-1] == b"":
            expected.pop()
        assert [number for number, _ in found] == list(range(1, len(found) + 1))
        assert [text for _, text in found] == expected

    def test_a_byte_order_mark_is_removed_from_the_first_line(self) -> None:
        splitter = LineSplitter()

        assert splitter.feed(b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n") == [(1, b"{}"), (2, b"\xef\xbb\xbf{}")]

    def test_the_memory_for_a_line_without_an_end_is_bounded(self) -> None:
        splitter = LineSplitter()
        found = []
        for _ in range(100):
            found += splitter.feed(b"x" * CHUNK)
            assert len(splitter._rest) <= MAX_LINE + CHUNK
        found += splitter.feed(b"x\ny\n")
        found += splitter.finish()

        assert [(number, len(text)) for number, text in found] == [(1, MAX_LINE + 1), (2, 1)]


class FakeHub:
    """Records what is published, refuses the channel `unknown`, and shuts down after so many items."""

    def __init__(self, closes_after: int | None = None) -> None:
        self.published: list[tuple[str, object, str | None, str | None]] = []
        self._closes_after = closes_after
        self._has_published = anyio.Event()

    def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None:
        if channel == "unknown":
            raise UnknownChannel("no channel 'unknown'")
        if key is not None and channel != "lp-performance":
            raise InvalidItem(f"channel {channel!r} is no table and takes no key")
        if len(self.published) == self._closes_after:
            raise HubClosed("this hub has been shut down")
        self.published.append((channel, data, type, key))
        self._has_published.set()

    async def wait_for(self, count: int) -> None:
        while len(self.published) < count:
            self._has_published = anyio.Event()
            await self._has_published.wait()


class Errors(list[tuple[int, str]]):
    def __call__(self, count: int, message: str) -> None:
        self.append((count, message))


class TestPublishFeed:
    async def test_the_lines_of_a_file_are_published(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text(
            f'{LINE}\n\n{{"channel":"lp-performance","type":"lp-metrics","data":{{"lpName":"LMAX"}},"key":"LMAX"}}\r\n'
            '{"channel":"my.own","type":"x","data":[1,2]}'
        )
        hub, errors = FakeHub(), Errors()

        summary = await publish_feed(hub, path, on_error=errors)

        assert hub.published == [
            ("alerts", {"title": "Hello"}, "alert", None),
            ("lp-performance", {"lpName": "LMAX"}, "lp-metrics", "LMAX"),
            ("my.own", [1, 2], "x", None),
        ]
        assert errors == []
        assert summary == FeedSummary(published=3, refused=0)

    async def test_invalid_lines_are_reported_and_the_others_published(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text("\n".join([LINE, "{", line(channel="unknown"), "", line(key="k"), LINE]) + "\n")
        hub, errors = FakeHub(), Errors()

        summary = await publish_feed(hub, str(path), on_error=errors)

        assert summary == FeedSummary(published=2, refused=3)
        assert [count for count, _ in errors] == [1, 2, 3]
        assert errors[0][1].startswith("line 2: Input data was truncated")
        assert errors[1:] == [
            (2, "line 3: no channel 'unknown'"),
            (3, "line 5: channel 'alerts' is no table and takes no key"),
        ]

    async def test_many_lines_are_published_in_order(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text("".join(line(data=number) + "\n" for number in range(5000)))
        hub = FakeHub()

        await publish_feed(hub, path, on_error=Errors())

        assert [data for _, data, _, _ in hub.published] == list(range(5000))

    async def test_a_long_file_can_be_cancelled(self, tmp_path: Path) -> None:
        """The next chunk is always available, and other tasks run nevertheless."""
        path = tmp_path / "feed.jsonl"
        path.write_text(f"{LINE}\n" * 20_000)
        scope = anyio.CancelScope()

        class CancellingHub(FakeHub):
            def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None:
                super().publish(channel, data, type=type, key=key)
                scope.cancel()

        hub = CancellingHub()
        with scope:
            await publish_feed(hub, path, on_error=Errors())

        assert scope.cancelled_caught
        assert len(hub.published) <= 3 * (CHUNK // len(LINE) + 1)

    @pytest.mark.parametrize("name", ["missing", "."])
    async def test_an_unreadable_file_raises(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(OSError, match=r"No such file|Is a directory"):
            await publish_feed(FakeHub(), tmp_path / name, on_error=Errors())

    async def test_it_ends_when_the_hub_has_shut_down(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text(f"{LINE}\n" * 10)

        assert await publish_feed(FakeHub(closes_after=4), path, on_error=Errors()) == FeedSummary(4, 0)

    async def test_the_rate_is_exact(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text(f"{LINE}\n" * 21 + LINE)
        now = 50.0
        delays: list[float] = []

        async def sleep(delay: float) -> None:
            nonlocal now
            delays.append(delay)
            now += delay

        await publish_feed(FakeHub(), path, on_error=Errors(), rate=10, clock=lambda: now, sleep=sleep)

        assert now == pytest.approx(50.0 + 21 / 10)
        assert max(delays) < 0.11

    async def test_each_line_of_a_pipe_is_published_at_once(self, tmp_path: Path) -> None:
        """The pipe stays open: no line waits for a buffer to fill."""
        path = tmp_path / "pipe"
        os.mkfifo(path)
        hub = FakeHub()
        summaries: list[FeedSummary] = []

        async def publish() -> None:
            summaries.append(await publish_feed(hub, path, on_error=Errors()))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                with await anyio.to_thread.run_sync(lambda: path.open("wb", buffering=0)) as writer:
                    for number in range(1, 4):
                        writer.write(LINE.encode() + b"\n")
                        await hub.wait_for(number)

        assert summaries == [FeedSummary(3, 0)]

    async def test_cancellation_does_not_wait_for_the_next_line(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        hub = FakeHub()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(publish_feed, hub, path, on_error=Errors()))
                with await anyio.to_thread.run_sync(lambda: path.open("wb", buffering=0)) as writer:
                    writer.write(LINE.encode() + b"\n")
                    await hub.wait_for(1)
                    tasks.cancel_scope.cancel()

        assert len(hub.published) == 1
        await join_feed_threads()

    async def test_cancellation_does_not_wait_for_the_writer_of_a_pipe(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with anyio.fail_after(30), anyio.move_on_after(0.01) as scope:
            await publish_feed(FakeHub(), path, on_error=Errors())

        assert scope.cancelled_caught
        path.open("wb").close()  # ends the thread
        await join_feed_threads()

    async def test_an_exception_of_on_error_is_raised(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text("{\n")

        def fail(count: int, message: str) -> None:
            raise ZeroDivisionError(message)

        with pytest.raises(ZeroDivisionError, match="line 1"):
            await publish_feed(FakeHub(), path, on_error=fail)


async def join_feed_threads() -> None:
    """Wait for the threads that were left behind: they must end by themselves, and close their files."""
    for thread in threading.enumerate():
        if thread.name == "analytics-hub feed":
            await anyio.to_thread.run_sync(thread.join, 30)
            assert not thread.is_alive()


STDIN_PROGRAM = """
import sys, anyio
from analytics_hub.demo.feed import publish_feed

class Hub:
    def publish(self, channel, data, *, type=None, key=None):
        print(channel, data, flush=True)

async def main():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_on_file, tasks.cancel_scope)
        print(await publish_feed(Hub(), "-", on_error=print), flush=True)
        tasks.cancel_scope.cancel()

async def stop_on_file(scope):
    while not (len(sys.argv) > 2 and await anyio.Path(sys.argv[2]).exists()):
        await anyio.sleep(0.005)
    scope.cancel()

anyio.run(main, backend=sys.argv[1])
"""


class TestStandardInput:
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_the_process_ends_while_standard_input_is_open(self, backend: str, tmp_path: Path) -> None:
        """A thread that is not a daemon would keep the process alive until the next line of input."""
        signal = tmp_path / "stop"
        with subprocess.Popen(
            [sys.executable, "-c", STDIN_PROGRAM, backend, signal],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdin.write(LINE.encode() + b"\n")
            process.stdin.flush()
            first = process.stdout.readline()
            signal.touch()
            try:
                code = process.wait(timeout=60)
            finally:
                process.kill()
            rest = process.stdout.read(), process.stderr.read()

        assert first == b"alerts {'title': 'Hello'}\n"
        assert (code, *rest) == (0, b"", b"")

    def test_a_non_blocking_standard_input_is_read(self) -> None:
        """Some parent processes make it non-blocking."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        with subprocess.Popen(
            [sys.executable, "-c", STDIN_PROGRAM, "asyncio"], cwd=ROOT, stdin=reader, stdout=subprocess.PIPE
        ) as process:
            os.close(reader)
            assert process.stdout is not None
            os.write(writer, LINE.encode() + b"\n")
            first = process.stdout.readline()
            os.write(writer, LINE.encode() + b"\n")
            os.close(writer)
            rest = process.stdout.read()

        assert first + rest == (b"alerts {'title': 'Hello'}\n" * 2) + b"FeedSummary(published=2, refused=0)\n"


class TestChannels:
    def test_every_name_besides_the_trading_channels_is_a_channel(self) -> None:
        assert FEED_CHANNELS[:-1] == CHANNELS
        assert FEED_CHANNELS[-1] == Channel("*", mode="events")

    async def test_a_real_hub_accepts_valid_lines_and_refuses_the_others(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text(
            "\n".join(
                [
                    line(channel="lp-performance", type="lp-metrics", data={"lpName": "LMAX"}),
                    line(channel="lp-performance", type="lp-metrics", data={"lpName": "SAXO"}, key="SAXO"),
                    line(channel="my.own", type="reading", data={"celsius": 21.5}),
                    line(channel="my.own", type="reading", data=1, key="kitchen"),
                    line(channel="lp-performance", type="lp-metrics", data={"name": "LMAX"}),
                    line(channel="lp-performance", type="lp-metrics", data=7),
                    line(channel="my.own", type="reading", data="x" * 70_000),
                    '{"channel":"my.own","type":"reading","data":"\\ud800"}',
                ]
            )
        )
        admin = Identity(id="a", roles=frozenset({"admin"}))
        errors = Errors()
        with anyio.fail_after(30):
            async with (
                Hub(FEED_CHANNELS, authenticate=anonymous, grace=0.0) as hub,
                subscribe(hub, "lp-performance", "my.own", identity=admin) as client,
            ):
                summary = await publish_feed(hub, path, on_error=errors)
                items: list[dict[str, Any]] = []
                while len(items) < 3:
                    items += await anext(client)

        assert summary == FeedSummary(published=3, refused=5)
        assert [message.partition(":")[0] for _, message in errors] == [f"line {number}" for number in range(4, 9)]
        assert [(item["channel"], item.get("key"), item["data"]) for item in items] == [
            ("lp-performance", "LMAX", {"lpName": "LMAX"}),
            ("lp-performance", "SAXO", {"lpName": "SAXO"}),
            ("my.own", None, {"celsius": 21.5}),
        ]
