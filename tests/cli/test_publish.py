"""`analytics-hub publish`: lines in, items, receipts and complaints out."""

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
from analytics_hub.cli.publish import MAX_LINE, MOST_BYTES, MOST_ITEMS, Press
from analytics_hub.client import PublishFailed
from analytics_hub.client.publisher import Outcome
from analytics_hub.exceptions import ItemTooLarge, UnknownChannel
from analytics_hub.hub.journal import Receipt

from ..client.test_publisher import serving

ITEM = b'{"channel":"a","data":%d}\n'


class Hub:
    """Takes everything but what goes to `nothing`."""

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


def run(data: bytes, **options: Any) -> tuple[Hub, Press, list[str], list[str]]:
    hub, shown, said = Hub(), list[str](), list[str]()
    press = Press(hub.publish, show=shown.append, say=said.append, **options)
    press.run(io.BufferedReader(io.BytesIO(data)))
    return hub, press, shown, said


def test_lines_are_items_and_their_data_is_passed_on_to_the_letter() -> None:
    hub, press, shown, said = run(
        b'{"channel":"a","data":{"x":1.50},"type":"t"}\n\n'
        b'{"channel":"a","data":null}\r\n{"channel":"table","key":"k","deleted":true}'
    )

    assert hub.items == [
        {"channel": "a", "data": {"x": 1.5}, "type": "t"},
        {"channel": "a", "data": None},
        {"channel": "table", "key": "k", "deleted": True},
    ]
    assert (press.published, shown, said) == (3, [], [])


def test_with_a_channel_lines_are_data() -> None:
    hub, *_ = run(b'1\n"two"\n{"channel":3}\n', channel="a")

    assert hub.items == [{"channel": "a", "data": data} for data in (1, "two", {"channel": 3})]


def test_receipts_name_their_line() -> None:
    _, _, shown, _ = run(b"\n" + ITEM % 1 + ITEM % 2, as_json=True)

    assert [json.loads(line) for line in shown] == [
        {"line": 2, "channel": "a", "epoch": "e", "seq": 1},
        {"line": 3, "channel": "a", "epoch": "e", "seq": 2},
    ]


def test_wrong_lines_are_told_and_the_rest_goes_on() -> None:
    hub, press, _, said = run(
        b'{"channel":"a"\n{"channel":5}\n\xff\n{"channel":"a","data":1,"shade":2}\n'
        b'{"channel":"nothing","data":1}\n' + ITEM % 7
    )

    assert [line.partition(": ")[2].partition(":")[0] for line in said] == [f"line {n}" for n in (1, 2, 3, 4, 5)]
    assert "`$.channel`" in said[1]
    assert "UTF-8" in said[2]
    assert "shade" in said[3]
    assert said[4] == "analytics-hub: line 5: no such channel"
    assert (press.published, press.refused) == (1, 5)
    assert hub.items[-1] == {"channel": "a", "data": 7}


def test_batches_are_bounded_by_number_and_by_size() -> None:
    hub, *_ = run(ITEM % 1 * (MOST_ITEMS + 1))
    assert sum(map(len, hub.batches)) == MOST_ITEMS + 1
    assert max(map(len, hub.batches)) <= MOST_ITEMS

    hub, *_ = run(b'"%b"\n' % (b"x" * (MOST_BYTES // 3)) * 4, channel="a")
    assert len(hub.items) == 4
    assert max(map(len, hub.batches)) <= 2

    with pytest.raises(CommandError, match="a line is longer"):
        run(b"x" * (2 * MAX_LINE))


def test_a_hub_that_cannot_be_reached_ends_it_with_what_is_known() -> None:
    def publish(items: Sequence[dict[str, Any]]) -> list[Outcome]:
        raise PublishFailed("no answer from there", is_uncertain=True)

    with pytest.raises(
        CommandError,
        match=r"^lines 1 to 2: no answer from there; they may have been published; 0 were published before$",
    ):
        Press(publish).run(io.BufferedReader(io.BytesIO(ITEM % 1 + ITEM % 2)))


def test_a_line_that_is_too_large_for_a_request_is_told_and_the_rest_goes_on() -> None:
    def publish(items: Sequence[dict[str, Any]]) -> list[Outcome]:
        if len(msgspec.json.encode(items)) > MOST_BYTES:
            raise ItemTooLarge("too large")
        return [Receipt("e", 1)] * len(items)

    said: list[str] = []
    press = Press(publish, "a", say=said.append)
    press.run(io.BufferedReader(io.BytesIO(b'1\n"%b"\n2\n' % (b"x" * MOST_BYTES))))

    assert said == ["analytics-hub: line 2: too large"]
    assert (press.published, press.refused) == (2, 1)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANALYTICS_HUB_TOKEN", "writer")

    def test_receipts_complaints_and_the_sum(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What has come is published before there is more."""
        reading, writing = os.pipe()
        shown, showing = os.pipe()  # pytest's own capture loses what is written while it is looked at
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

    def test_without_complaints_the_code_is_0(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1\n2\n")))

        assert main(["publish", url, "--channel", "events"]) == 0
        assert capsys.readouterr() == ("", "analytics-hub: published 2\n")

    def test_without_an_input_there_is_a_sentence(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", None)

        assert main(["publish", url]) == 1
        assert capsys.readouterr().err == "analytics-hub: there is no standard input\n"

    def test_a_token_that_is_not_good_is_not_shown(
        self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1\n")))
        monkeypatch.setenv("ANALYTICS_HUB_TOKEN", "old")

        assert main(["publish", url, "--channel", "events"]) == 1
        err = capsys.readouterr().err
        assert err.startswith("analytics-hub: line 1: the hub wants another token (HTTP 401, expired token); 0 were")
        assert "old" not in err
