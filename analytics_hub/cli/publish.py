"""`analytics-hub publish`: publishes the lines of standard input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any, Final, NamedTuple, TextIO, cast

import msgspec

from ..channels import clip
from ..client import HubPublisher, TokenRefused
from ..client.publisher import Outcome
from ..client.text import printable
from ..contracts import Receipt
from ..exceptions import HubError, ItemTooLarge
from .bearer import URL_HELP, add_token_file, explaining_a_missing_token, parse_address, token_source
from .errors import CommandError, write_line

MAX_ITEMS: Final = 100
MAX_BYTES: Final = 96 * 1024
"""Bytes in one request, at most; a hub accepts 144 KiB."""
MAX_LINE: Final = 1024 * 1024


class Line(NamedTuple):
    """An input line that can be published."""

    number: int
    channel: str
    item: dict[str, Any]
    size: int


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    """The format of the hub. It is checked here too, so that an invalid line is reported with its number."""

    channel: str
    data: msgspec.Raw = msgspec.Raw()
    type: str | None = None
    key: str | None = None
    deleted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields that the line has."""
        optional: dict[str, Any] = {"type": self.type, "key": self.key, "deleted": self.deleted or None}
        fields = {"channel": self.channel} | {name: value for name, value in optional.items() if value is not None}
        return fields | ({"data": self.data} if bytes(self.data) else {})


def add_publish(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Publish lines of standard input: {"channel":...,"data":...}, optionally with "type", "key" or "deleted"; '
        "with --channel, the data alone. A refused line is reported, and the others are published."
    )
    parser.add_argument("url", help=URL_HELP)
    parser.add_argument("--channel", metavar="NAME", help="the lines are data for this channel")
    parser.add_argument("--json", action="store_true", help="print a receipt for each item, as one line of JSON")
    add_token_file(parser)
    parser.set_defaults(command=publish)


def publish(options: argparse.Namespace) -> int:
    tokens = token_source(options.token_file, parse_address(options.url))
    if (source := cast("TextIO | None", sys.stdin)) is None:  # as after `<&-`
        raise CommandError("there is no standard input")
    publisher = HubPublisher(options.url, tokens)
    line_publisher = LinePublisher(publisher.publish_many, options.channel, options.json)
    with explaining_a_missing_token(tokens):
        line_publisher.run(cast("BufferedReader", source.buffer))
    refused = f", {line_publisher.refused} refused" if line_publisher.refused else ""
    print(f"analytics-hub: published {line_publisher.published}{refused}", file=sys.stderr)
    return 1 if line_publisher.refused else 0


@dataclass(slots=True)
class LinePublisher:
    """Publishes lines in batches of those that are available, without waiting for more."""

    publish: Callable[[Sequence[dict[str, Any]]], list[Outcome]]
    channel: str | None = None
    as_json: bool = False
    write: Callable[[str], None] = write_line
    report: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    published: int = 0
    refused: int = 0
    _number: int = field(default=0, init=False)

    def run(self, source: BufferedReader) -> None:
        """Publish everything up to the end.

        Raises `CommandError` if the hub cannot be reached or refuses a batch, `TokenRefused` if it requires a token.
        """
        for chunk in _chunks(source):
            lines: list[Line] = []
            for text in chunk:
                self._number += 1
                line = self._parse(text)
                if line is not None:
                    lines.append(line)
            for batch in _batches(lines):
                self._publish(batch)

    def _parse(self, text: bytes) -> Line | None:
        """The item of one line; None for an empty line, and for an invalid one, which is reported."""
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
            self._refused(self._number, "invalid UTF-8")
        except (ValueError, RecursionError) as error:
            self._refused(self._number, f"invalid item: {clip(str(error))}")
        else:
            return Line(self._number, item.channel, item.to_dict(), len(text))
        return None

    def _publish(self, batch: Sequence[Line]) -> None:
        try:
            outcomes = self.publish([line.item for line in batch])
        except ItemTooLarge as error:  # only a batch of a single line can be
            self._refused(batch[0].number, str(error))
            return
        except HubError as error:
            if isinstance(error, TokenRefused) and error.fault == "missing":
                raise
            first, last = batch[0].number, batch[-1].number
            where = f"line {first}" if first == last else f"lines {first} to {last}"
            hint = "; they may have been published" if getattr(error, "is_uncertain", False) else ""
            raise CommandError(f"{where}: {error}{hint}; {self.published} items were published before") from None
        for line, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, HubError):
                self._refused(line.number, str(outcome))
                continue
            self.published += 1
            if self.as_json:
                self.write(_receipt(line, outcome))

    def _refused(self, number: int, reason: str) -> None:
        self.refused += 1
        self.report(f"analytics-hub: line {number}: {printable(reason)}")


def _receipt(line: Line, receipt: Receipt | None) -> str:
    position = {"epoch": receipt and receipt.epoch, "seq": receipt and receipt.seq}
    return msgspec.json.encode({"line": line.number, "channel": line.channel, **position}).decode()


def _chunks(source: BufferedReader) -> Iterator[list[bytes]]:
    """Whole lines, as many as one read returns."""
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
        if batch and (len(batch) >= MAX_ITEMS or size + line.size > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += line.size + len(line.channel) + 32  # the fields that --channel adds to a line
    if batch:
        yield batch
