"""The demo as one program: a hub, the simulation or a feed, and a server with a page and a login."""

from __future__ import annotations

import functools
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

import anyio
from anyio.abc import TaskGroup

from ..auth import JWTAuthenticator
from ..exceptions import HubError
from ..http import Respond, compose, is_loopback, respond_page
from ..hub import Hub
from ..trading import CHANNELS
from ..trading.process import with_publishers
from ..transports._origins import Origins
from ..transports.websocket import Certificate, serve
from ..tuning import Profile, Tuning
from .feed import FEED_CHANNELS, publish_feed
from .login import refuse_login, respond_login
from .office import BackOffice
from .pacing import MAX_RATE, publish_events

GRACE: Final = 1.0
"""Seconds for clients to leave after Ctrl-C; the whole shutdown takes less than two."""
DEFAULT_RATE: Final = 100.0
WARM_UP_EVENTS: Final = 4000
"""Published before the server starts: it takes long until a position crosses a limit and raises the first alert."""
PUBLISHERS: Final = frozenset({"admin"})

Print = Callable[[str], None]


class DemoError(HubError):
    """The demo cannot start or continue; the message is shown to the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The options of `analytics-hub demo`. `rate` None: 100 events a second, or a feed as fast as it is read."""

    secret: str = field(repr=False)
    host: str = "localhost"
    port: int = 7999
    rate: float | None = None
    seed: int = 1
    feed: str | None = None
    profile: Profile = "default"
    has_login: bool = True
    certificate: Certificate | None = None
    origins: tuple[str, ...] = ()


def _print(text: str) -> None:
    print(text, flush=True)


async def run_demo(options: DemoOptions, print_line: Print = _print) -> None:
    """Run until SIGINT or SIGTERM, then drain. Raises `DemoError` if it cannot start or continue."""
    hub = Hub(
        with_publishers(CHANNELS if options.feed is None else FEED_CHANNELS, PUBLISHERS),
        authenticate=JWTAuthenticator(options.secret, algorithms=["HS256"]),
        tuning=Tuning.profile(options.profile),
        grace=GRACE,
    )
    office = BackOffice(options.seed)
    error: DemoError | None = None  # raised outside the task groups, which would wrap it
    signals: AsyncIterator[object]
    with ExitStack() as stack:
        try:
            signals = stack.enter_context(anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM))
        except NotImplementedError:  # an event loop without signals: Ctrl-C raises KeyboardInterrupt
            signals = _never()
        async with hub, anyio.create_task_group() as tasks:
            try:
                if options.feed is None:
                    await publish_events(hub, office, MAX_RATE, count=WARM_UP_EVENTS)
                port = await _start_serving(hub, options, tasks)
            except OSError as cause:
                error = DemoError(str(cause))
            else:
                print_line(introduction(options, port))
                error = await _publish_until(signals, hub, options, print_line, office)
                if error is None:
                    print_line("Draining.")
            await hub.shutdown()
            tasks.cancel_scope.cancel()
    if error is not None:
        raise error


async def _never() -> AsyncIterator[object]:
    await anyio.sleep_forever()
    yield None


async def _start_serving(hub: Hub, options: DemoOptions, tasks: TaskGroup) -> int:
    start = functools.partial(
        serve, hub, options.host, options.port,
        respond=respond_demo(options), ssl_context=options.certificate, origins=options.origins,
    )  # fmt: skip
    port: int = await tasks.start(start)
    if options.certificate is not None and hasattr(signal, "SIGHUP"):
        await tasks.start(options.certificate.reload_on_hangup)
    return port


def respond_demo(options: DemoOptions) -> Respond:
    """The HTTP endpoints of the demo, in addition to those of the hub: the page at `/`, and `/login`."""
    page = files("analytics_hub.demo").joinpath("page.html").read_text(encoding="utf-8")
    if options.has_login:
        origins = Origins(options.origins)
        login = respond_login(options.secret, local_only=is_loopback(options.host), origins=origins)
    else:
        login = refuse_login(
            "logins are disabled, because this demo is reachable from other machines; use `analytics-hub token`"
        )
    return compose(respond_page("/", page), login)


async def _publish_until(
    signals: AsyncIterator[object], hub: Hub, options: DemoOptions, print_line: Print, office: BackOffice
) -> DemoError | None:
    """Publish until the first signal; returns why it could not continue."""
    error: DemoError | None = None

    async def publish() -> None:
        nonlocal error
        try:
            await _publish(hub, options, print_line, office)
        except OSError as cause:
            error = DemoError(f"cannot read the feed {options.feed}: {cause.strerror}")
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish)
        await anext(signals)
        tasks.cancel_scope.cancel()
    return error


async def _publish(hub: Hub, options: DemoOptions, print_line: Print, office: BackOffice) -> None:
    if options.feed is None:
        await publish_events(hub, office, options.rate or DEFAULT_RATE)
        return

    def report(number: int, message: str) -> None:
        if number <= 10 or number % 1000 == 0:  # a feed of invalid lines must not flood the output
            print_line(f"feed: {message}" + (f" ({number} lines refused so far)" if number >= 10 else ""))

    summary = await publish_feed(hub, options.feed, on_error=report, rate=options.rate)
    refused = f", {summary.refused} refused" if summary.refused else ""
    print_line(f"feed: ended after {summary.published} items{refused}. The hub continues to serve until Ctrl-C.")


def introduction(options: DemoOptions, port: int) -> str:
    """The text at the start of the demo: its address, and commands to try."""
    host = "localhost" if options.host in ("0.0.0.0", "::", "") else options.host
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    http, ws = ("http", "ws") if options.certificate is None else ("https", "wss")
    if options.feed is None:
        source = f"publishes {options.rate or DEFAULT_RATE:g} events a second of a simulated back office"
    else:
        source = f"publishes {'standard input' if options.feed == '-' else options.feed}"
    login, users = "TOKEN=$(analytics-hub token)", "with a token"
    if options.has_login:
        body = '{"username":"admin","password":"admin"}'
        login = f"TOKEN=$(curl -s {http}://{address}/login -d '{body}' | jq -r .token)"
        users = "admin/admin, trader/trader or monitor/monitor"
    return f"""The hub listens on {address} and {source}. Ctrl-C stops it.

  page     {http}://{address}/   {users}
  health   curl {http}://{address}/healthz
  login    {login}
  connect  wscat -c "{ws}://{address}/ws/analytics?token=$TOKEN"
           > {{"action":"subscribe","channels":["routing-metrics","alerts"]}}
  follow   analytics-hub tail {ws}://{address}
  publish  analytics-hub publish {http}://{address} --channel alerts
           {{"severity":"info","category":"system","title":"Hello","message":"by hand","source":"me"}}
  events   curl -N "{http}://{address}/events?channel=alerts;last=5&token=$TOKEN"
  token    analytics-hub token --sub ann --role trader
"""
