"""The attacked server, in a process of its own: known feeds, every limit an option, and commands of the test.

It sends its port to the test that started it, then the answers to commands (`Control`), and its counters at its end.
SIGTERM drains, SIGHUP loads the certificate again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Self

import anyio
import anyio.abc
import trio
import uvicorn
from cryptography.x509 import load_pem_x509_certificate
from hypercorn.asyncio import serve as hypercorn_asyncio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_trio

from analytics_hub import Channel, Hub, Identity, Tuning
from analytics_hub.access import limits
from analytics_hub.access.proxies import PROXIES
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.core.session import Session
from analytics_hub.core.statistics import Ledger
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.transports import asgi, tcp, websocket
from analytics_hub.transports.tls import Certificate

CHANNELS: Final = (
    Channel("feed"),  # {"n": 1}, {"n": 2} ... at the pace of the options: its `seq` is its `n`
    Channel("board", mode="table", key="name"),  # twenty keys in turn at the same pace
    Channel("price", mode="latest"),
    Channel("alerts", mode="durable"),
    Channel("burst"),  # gets only items of `POST /publish`, like the next two
    Channel("archive", mode="durable"),
    Channel("secret", roles=frozenset({"admin"})),
    Channel("desk", publishers=frozenset({"worker"})),
    Channel("room:*"),
    Channel("user:*"),
)
KEYS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the server runs. `settings` are fields of `Tuning` and of the limits of its transport, by name."""

    secret: str
    transport: str = "websocket"
    server: str = "uvicorn"
    """Of the ASGI transport; or `hypercorn`."""
    backend: str = "asyncio"
    """Or `uvloop`, or `trio`."""
    port: int = 0
    certificate: str | None = None
    """A file with certificate and key: the server has TLS."""
    verifies_with: str | None = None
    """A certificate: tokens are signed with its key, ES256, instead of `secret`, HS256."""
    origins: Sequence[str] = ()
    proxies: Sequence[str] = PROXIES
    authorize: bool = False
    """Whether `authorize` below decides."""
    compression: bool = False
    pace: float = 0.02
    """Seconds between two items of a feed."""
    journal_items: int = 100_000
    grace: float = 1.0
    load_ttl: float = 0.1
    """Seconds for which the hub caches how many bytes wait."""
    log_level: str = "INFO"
    server_log_level: str = "WARNING"
    """Of ASGI servers; from INFO on with access logs."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Options from their names and those of settings."""
        own = {each.name for each in fields(cls)}
        kinds = (Tuning, websocket.Limits, tcp.Limits, asgi.Limits)
        known = own | {each.name for kind in kinds for each in fields(kind)}
        assert given.keys() <= known, f"unknown options: {given.keys() - known}"
        settings = {name: value for name, value in given.items() if name not in own}
        return cls(**{name: value for name, value in given.items() if name in own}, settings=settings)

    def pick(self, kind: Any) -> Any:
        """An object of `kind` with those of its fields that are among the settings."""
        return kind(**{each.name: self.settings[each.name] for each in fields(kind) if each.name in self.settings})

    @property
    def logs_access(self) -> bool:
        return self.server_log_level in ("DEBUG", "INFO")


class Audit:
    """Checks every account of a hub once it is closed. It sees sessions where transports connect them."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open: list[Session] = []
        self._connect = hub.gateway.connect
        self.unbalanced: list[str] = []
        hub.gateway.connect = self.connect  # type: ignore[method-assign]

    def connect(self, *args: Any, **options: Any) -> Session:
        session = self._connect(*args, **options)
        self._open.append(session)
        return session

    def check_closed(self) -> None:
        """Check and forget the accounts of closed sessions. O(sessions)."""
        for session in self._open:
            if session.is_closed:
                self._check(session.id, self._hub.ledger(session))
        self._open = [session for session in self._open if not session.is_closed]

    async def run(self) -> None:
        while True:
            self.check_closed()
            await anyio.sleep(0.05)

    def check_all(self) -> dict[str, Ledger]:
        """Check every account, closed or not; the sums of all, by channel."""
        self.check_closed()
        for session in self._hub.sessions:
            self._check(session.id, self._hub.ledger(session))
        totals = {name: channel.ledger for name, channel in self._hub.statistics().channels.items()}
        self._check("all", totals)
        return totals

    def _check(self, owner: str, account: Mapping[str, Any]) -> None:
        self.unbalanced += [f"{owner}, {name}: {ledger}" for name, ledger in account.items() if not ledger.is_balanced]


async def authorize(identity: Identity, action: str, channel: str) -> bool:
    """user:NAME is for NAME alone; two names make the hook fail."""
    if channel == "user:raise":
        raise RuntimeError("the hook fails")
    if channel == "user:hang":
        await anyio.sleep_forever()
    return not channel.startswith("user:") or channel == f"user:{identity.id}"


def new_authenticator(options: Options) -> JWTAuthenticator:
    if options.verifies_with is None:
        return JWTAuthenticator(options.secret, algorithms=["HS256"])
    key = load_pem_x509_certificate(Path(options.verifies_with).read_bytes()).public_key()
    return JWTAuthenticator(key, algorithms=["ES256"])


def new_hub(options: Options) -> Hub:
    setattr(limits, "LOAD_TTL", options.load_ttl)  # noqa: B010 - a constant for all others
    return Hub(
        CHANNELS,
        authenticate=new_authenticator(options),
        authorize=authorize if options.authorize else None,
        tuning=options.pick(Tuning),
        proxies=options.proxies,
        journal=MemoryJournal(max_items=options.journal_items),
        grace=options.grace,
        node="attacked",
    )


# --- feeds


async def feed(hub: Hub, pace: float) -> None:
    """Publish to the known channels; catches up when it is late, as a feed from outside would."""
    started, n = time.monotonic(), 0
    while hub.is_open:
        while time.monotonic() >= started + n * pace:
            n += 1
            hub.publish("feed", {"n": n})
            hub.publish("board", {"name": f"key-{n % KEYS}", "n": n})
            hub.publish("price", {"n": n})
            if n % KEYS == 0:
                hub.publish("alerts", {"n": n // KEYS})
        await anyio.sleep(pace)


async def publish(hub: Hub, channel: str, *, count: int, size: int, seconds: float) -> None:
    """Publish `count` items of about `size` bytes, all at once or spread over `seconds`."""
    started = time.monotonic()
    for n in range(1, count + 1):
        if (ahead := started + seconds * n / count - time.monotonic()) > 0:
            await anyio.sleep(ahead)
        hub.publish(channel, {"n": n, "text": "x" * size})


# --- control


@dataclass(frozen=True, slots=True)
class Report:
    """The process at one moment. Bytes and seconds."""

    sessions: int
    subscriptions: int
    counters: Mapping[str, int]
    heads: Mapping[str, int]
    descriptors: int
    tasks: int
    rss: int
    peak: int
    objects: int
    cpu: float
    """Its processor time."""
    waited: float
    """How long it was ready to run while the machine was busy with other processes."""
    unbalanced: Sequence[str]
    """Accounts that do not balance."""
    totals: Mapping[str, Mapping[str, int]]
    """The sums of all accounts, by channel."""


class Control:
    """Executes the commands of the test, each of which is the name of a method and its arguments."""

    def __init__(self, hub: Hub, audit: Audit, options: Options, group: anyio.abc.TaskGroup) -> None:
        self._hub = hub
        self._audit = audit
        self._is_trio = options.backend == "trio"
        self._group = group

    async def run(self, test: Connection) -> None:
        while True:
            await anyio.wait_readable(test)
            name, arguments = test.recv()
            test.send(getattr(self, name)(**arguments))

    def publish(self, channel: str, count: int, size: int, seconds: float) -> None:
        self._group.start_soon(partial(publish, self._hub, channel, count=count, size=size, seconds=seconds))

    def revoke(self, identity: str | None = None, token_id: str | None = None) -> int:
        return self._hub.revoke(identity, token_id=token_id)

    def set_roles(self, identity: str, roles: Sequence[str]) -> int:
        return self._hub.set_roles(identity, roles)

    def reset_peak(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # of resident memory

    def report(self) -> Report:
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        statistics = self._hub.statistics()
        totals = self._audit.check_all()
        return Report(
            sessions=statistics.sessions,
            subscriptions=statistics.subscriptions,
            counters=dict(statistics.counters),
            heads={name: channel.head for name, channel in statistics.channels.items()},
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            tasks=trio.lowlevel.current_statistics().tasks_living if self._is_trio else len(asyncio.all_tasks()),
            rss=int(status["VmRSS"].split()[0]) * 1024,
            peak=int(status["VmHWM"].split()[0]) * 1024,
            objects=len(gc.get_objects()),
            cpu=time.process_time(),
            waited=int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9,
            unbalanced=self._audit.unbalanced,
            totals={name: asdict(ledger) for name, ledger in totals.items() if ledger.published},
        )


# --- transports

Ready = Callable[[int], None]


async def serve_native(hub: Hub, options: Options, stop: anyio.Event, ready: Ready) -> None:
    """Until the hub has drained."""
    certificate = None if options.certificate is None else Certificate(options.certificate, options.certificate)
    common: dict[str, Any] = {"port": options.port, "ssl_context": certificate}

    async def run(*, task_status: anyio.abc.TaskStatus[int]) -> None:
        if options.transport == "tcp":
            await tcp.serve(hub, limits=options.pick(tcp.Limits), task_status=task_status, **common)
        else:
            await websocket.serve(
                hub,
                limits=options.pick(websocket.Limits),
                origins=options.origins,
                compression=options.compression,
                task_status=task_status,
                **common,
            )

    async with anyio.create_task_group() as helpers:
        if certificate is not None:
            await helpers.start(certificate.reload_on_hangup)
        async with anyio.create_task_group() as group:
            ready(await group.start(run))
        helpers.cancel_scope.cancel()


async def serve_uvicorn(hub: Hub, options: Options, stop: anyio.Event, ready: Ready) -> None:
    class Server(uvicorn.Server):
        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            await self._serve(sockets)  # without its signal handlers: the hub drains first

    sock, timing = _listen(options.port), options.pick(websocket.Limits)  # the timing is the server's here
    config = uvicorn.Config(
        _new_app(hub, options),
        lifespan="off", log_config=None, access_log=options.logs_access, timeout_graceful_shutdown=1,
        ws_ping_interval=timing.ping_interval, ws_ping_timeout=timing.silence_timeout - timing.ping_interval,
        ssl_certfile=options.certificate, ssl_keyfile=options.certificate,
    )  # fmt: skip
    server = Server(config)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, [sock])
        ready(sock.getsockname()[1])
        await stop.wait()
        server.should_exit = True


async def serve_hypercorn(hub: Hub, options: Options, stop: anyio.Event, ready: Ready) -> None:
    serve: Callable[..., Coroutine[Any, Any, None]] = hypercorn_asyncio
    if options.backend == "trio":
        serve = hypercorn_trio
    sock = _listen(options.port)
    config = Config()
    config.bind = [f"fd://{sock.fileno()}"]
    config.loglevel = options.server_log_level
    config.accesslog = logging.getLogger("hypercorn.access") if options.logs_access else None
    config.graceful_timeout = 1.0
    config.websocket_ping_interval = 0.05  # after a client has left, its task stays until the next ping
    config.certfile = config.keyfile = options.certificate
    ready(sock.getsockname()[1])
    # In a task of its own: on asyncio it leaves the task that it ran in cancelled.
    async with anyio.create_task_group() as group:
        group.start_soon(partial(serve, _new_app(hub, options), config, shutdown_trigger=stop.wait))


def _new_app(hub: Hub, options: Options) -> asgi.HubApp:
    return asgi.HubApp(hub, limits=options.pick(asgi.Limits), origins=options.origins)


def _listen(port: int) -> socket.socket:
    sock = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio disables Nagle's algorithm only with this protocol
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(1024)
    return sock


# --- the process


async def shut_down_on_signal(hub: Hub, stop: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            await hub.shutdown()
            stop.set()
            return


async def run(test: Connection, options: Options) -> None:
    hub = new_hub(options)
    audit = Audit(hub)
    stop = anyio.Event()
    serve: Callable[..., Awaitable[None]] = serve_native
    if options.transport == "asgi":
        serve = serve_uvicorn if options.server == "uvicorn" else serve_hypercorn
    async with hub, anyio.create_task_group() as group:
        group.start_soon(feed, hub, options.pace)
        group.start_soon(audit.run)
        group.start_soon(shut_down_on_signal, hub, stop)

        def ready(port: int) -> None:
            gc.collect()
            gc.freeze()  # objects that exist now are not counted again: reports are about new ones
            test.send(port)
            group.start_soon(Control(hub, audit, options, group).run, test)

        await serve(hub, options, stop, ready)
        test.send(dict(hub.statistics().counters))
        group.cancel_scope.cancel()


def main(test: Connection, options: Options) -> None:
    logging.basicConfig(level=options.server_log_level, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("analytics_hub").setLevel(options.log_level)
    is_trio = options.backend == "trio"
    backend_options = {} if is_trio else {"use_uvloop": options.backend == "uvloop"}
    anyio.run(run, test, options, backend="trio" if is_trio else "asyncio", backend_options=backend_options)
