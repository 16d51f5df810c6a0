"""`analytics-hub tail`: a terminal that follows channels, across disconnects and restarts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio
import msgspec
from anyio.abc import TaskGroup

from ..client import (
    Complaint,
    ConnectionClosed,
    Disconnected,
    Draining,
    Event,
    Gap,
    HubClient,
    Item,
    Resumed,
)
from ..client.backoff import printable
from ..client.target import Target
from ..exceptions import HubError, InvalidItem
from ..protocol import CloseCode
from .bearer import add_token_file, token_source
from .errors import CommandError, OutputError, write
from .rows import as_json, gap_row, row

DEFAULT_CHANNELS: Final = ("routing-metrics", "lp-performance", "exposure-updates", "alerts")


def add_tail(parser: argparse.ArgumentParser, count: Callable[[str], int]) -> None:
    parser.description = "Follow channels of a hub, across disconnects and restarts, until Ctrl-C."
    parser.add_argument("url", help="where the hub is: ws://localhost:7999 or wss://host/ws/analytics")
    parser.add_argument("channels", nargs="*", metavar="channel", help="the four trading channels if there is none")
    parser.add_argument("--channel", action="append", default=[], dest="more", metavar="NAME", help="may be repeated")
    parser.add_argument("--json", action="store_true", help="one item of JSON a line, gaps included")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--last", type=count, metavar="N", help="start N items back")
    start.add_argument("--snapshot", action="store_true", help="start with everything that is kept")
    add_token_file(parser)
    parser.set_defaults(command=tail)


def tail(options: argparse.Namespace) -> int:
    try:
        target = Target.parse(options.url)
    except ValueError as error:
        raise CommandError(str(error)) from None
    tokens = token_source(options.token_file, target)
    channels = tuple(dict.fromkeys(options.channels + options.more or DEFAULT_CHANNELS))
    follower = Follower(channels, options.last, options.snapshot, options.json)
    client = HubClient(options.url, tokens, on_event=follower.report)
    try:
        anyio.run(follower.follow, client)
    except KeyboardInterrupt:
        return 0
    except ConnectionClosed as error:
        say(str(error))
        return 0 if error.code == CloseCode.NORMAL else 1
    raise CommandError("nothing is left to follow")


def say(text: str) -> None:
    """A notice about the connection."""
    print(f"analytics-hub: {printable(text)}", file=sys.stderr)


@dataclass(slots=True)
class Follower:
    """Follows `channels` and prints what comes."""

    channels: Sequence[str]
    last: int | None = None
    snapshot: bool = False
    as_json: bool = False
    show: Callable[[str], None] = write
    say: Callable[[str], None] = say
    _failure: Exception | None = None

    async def follow(self, client: HubClient) -> None:
        """Returns when every channel was refused or ended; raises why the client has ended, or `OutputError`."""
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
                while True:
                    try:
                        item = await anext(items)
                    except InvalidItem as error:
                        self.say(str(error))
                    else:
                        self.show(self._line(item))
        except OutputError as error:
            self._failure = error
            tasks.cancel_scope.cancel()
        except HubError as error:
            if client.state == "closed":
                self._failure = error
            else:
                self.say(f"{channel} refused, {error}")

    def _line(self, item: Item[Any] | Gap) -> str:
        if self.as_json:
            return as_json(item)
        return row(item) if isinstance(item, Item) else gap_row(item)

    def report(self, event: Event) -> None:
        """Say what has happened to the connection."""
        match event:
            case Disconnected(sentence, delay):
                self.say(f"{sentence}; again in {delay:.1f} s")
            case Draining(delay):
                self.say(f"the server drains and asks to come back in {delay:.1f} s")
            case Resumed(channel, position, complete):
                outcome = "resumed without loss" if complete else "resumed, but not everything was kept"
                self.say(f"{channel} {outcome} after {position.seq}")
            case Complaint(code, message):
                self.say(f"{code}: {message}")
