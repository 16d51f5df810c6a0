"""`analytics-hub publish`: lines of standard input become items of a hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any, Final, NamedTuple, TextIO, cast

import msgspec

from ..channels import clip
from ..client import HubPublisher
from ..client.backoff import printable
from ..client.publisher import Outcome
from ..client.target import Target
from ..contracts import Receipt
from ..exceptions import HubError, ItemTooLarge
from .bearer import add_token_file, token_source
from .errors import CommandError, write

MOST_ITEMS: Final = 100
MOST_BYTES: Final = 96 * 1024
"""In one request; a hub takes 144 KiB."""
MAX_LINE: Final = 1024 * 1024


class Line(NamedTuple):
    """A line of the input that can be published."""

    number: int
    channel: str
    item: dict[str, Any]
    size: int


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    """As the hub takes it; here it is looked at so that a wrong line is told by its number."""

    channel: str
    data: msgspec.Raw = msgspec.Raw()
    type: str | None = None
    key: str | None = None
    deleted: bool = False

    def given(self) -> dict[str, Any]:
        """The fields that the line had."""
        fields: dict[str, Any] = {"type": self.type, "key": self.key, "deleted": self.deleted or None}
        given = {"channel": self.channel} | {name: value for name, value in fields.items() if value is not None}
        return given | ({"data": self.data} if bytes(self.data) else {})


def add_publish(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Publish lines of standard input: {"channel":...,"data":...} with "type", "key" or "deleted" where wanted, '
        "or with --channel the data alone. A line that is refused is reported and the others go on."
    )
    parser.add_argument("url", help="where the hub is mounted: http://localhost:7999 or https://host/hub")
    parser.add_argument("--channel", metavar="NAME", help="lines are data for this channel")
    parser.add_argument("--json", action="store_true", help="print a receipt for each item, as one line of JSON")
    add_token_file(parser)
    parser.set_defaults(command=publish)


def publish(options: argparse.Namespace) -> int:
    try:
        target = Target.parse(options.url, schemes=("http", "https"), default_path="/")
    except ValueError as error:
        raise CommandError(str(error)) from None
    if (source := cast("TextIO | None", sys.stdin)) is None:  # as after `<&-`
        raise CommandError("there is no standard input")
    publisher = HubPublisher(options.url, token_source(options.token_file, target))
    press = Press(publisher.publish_many, options.channel, options.json)
    press.run(cast("BufferedReader", source.buffer))
    refused = f", {press.refused} refused" if press.refused else ""
    print(f"analytics-hub: published {press.published}{refused}", file=sys.stderr)
    return 1 if press.refused else 0


@dataclass(slots=True)
class Press:
    """Publishes lines in batches: what has come so far, never waiting for more."""

    publish: Callable[[Sequence[dict[str, Any]]], list[Outcome]]
    channel: str | None = None
    as_json: bool = False
    show: Callable[[str], None] = write
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    published: int = 0
    refused: int = 0
    _number: int = field(default=0, init=False)

    def run(self, source: BufferedReader) -> None:
        """Publish everything up to the end. Raises `CommandError` if the hub can take no more."""
        for chunk in _chunks(source):
            lines: list[Line] = []
            for text in chunk:
                self._number += 1
                line = self._read(text)
                if line is not None:
                    lines.append(line)
            for batch in _batches(lines):
                self._publish(batch)

    def _read(self, text: bytes) -> Line | None:
        """The item of one line; None for an empty one and, with a complaint, for a wrong one."""
        text = text.strip()
        if not text:
            return None
        try:
            text.decode()
            if self.channel is not None:
                msgspec.json.decode(text)
                return Line(self._number, self.channel, {"channel": self.channel, "data": msgspec.Raw(text)}, len(text))
            item = msgspec.json.decode(text, type=_Item)
        except UnicodeDecodeError:
            self._complain(self._number, "this is not valid UTF-8")
        except (ValueError, RecursionError) as error:
            self._complain(self._number, f"this is no item: {clip(str(error))}")
        else:
            return Line(self._number, item.channel, item.given(), len(text))
        return None

    def _publish(self, batch: Sequence[Line]) -> None:
        try:
            outcomes = self.publish([line.item for line in batch])
        except ItemTooLarge as error:  # only a line that makes a request of its own is
            self._complain(batch[0].number, str(error))
            return
        except HubError as error:
            first, last = batch[0].number, batch[-1].number
            where = f"line {first}" if first == last else f"lines {first} to {last}"
            doubt = "; they may have been published" if getattr(error, "is_uncertain", False) else ""
            raise CommandError(f"{where}: {error}{doubt}; {self.published} were published before") from None
        for line, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, HubError):
                self._complain(line.number, str(outcome))
                continue
            self.published += 1
            if self.as_json:
                self.show(_receipt(line, outcome))

    def _complain(self, number: int, sentence: str) -> None:
        self.refused += 1
        self.say(f"analytics-hub: line {number}: {printable(sentence)}")


def _receipt(line: Line, receipt: Receipt | None) -> str:
    place = {"epoch": receipt and receipt.epoch, "seq": receipt and receipt.seq}
    return msgspec.json.encode({"line": line.number, "channel": line.channel, **place}).decode()


def _chunks(source: BufferedReader) -> Iterator[list[bytes]]:
    """Whole lines, as many as there are at once."""
    rest = b""
    while data := source.read1(65_536):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE:
            raise CommandError(f"a line is longer than {MAX_LINE} bytes")
        yield lines
    if rest:
        yield [rest]


def _batches(lines: Sequence[Line]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for line in lines:
        if batch and (len(batch) >= MOST_ITEMS or size + line.size > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += line.size + len(line.channel) + 32  # what --channel adds to a line
    if batch:
        yield batch
