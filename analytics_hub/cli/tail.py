"""`analytics-hub tail`: follows channels in a terminal, across disconnects and restarts."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from ..client import (
    CommandFailed,
    ConnectionClosed,
    Disconnected,
    Draining,
    Event,
    Gap,
    HubClient,
    Item,
    Resumed,
)
from ..client.backoff import Backoff
from ..client.declared import fetch_channels
from ..client.exceptions import RequestFailed
from ..client.requests import HubRequests
from ..client.text import printable
from ..exceptions import HubError, InvalidItem
from ..protocol import CloseCode
from .bearer import URL_HELP, add_token_file, explaining_a_missing_token, parse_address, token_source
from .errors import CommandError, OutputError, write_line
from .rows import as_json, gap_row, row

TIMEOUT: Final = 10.0
"""Seconds for connecting, and for each wait, when the channels of the hub are requested."""


def add_tail(parser: argparse.ArgumentParser, count: Callable[[str], int]) -> None:
    parser.description = "Follow channels of a hub, across disconnects and restarts, until Ctrl-C."
    parser.add_argument("url", help=URL_HELP)
    parser.add_argument("channels", nargs="*", metavar="channel", help="default: every channel that the hub declares")
    parser.add_argument(
        "--channel", action="append", default=[], dest="more", metavar="NAME", help="another channel, may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print items and gaps as JSON, one a line")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--last", type=count, metavar="N", help="start with the last N items")
    start.add_argument("--snapshot", action="store_true", help="start with a snapshot of what the channel keeps")
    add_token_file(parser)
    parser.set_defaults(command=tail)


def tail(options: argparse.Namespace) -> int:
    address = parse_address(options.url)
    tokens = token_source(options.token_file, address)
    try:
        with explaining_a_missing_token(tokens):
            channels = options.channels + options.more or declared_channels(
                HubRequests(address, tokens, timeout=TIMEOUT)
            )
            follower = Follower(tuple(dict.fromkeys(channels)), options.last, options.snapshot, options.json)
            anyio.run(follower.follow, HubClient(options.url, tokens, on_event=follower.on_event))
    except KeyboardInterrupt:
        return 0
    except ConnectionClosed as error:
        print_notice(str(error))
        return 0 if error.code == CloseCode.NORMAL else 1
    raise CommandError("no channel is left to follow")


def print_notice(text: str) -> None:
    """Print a notice about the connection to stderr."""
    print(f"analytics-hub: {printable(text)}", file=sys.stderr)


def declared_channels(
    requests: HubRequests, report: Callable[[str], None] = print_notice, sleep: Callable[[float], None] = time.sleep
) -> list[str]:
    """The channels that the hub declares, without its patterns; waits for a hub that cannot be reached.

    Raises `CommandError` if it tells none, and `TokenRefused`.
    """
    names: list[str] | None = None
    backoff = Backoff()
    while names is None:
        try:
            names = fetch_channels(requests)
        except RequestFailed as error:
            if not error.is_transient:
                raise CommandError(f"cannot find out which channels the hub has: {error}; name them") from None
            delay = backoff.next_delay()
            report(f"{error}; trying again in {delay:.1f} s")
            sleep(delay)
    if patterns := [name for name in names if name.endswith("*")]:
        report(f"name the members of {', '.join(patterns)} that you want to follow: a pattern has no list of them")
    if channels := [name for name in names if name not in patterns]:
        return channels
    raise CommandError("the hub declares no channel that could be followed without naming it")


@dataclass(slots=True)
class Follower:
    """Follows `channels` and prints their items with `write`, and notices with `report`."""

    channels: Sequence[str]
    last: int | None = None
    snapshot: bool = False
    as_json: bool = False
    write: Callable[[str], None] = write_line
    report: Callable[[str], None] = print_notice
    _failure: Exception | None = None

    async def follow(self, client: HubClient) -> None:
        """Return when every channel was refused or has ended. Raises why the client has ended, or `OutputError`."""
        async with client:
            async with anyio.create_task_group() as tasks:
                for channel in self.channels:
                    tasks.start_soon(self._follow, client, channel, tasks)
            if self._failure is not None:
                raise self._failure

    async def _follow(self, client: HubClient, channel: str, tasks: TaskGroup) -> None:
        data: Any = msgspec.Raw if self.as_json else Any
        try:
            async with client.subscribe(channel, last=self.last, snapshot=self.snapshot, type=data) as items:
                if items.notice is not None:
                    self.report(f"channel {channel}: {items.notice}")
                while True:
                    try:
                        item = await anext(items)
                    except InvalidItem as error:
                        self.report(str(error))
                    else:
                        self.write(self._line(item))
        except OutputError as error:
            self._failure = error
            tasks.cancel_scope.cancel()
        except HubError as error:
            if client.state == "closed":
                self._failure = error
            else:
                self.report(f"channel {channel} refused: {error}")

    def _line(self, item: Item[Any] | Gap) -> str:
        if self.as_json:
            return as_json(item)
        return row(item) if isinstance(item, Item) else gap_row(item)

    def on_event(self, event: Event) -> None:
        """Report what has happened to the connection."""
        match event:
            case Disconnected(reason, delay):
                self.report(f"{reason}; reconnecting in {delay:.1f} s")
            case Draining(delay):
                self.report(f"the server is shutting down; reconnecting in {delay:.1f} s")
            case Resumed(channel, position, complete):
                outcome = "without loss" if complete else "but not all items were kept"
                self.report(f"channel {channel} resumed after item {position.seq}, {outcome}")
            case CommandFailed(code, message):
                self.report(f"{code}: {message}")
