"""Feeds of the user's own: what a line may be, how lines are cut, and reading that never holds up the loop."""

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
    CHANNELS_OF_A_FEED,
    CHUNK,
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
    @pytest.mark.parametrize("as_text", [True, False], ids=["str", "bytes"])
    def test_a_line(self, as_text: bool) -> None:
        item = parse_line(LINE if as_text else LINE.encode(), 1)

        assert item == FeedItem(channel="alerts", type="alert", data={"title": "Hello"})

    @pytest.mark.parametrize("data", [None, 0, 1.5, "text", [], {"a": [1, {"b": None}]}, 2**80], ids=repr)
    def test_data_is_anything(self, data: object) -> None:
        item = parse_line(line(data=data, key="LMAX"), 1)

        assert item == FeedItem(channel="alerts", type="alert", data=data, key="LMAX")

    @pytest.mark.parametrize("blank", ["", " ", "\t \r", b"", b"\r"], ids=repr)
    def test_blank_lines_are_none(self, blank: str | bytes) -> None:
        assert parse_line(blank, 1) is None

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("{", "Input data was truncated"),
            ("nonsense", "JSON is malformed"),
            (LINE + LINE, "trailing characters"),
            ("[]", "Expected `object`, got `array`"),
            ("7", "Expected `object`, got `int`"),
            ('{"type":"t","data":1}', "missing required field `channel`"),
            ('{"channel":"c","data":1}', "missing required field `type`"),
            ('{"channel":"c","type":"t"}', "missing required field `data`"),
            (line(extra=1), "unknown field `extra`"),
            (line(channel=5), "Expected `str`, got `int` - at `$.channel`"),
            (line(key=5), "at `$.key`"),
            (line(channel="no blanks"), "channel name 'no blanks' is not 1 to 255 characters of"),
            (line(channel="a" * 256), "is not 1 to 255 characters of"),
            (line(channel=""), "channel name '' is not"),
            (line(type="$hello"), "type '$hello' must be a text that is not empty and does not start with $"),
            (line(type=""), "type '' must be"),
            ('{"channel":"c","type":"t","data":NaN}', "JSON is malformed"),
            ('{"channel":"c","type":"t","data":1e999}', "Number out of range"),
            (b'{"channel":"c","type":"t","data":"\xff"}', "utf-8"),
            ("[" * 100_000, "Expected `object`, got `array`"),
            ('{"channel":"c","type":"t","data":' + "[" * 100_000, "nested too deeply"),
            (line(data="x" * MAX_LINE), "is longer than 256 KiB"),
        ],
        ids=range(22),
    )
    def test_what_cannot_be_published_is_named_with_its_line(self, text: str | bytes, reason: str) -> None:
        with pytest.raises(InvalidItem) as caught:
            parse_line(text, 12)

        assert str(caught.value).startswith("line 12")
        assert reason in str(caught.value)

    def test_a_reason_is_short_and_fit_for_a_terminal(self) -> None:
        with pytest.raises(InvalidItem) as caught:
            parse_line(line(**{"\x1b[2J\n" * 50_00: 1}), 1)

        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()

    @given(st.binary() | st.text())
    @example(b'{"channel":"c","type":"t","data":"\\ud800"}')
    def test_refuses_or_returns_and_does_nothing_else(self, text: str | bytes) -> None:
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
    def test_the_same_lines_however_they_are_cut(self, lines: list[bytes], cuts: list[int], is_ended: bool) -> None:
        text = b"\n".join(lines) + (b"\n" if is_ended and lines else b"")
        at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]

        splitter = LineSplitter()
        found = [pair for start, end in pairwise(at) for pair in splitter.feed(text[start:end])] + splitter.finish()

        expected = text.split(b"\n")
        if expected[-1] == b"":
            expected.pop()
        assert [number for number, _ in found] == list(range(1, len(found) + 1))
        assert [text for _, text in found] == expected

    def test_the_mark_that_editors_put_in_front_is_no_part_of_the_first_line(self) -> None:
        splitter = LineSplitter()

        assert splitter.feed(b"\xef\xbb\xbf{}\n\xef\xbb\xbf{}\n") == [(1, b"{}"), (2, b"\xef\xbb\xbf{}")]

    def test_a_line_without_end_is_cut_and_takes_no_memory(self) -> None:
        splitter = LineSplitter()
        found = []
        for _ in range(100):
            found += splitter.feed(b"x" * CHUNK)
            assert len(splitter._rest) <= MAX_LINE + CHUNK
        found += splitter.feed(b"x\ny\n")
        found += splitter.finish()

        assert [(number, len(text)) for number, text in found] == [(1, MAX_LINE + 1), (2, 1)]


class FakeHub:
    """Records what is published; knows no channel `unknown`, and shuts down after so many items."""

    def __init__(self, closes_after: int | None = None) -> None:
        self.published: list[tuple[str, object, str | None, str | None]] = []
        self._closes_after = closes_after
        self._news = anyio.Event()

    def publish(self, channel: str, data: object, *, type: str | None = None, key: str | None = None) -> None:
        if channel == "unknown":
            raise UnknownChannel("no channel 'unknown'")
        if key is not None and channel != "lp-performance":
            raise InvalidItem(f"channel {channel!r} is no table and takes no key")
        if len(self.published) == self._closes_after:
            raise HubClosed("this hub has been shut down")
        self.published.append((channel, data, type, key))
        self._news.set()

    async def has_published(self, count: int) -> None:
        while len(self.published) < count:
            self._news = anyio.Event()
            await self._news.wait()


class Errors(list[tuple[int, str]]):
    def __call__(self, count: int, sentence: str) -> None:
        self.append((count, sentence))


class TestPublishFeed:
    async def test_publishes_the_lines_of_a_file(self, tmp_path: Path) -> None:
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

    async def test_goes_on_after_bad_lines_and_says_which(self, tmp_path: Path) -> None:
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

    async def test_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "empty"
        path.touch()

        assert await publish_feed(FakeHub(), path, on_error=Errors()) == FeedSummary(0, 0)

    async def test_many_lines_in_order(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text("".join(line(data=number) + "\n" for number in range(5000)))
        hub = FakeHub()

        await publish_feed(hub, path, on_error=Errors())

        assert [data for _, data, _, _ in hub.published] == list(range(5000))

    async def test_a_long_file_lets_others_have_their_turn(self, tmp_path: Path) -> None:
        """Cancellation comes through, though the next bytes are always there already."""
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
    async def test_a_file_that_cannot_be_read_raises(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(OSError, match=r"No such file|Is a directory"):
            await publish_feed(FakeHub(), tmp_path / name, on_error=Errors())

    async def test_ends_when_the_hub_has_shut_down(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text(f"{LINE}\n" * 10)

        assert await publish_feed(FakeHub(closes_after=4), path, on_error=Errors()) == FeedSummary(4, 0)

    async def test_at_a_rate(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text(f"{LINE}\n" * 21 + LINE)
        now = 50.0
        asked: list[float] = []

        async def sleep(delay: float) -> None:
            nonlocal now
            asked.append(delay)
            now += delay

        await publish_feed(FakeHub(), path, on_error=Errors(), rate=10, clock=lambda: now, sleep=sleep)

        assert now == pytest.approx(50.0 + 21 / 10)
        assert max(asked) < 0.11

    async def test_lines_of_a_pipe_go_out_as_they_come(self, tmp_path: Path) -> None:
        """A pipe that stays open: no line waits until there are enough of them to fill a buffer."""
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
                        await hub.has_published(number)

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
                    await hub.has_published(1)
                    tasks.cancel_scope.cancel()

        assert len(hub.published) == 1
        await join_feed_threads()

    async def test_cancellation_while_nobody_writes_yet(self, tmp_path: Path) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with anyio.fail_after(30), anyio.move_on_after(0.01) as scope:
            await publish_feed(FakeHub(), path, on_error=Errors())

        assert scope.cancelled_caught
        path.open("wb").close()  # lets the thread go
        await join_feed_threads()

    async def test_an_error_that_is_not_the_lines_own_comes_out(self, tmp_path: Path) -> None:
        path = tmp_path / "feed.jsonl"
        path.write_text("{\n")

        def fail(count: int, sentence: str) -> None:
            raise ZeroDivisionError(sentence)

        with pytest.raises(ZeroDivisionError, match="line 1"):
            await publish_feed(FakeHub(), path, on_error=fail)


async def join_feed_threads() -> None:
    """Wait for the threads that were left behind: they must find their own way home, and close their files."""
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
        tasks.start_soon(stop_when_told, tasks.cancel_scope)
        print(await publish_feed(Hub(), "-", on_error=print), flush=True)
        tasks.cancel_scope.cancel()

async def stop_when_told(scope):
    while not (len(sys.argv) > 2 and await anyio.Path(sys.argv[2]).exists()):
        await anyio.sleep(0.005)
    scope.cancel()

anyio.run(main, backend=sys.argv[1])
"""


class TestStandardInput:
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_to_its_end(self, backend: str) -> None:
        done = run_program(backend, stdin=f"{LINE}\nnonsense\n{LINE}".encode())

        assert done.stdout.decode().splitlines() == [
            "alerts {'title': 'Hello'}",
            "1 line 2: JSON is malformed: invalid character (byte 4)",
            "alerts {'title': 'Hello'}",
            "FeedSummary(published=2, refused=1)",
        ]

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_a_process_ends_though_nobody_types(self, backend: str, tmp_path: Path) -> None:
        """The pipe stays open. A thread that is no daemon would keep the process until somebody types a line."""
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

    def test_what_was_made_non_blocking_is_read_all_the_same(self) -> None:
        """As some parents leave the standard input of their children."""
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


def run_program(backend: str, *, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", STDIN_PROGRAM, backend], cwd=ROOT, input=stdin, capture_output=True, check=True
    )


class TestChannels:
    def test_the_four_stay_what_they_are_and_everything_else_is_taken(self) -> None:
        assert CHANNELS_OF_A_FEED[:-1] == CHANNELS
        assert CHANNELS_OF_A_FEED[-1] == Channel("*", mode="events")

    async def test_a_real_hub_takes_and_refuses(self, tmp_path: Path) -> None:
        """Each bad line has its own error, whatever is wrong with it, and the good ones arrive."""
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
                Hub(CHANNELS_OF_A_FEED, authenticate=anonymous, grace=0.0) as hub,
                subscribe(hub, "lp-performance", "my.own", identity=admin) as client,
            ):
                summary = await publish_feed(hub, path, on_error=errors)
                items: list[dict[str, Any]] = []
                while len(items) < 3:
                    items += await anext(client)

        assert summary == FeedSummary(published=3, refused=5)
        assert [sentence.partition(":")[0] for _, sentence in errors] == [f"line {number}" for number in range(4, 9)]
        assert [(item["channel"], item.get("key"), item["data"]) for item in items] == [
            ("lp-performance", "LMAX", {"lpName": "LMAX"}),
            ("lp-performance", "SAXO", {"lpName": "SAXO"}),
            ("my.own", None, {"celsius": 21.5}),
        ]
