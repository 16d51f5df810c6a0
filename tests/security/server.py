"""A server to be measured and attacked: known feeds, every limit an option, and a control port that tells all.

The target of `tests/security/`, not an example of how to host a hub. It must never face a network.

    export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32)
    python tests/security/server.py --transport websocket --max-clients 100

Prints one line of JSON with its ports. On the control port, `GET /` reports, and `POST` acts: `/publish`, `/revoke`,
`/roles`, `/peak`; the parameters are in the query. SIGTERM drains, SIGHUP loads the certificate again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import anyio
import anyio.abc

from analytics_hub import Channel, Hub, Identity, Tuning
from analytics_hub.access.limits import PROXIES
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.journals.memory import MemoryJournal
from analytics_hub.transports import asgi, tcp, websocket
from analytics_hub.transports.tls import Certificate

CHANNELS: Final = (
    Channel("feed"),  # {"n": 1}, {"n": 2} ... at the pace of the options: its `seq` is its `n`
    Channel("board", mode="table", key="name"),  # twenty keys in turn at the same pace
    Channel("price", mode="latest"),
    Channel("alerts", mode="durable"),
    Channel("burst"),  # says nothing but what `POST /publish` asks for, like the next two
    Channel("archive", mode="durable"),
    Channel("secret", roles=frozenset({"admin"})),
    Channel("desk", publishers=frozenset({"worker"})),
    Channel("room:*"),
    Channel("user:*"),
)
KEYS: Final = 20
LIMITS: Final = {"websocket": websocket.Limits, "tcp": tcp.Limits, "asgi": asgi.Limits}


class AuditedHub(Hub):
    """A hub whose every account is checked once it is closed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unaudited: list[Any] = []
        self.closed_accounts = 0
        self.unbalanced: list[str] = []

    def connect(self, *args: Any, **options: Any) -> Any:
        session = super().connect(*args, **options)
        self._unaudited.append(session)
        return session

    def audit(self) -> None:
        """Check and forget the accounts that were closed. O(sessions)."""
        for session in self._unaudited:
            if session.is_closed:
                self.closed_accounts += 1
                self._check(session.id, self.ledger(session))
        self._unaudited = [session for session in self._unaudited if not session.is_closed]

    def balance(self) -> dict[str, Any]:
        """Whether every account there is or was balances, and the sums of all."""
        self.audit()
        for session in self.sessions:
            self._check(session.id, self.ledger(session))
        totals = {name: channel.ledger for name, channel in self.statistics().channels.items()}
        self._check("all", totals)
        return {
            "is_balanced": not self.unbalanced,
            "unbalanced": self.unbalanced,
            "closed_accounts": self.closed_accounts,
            "totals": {name: asdict(ledger) for name, ledger in totals.items() if ledger.published},
        }

    def _check(self, owner: str, account: Mapping[str, Any]) -> None:
        self.unbalanced += [f"{owner}, {name}: {ledger}" for name, ledger in account.items() if not ledger.is_balanced]


# --- options


def parse_options(args: list[str] | None = None) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transport", choices=LIMITS, default="websocket")
    parser.add_argument("--server", choices=["uvicorn", "hypercorn"], default="uvicorn", help="of the asgi transport")
    parser.add_argument("--backend", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--secret", default=os.environ.get("ANALYTICS_HUB_SECRET"), help="of the tokens, HS256")
    parser.add_argument("--certifies", metavar="CERT", help="tokens are signed with the key of this, ES256, instead")
    parser.add_argument("--origins", nargs="*", default=[], help="of pages of other sites that may connect")
    parser.add_argument("--requires-origin", action="store_true")
    parser.add_argument("--proxies", nargs="*", default=PROXIES, help="default: this machine, which is limited nowhere")
    parser.add_argument("--authorize", action="store_true", help="user:NAME is for NAME alone; see `authorize`")
    parser.add_argument("--compression", action="store_true")
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between two items of a feed")
    parser.add_argument("--journal-items", type=int, default=100_000, help="kept of each durable channel")
    parser.add_argument("--grace", type=float, default=1.0, help="seconds that a shutdown takes at most")
    parser.add_argument("--log-level", default="INFO", help="of the hub")
    parser.add_argument("--server-log-level", default="WARNING", help="of ASGI servers; from INFO on with access logs")
    for title, kind in {"tuning": Tuning, **{f"limits of {name}": kind for name, kind in LIMITS.items()}}.items():
        group = parser.add_argument_group(title)
        for field in fields(kind):
            flag = "--" + field.name.replace("_", "-")
            if flag not in parser._option_string_actions:  # some limits are those of several transports
                group.add_argument(flag, type=_number, default=argparse.SUPPRESS, help=f"default: {field.default}")
    options = parser.parse_args(args)
    if not options.secret:
        parser.error("a secret is needed: --secret, or ANALYTICS_HUB_SECRET in the environment")
    return options


def _number(text: str) -> float | int | None:
    """`none` is no limit."""
    if text == "none":
        return None
    return int(text) if text.isdigit() else float(text)


def pick(kind: Any, options: argparse.Namespace) -> Any:
    """An object of `kind` with those of its fields that are among the options."""
    given = vars(options)
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})


async def authorize(identity: Identity, action: str, channel: str) -> bool:
    """A hook that behaves as badly as its channel says."""
    if channel == "user:raise":
        raise RuntimeError("the hook fails")
    if channel == "user:hang":
        await anyio.sleep_forever()
    return not channel.startswith("user:") or channel == f"user:{identity.id}"


def open_authenticator(options: argparse.Namespace) -> JWTAuthenticator:
    if options.certifies is None:
        return JWTAuthenticator(options.secret, algorithms=["HS256"])
    from cryptography.x509 import load_pem_x509_certificate

    key = load_pem_x509_certificate(Path(options.certifies).read_bytes()).public_key()
    return JWTAuthenticator(key, algorithms=["ES256"])


def open_hub(options: argparse.Namespace) -> AuditedHub:
    return AuditedHub(
        CHANNELS,
        authenticate=open_authenticator(options),
        authorize=authorize if options.authorize else None,
        tuning=pick(Tuning, options),
        proxies=options.proxies,
        journal=MemoryJournal(max_items=options.journal_items),
        grace=options.grace,
        node="bench",
    )


# --- feeds


async def feed(hub: Hub, pace: float) -> None:
    """Publish to the known channels until cancelled; catches up when late, as a feed from outside would."""
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


# --- the control port


class Control:
    """Answers one request on each connection, in JSON."""

    def __init__(self, hub: AuditedHub, backend: str, group: anyio.abc.TaskGroup) -> None:
        self._hub = hub
        self._backend = backend
        self._group = group

    async def serve(self, port: int, *, task_status: anyio.abc.TaskStatus[int]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        task_status.started(port)
        await listener.serve(self._converse)

    async def _converse(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await stream.receive()
                method, target, *_ = head.decode().split(" ")
                answer = await self._answer(method, target)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
                await stream.send(head + json.dumps(answer).encode())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass  # whoever asked has gone

    async def _answer(self, method: str, target: str) -> dict[str, Any]:
        path, _, query = target.partition("?")
        given = dict(parse_qsl(query))
        match method, path:
            case "GET", "/":
                return self._report()
            case "POST", "/publish":
                self._publish(**given)
            case "POST", "/peak":
                _forget_peak()
            case "POST", "/revoke":
                return {"ended": self._hub.revoke(given.get("identity"), token_id=given.get("token_id"))}
            case "POST", "/roles":
                self._hub.set_roles(given["identity"], given.get("roles", "").split())
            case _:
                return {"error": f"there is no {method} {path}"}
        return {}

    def _publish(self, channel: str, count: str = "1", size: str = "0", seconds: str = "0") -> None:
        async def run() -> None:
            await publish(self._hub, channel, count=int(count), size=int(size), seconds=float(seconds))

        self._group.start_soon(run)

    def _report(self) -> dict[str, Any]:
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        statistics = self._hub.statistics()
        return {
            "sessions": statistics.sessions,
            "subscriptions": statistics.subscriptions,
            "counters": statistics.counters,
            "heads": {name: channel.head for name, channel in statistics.channels.items()},
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "tasks": _count_tasks(self._backend),
            "rss": int(status["VmRSS"].split()[0]) * 1024,
            "peak": int(status["VmHWM"].split()[0]) * 1024,
            "objects": len(gc.get_objects()),
            "cpu": time.process_time(),
            "waited": int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9,  # for a processor to run on
            "ledger": self._hub.balance(),
        }


def _forget_peak() -> None:
    """The peak of resident memory begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _count_tasks(backend: str) -> int:
    if backend == "trio":
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


# --- transports

Ready = Callable[[int], None]


async def serve_native(hub: Hub, options: argparse.Namespace, stop: anyio.Event, ready: Ready) -> None:
    """Until the hub has drained."""
    certificate = Certificate(*options.tls) if options.tls else None
    common: dict[str, Any] = {"port": options.port, "ssl_context": certificate}

    async def run(*, task_status: anyio.abc.TaskStatus[int]) -> None:
        if options.transport == "tcp":
            await tcp.serve(hub, limits=pick(tcp.Limits, options), task_status=task_status, **common)
        else:
            await websocket.serve(
                hub,
                limits=pick(websocket.Limits, options),
                origins=options.origins,
                requires_origin=options.requires_origin,
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


async def serve_uvicorn(hub: Hub, options: argparse.Namespace, stop: anyio.Event, ready: Ready) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            await self._serve(sockets)  # without its signal handlers: the hub drains first

    sock, limits = _listen(options.port), pick(websocket.Limits, options)  # the same, but they are the server's
    files: dict[str, Any] = dict(zip(("ssl_certfile", "ssl_keyfile"), options.tls or (), strict=False))
    config = uvicorn.Config(
        _open_app(hub, options),
        lifespan="off", log_config=None, access_log=logs_access(), timeout_graceful_shutdown=1,
        ws_ping_interval=limits.ping_interval, ws_ping_timeout=limits.silence_timeout - limits.ping_interval, **files,
    )  # fmt: skip
    server = Server(config)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, [sock])
        ready(sock.getsockname()[1])
        await stop.wait()
        server.should_exit = True


async def serve_hypercorn(hub: Hub, options: argparse.Namespace, stop: anyio.Event, ready: Ready) -> None:
    from hypercorn.config import Config

    if options.backend == "trio":
        from hypercorn.trio import serve as serve_trio

        serve: Callable[..., Coroutine[Any, Any, None]] = serve_trio
    else:
        from hypercorn.asyncio import serve as serve_asyncio

        serve = serve_asyncio
    sock = _listen(options.port)
    config = Config()
    config.bind = [f"fd://{sock.fileno()}"]
    config.loglevel = options.server_log_level
    config.accesslog = logging.getLogger("hypercorn.access") if logs_access() else None
    config.graceful_timeout = 1.0
    config.websocket_ping_interval = pick(websocket.Limits, options).ping_interval
    if options.tls:
        config.certfile, config.keyfile = options.tls
    ready(sock.getsockname()[1])
    # In a task of its own: on asyncio it leaves the task that it ran in cancelled.
    async with anyio.create_task_group() as group:
        group.start_soon(partial(serve, _open_app(hub, options), config, shutdown_trigger=stop.wait))


def logs_access() -> bool:
    return logging.getLogger().isEnabledFor(logging.INFO)


def _open_app(hub: Hub, options: argparse.Namespace) -> asgi.HubApp:
    limits = pick(asgi.Limits, options)
    return asgi.HubApp(hub, limits=limits, origins=options.origins, requires_origin=options.requires_origin)


def _listen(port: int) -> socket.socket:
    sock = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio switches Nagle's algorithm off only for what says so
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(1024)
    return sock


# --- all of it


async def obey_signals(hub: Hub, stop: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            await hub.shutdown()
            stop.set()
            return


async def main(options: argparse.Namespace) -> None:
    hub = open_hub(options)
    stop = anyio.Event()
    serve: Callable[..., Awaitable[None]] = serve_native
    if options.transport == "asgi":
        serve = serve_uvicorn if options.server == "uvicorn" else serve_hypercorn
    async with hub, anyio.create_task_group() as group:
        control = await group.start(Control(hub, options.backend, group).serve, options.control_port)
        group.start_soon(feed, hub, options.pace)
        group.start_soon(audit, hub)
        group.start_soon(obey_signals, hub, stop)

        def ready(port: int) -> None:
            gc.collect()
            gc.freeze()  # what there is now is not looked at again: reports are about what comes
            print(json.dumps({"port": port, "control": control}), flush=True)

        await serve(hub, options, stop, ready)
        print(json.dumps({"counters": Counter(hub.statistics().counters)}), flush=True)
        group.cancel_scope.cancel()


async def audit(hub: AuditedHub) -> None:
    while True:
        hub.audit()
        await anyio.sleep(0.05)


if __name__ == "__main__":
    chosen = parse_options()
    logging.basicConfig(level=chosen.server_log_level, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("analytics_hub").setLevel(chosen.log_level.upper())
    anyio.run(
        main,
        chosen,
        backend="trio" if chosen.backend == "trio" else "asyncio",
        backend_options={} if chosen.backend == "trio" else {"use_uvloop": chosen.backend == "uvloop"},
    )
