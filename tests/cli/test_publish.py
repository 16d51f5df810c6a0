"""`analytics-hub publish`: input lines, and the items, receipts and messages that result."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from analytics_hub.cli import main
from analytics_hub.cli.errors import CommandError
from analytics_hub.cli.publish import MAX_BYTES, MAX_ITEMS, MAX_LINE, LinePublisher
from analytics_hub.client import PublishFailed
from analytics_hub.client.publisher import Outcome
from analytics_hub.contracts import Receipt
from analytics_hub.exceptions import ItemTooLarge, UnknownChannel

from ..client.test_publisher import serving

ITEM = b'{"channel":"a","data":%d}\n'


class FakeHub:
    """Accepts everything except items of the channel `nothing`."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    def publish(self, items: Sequence[dict[str, Any]]) -> list[Outcome]:
        self.batches.append(json.loads(msgspec.json.encode(items)))
        return [
            UnknownChannel("no such channel") if item["channel"] == "nothing" else Receipt("e", number)
            for number, item in enumerate(self.items[-len(items) :], len(self.items) - len(items) + 1)
        ]

    @property
    def items(self) -> list[Any]:
        return [item for batch in self.batches for item in batch]


def run(data: bytes, **options: Any) -> tuple[FakeHub, LinePublisher, list[str], list[str]]:
    """The hub and the publisher after `data`, and what was written to stdout and stderr."""
    hub, written, reported = FakeHub(), list[str](), list[str]()
    publisher = LinePublisher(hub.publish, write=written.append, report=reported.append, **options)
    publisher.run(io.BufferedReader(io.BytesIO(data)))
    return hub, publisher, written, reported


def test_lines_are_items_with_unchanged_data() -> None:
    hub, publisher, written, reported = run(
        b'{"channel":"a","data":{"x":1.50},"type":"t"}\n\n'
        b'{"channel":"a","data":null}\r\n{"channel":"table","key":"k","deleted":true}'
    )

    assert hub.items == [
        {"channel": "a", "data": {"x": 1.5}, "type": "t"},
        {"channel": "a", "data": None},
        {"channel": "table", "key": "k", "deleted": True},
    ]
    assert (publisher.published, written, reported) == (3, [], [])


def test_with_a_channel_the_lines_are_data() -> None:
    hub, *_ = run(b'1\n"two"\n{"channel":3}\n', channel="a")

    assert hub.items == [{"channel": "a", "data": data} for data in (1, "two", {"channel": 3})]


def test_receipts_contain_the_line_number() -> None:
    _, _, written, _ = run(b"\n" + ITEM % 1 + ITEM % 2, as_json=True)

    assert [json.loads(line) for line in written] == [
        {"line": 2, "channel": "a", "epoch": "e", "seq": 1},
        {"line": 3, "channel": "a", "epoch": "e", "seq": 2},
    ]


def test_invalid_lines_are_reported_and_the_others_published() -> None:
    hub, publisher, _, reported = run(
        b'{"channel":"a"\n{"channel":5}\n\xff\n{"channel":"a","data":1,"shade":2}\n'
        b'{"channel":"nothing","data":1}\n' + ITEM % 7
    )

    assert [line.partition(": ")[2].partition(":")[0] for line in reported] == [f"line {n}" for n in (1, 2, 3, 4, 5)]
    assert "`$.channel`" in reported[1]
    assert "UTF-8" in reported[2]
    assert "shade" in reported[3]
    assert reported[4] == "analytics-hub: line 5: no such channel"
    assert (publisher.published, publisher.refused) == (1, 5)
    assert hub.items[-1] == {"channel": "a", "data": 7}


def test_batches_are_bounded_by_number_and_by_size() -> None:
    hub, *_ = run(ITEM % 1 * (MAX_ITEMS + 1))
    assert sum(map(len, hub.batches)) == MAX_ITEMS + 1
    assert max(map(len, hub.batches)) <= MAX_ITEMS

    hub, *_ = run(b'"%b"\n' % (b"x" * (MAX_BYTES // 3)) * 4, channel="a")
    assert len(hub.items) == 4
    assert max(map(len, hub.batches)) <= 2

    with pytest.raises(CommandError, match="a line is longer"):
        run(b"x" * (2 * MAX_LINE))


def test_an_unreachable_hub_ends_the_command_with_the_number_of_published_items() -> None:
    def publish(items: Sequence[dict[str, Any]]) -> list[Outcome]:
        raise PublishFailed("no answer from there", is_uncertain=True)

    with pytest.raises(
        CommandError,
        match=r"^lines 1 to 2: no answer from there; they may have been published; 0 items were published before$",
    ):
        LinePublisher(publish).run(io.BufferedReader(io.BytesIO(ITEM % 1 + ITEM % 2)))


def test_a_line_that_is_too_large_is_reported_and_the_others_published() -> None:
    def publish(items: Sequence[dict[str, Any]]) -> list[Outcome]:
        if len(msgspec.json.encode(items)) > MAX_BYTES:
            raise ItemTooLarge("too large")
        return [Receipt("e", 1)] * len(items)

    reported: list[str] = []
    publisher = LinePublisher(publish, "a", report=reported.append)
    publisher.run(io.BufferedReader(io.BytesIO(b'1\n"%b"\n2\n' % (b"x" * MAX_BYTES))))

    assert reported == ["analytics-hub: line 2: too large"]
    assert (publisher.published, publisher.refused) == (2, 1)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANALYTICS_HUB_TOKEN", "writer")

    def test_receipts_refusals_and_the_summary(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The first line is published before the second one comes."""
        reading, writing = os.pipe()
        shown, showing = os.pipe()  # the capture of pytest loses output that is written while it is read
        with os.fdopen(reading) as stdin, os.fdopen(showing, "w") as stdout, os.fdopen(shown) as output:
            monkeypatch.setattr("sys.stdin", stdin)
            monkeypatch.setattr("sys.stdout", stdout)
            codes: list[int] = []
            thread = threading.Thread(target=lambda: codes.append(main(["publish", url, "--json"])))
            thread.start()
            os.write(writing, b'{"channel":"events","data":1}\n')
            receipt = output.readline()
            os.write(writing, b'{"channel":"own","data":1}\n')
            os.close(writing)
            thread.join()

        assert json.loads(receipt)["line"] == 1
        assert codes == [1]
        assert capsys.readouterr().err == (
            "analytics-hub: line 2: not allowed to publish to channel 'own'\nanalytics-hub: published 1, 1 refused\n"
        )

    def test_without_refusals_the_exit_code_is_0(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1\n2\n")))

        assert main(["publish", url, "--channel", "events"]) == 0
        assert capsys.readouterr() == ("", "analytics-hub: published 2\n")

    def test_without_an_input_a_message_says_so(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", None)

        assert main(["publish", url]) == 1
        assert capsys.readouterr().err == "analytics-hub: there is no standard input\n"

    def test_a_rejected_token_is_not_shown(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1\n")))
        monkeypatch.setenv("ANALYTICS_HUB_TOKEN", "old")

        assert main(["publish", url, "--channel", "events"]) == 1
        err = capsys.readouterr().err
        assert err.startswith("analytics-hub: line 1: the hub rejected the token (HTTP 401, expired token); 0 items")
        assert "old" not in err
