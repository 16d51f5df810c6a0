"""The command `analytics-hub`: a live demo, tokens, and a terminal that follows channels.

Exit codes: 0 done, 1 something is in the way (one sentence on stderr says what), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, get_args

from .. import __version__
from ..demo.driver import LEAST_RATE, MOST_RATE, check_rate
from ..exceptions import HubError
from ..protocol import MAX_SEQ
from ..tuning import Profile
from .secret import ENVIRONMENT, demo_secret, given_secret

BEARER_ENVIRONMENT: Final = "ANALYTICS_HUB_TOKEN"
DEFAULT_CHANNELS: Final = ("routing-metrics", "lp-performance", "exposure-updates", "alerts")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class CommandError(HubError):
    """Something is in the way of a command; the message is the sentence that the user gets."""


class OutputError(Exception):
    """Standard output takes no more."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except HubError as error:
        print(f"analytics-hub: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OutputError as error:
        _silence_stdout()
        if isinstance(error.reason, BrokenPipeError):  # as in `analytics-hub tail ... | head`: that was all
            return 0
        print(f"analytics-hub: cannot write: {error.reason.strerror}", file=sys.stderr)
        return 1


def _silence_stdout() -> None:
    """Once a write to it has failed, the flush at the end of the process would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="analytics-hub", description="Push live analytics to dashboards.")
    parser.add_argument("--version", action="version", version=f"analytics-hub {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add, purpose in (
        ("demo", _add_demo, "run a hub with a simulated back office, or with your own data"),
        ("token", _add_token, "make a token, signed with the demo's secret or your own"),
        ("tail", _add_tail, "follow channels of a running hub"),
    ):
        # No abbreviations: `--secret VALUE` must not pass for `--secret-file VALUE`.
        add(commands.add_parser(name, help=purpose, allow_abbrev=False))
    return parser


def _add_secret_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--secret-file",
        metavar="FILE",
        help=f"the secret that signs tokens, at least 32 bytes; else ${ENVIRONMENT}, else one made by the demo",
    )


# --- demo ------------------------------------------------------------------------------------------------------


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run a hub on this machine and publish a simulated back office into it, until Ctrl-C."
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=7999, help="port, 0 for any free one (%(default)s)")
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="N",
        help=f"events a second, {LEAST_RATE} to {MOST_RATE} (100; a feed goes as fast as it comes)",
    )
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same events (%(default)s)")
    parser.add_argument(
        "--feed", metavar="FILE", help='publish lines {"channel","type","data","key"?} of FILE instead, - for stdin'
    )
    parser.add_argument("--profile", choices=get_args(Profile), default="default", help="tuning (%(default)s)")
    parser.add_argument(
        "--open-login", action="store_true", help="let everyone who reaches --host log in as admin/admin"
    )
    _add_secret_file(parser)
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    import anyio

    from ..demo.app import DemoOptions, run_demo
    from ..http import is_loopback
    from .secret import make_demo_secret

    if (secret := given_secret(options.secret_file)) is None:
        if not is_loopback(options.host):
            raise CommandError(
                f"--host {options.host} can be reached by others; set {ENVIRONMENT} or --secret-file first"
            )
        secret, path = demo_secret() or make_demo_secret()
        _say(f"Tokens are signed with the secret in {path}.")
    demo = DemoOptions(
        secret=secret,
        host=options.host,
        port=options.port,
        rate=options.rate,
        seed=options.seed,
        feed=options.feed,
        profile=options.profile,
        has_login=is_loopback(options.host) or options.open_login,
    )
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    anyio.run(run_demo, demo, _say, backend_options={"use_uvloop": has_uvloop})
    return 0


def _say(text: str) -> None:
    """Print what the demo says; that nobody reads it is no reason to stop serving."""
    try:
        print(text, flush=True)
    except OSError:
        _silence_stdout()


# --- token -----------------------------------------------------------------------------------------------------


def _add_token(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print a token (JWT, HS256) and nothing else on stdout."
    parser.add_argument("--sub", default="admin", metavar="NAME", help="whose token it is (%(default)s)")
    parser.add_argument("--role", action="append", metavar="ROLE", help="may be repeated; admin if there is none")
    parser.add_argument("--account", metavar="ACCOUNT", help="the account claim")
    parser.add_argument("--ttl", type=_duration, default=3600, help="seconds, or 30m, 8h, 7d (1h)")
    _add_secret_file(parser)
    parser.set_defaults(command=_token)


def _token(options: argparse.Namespace) -> int:
    from ..auth import mint

    if (secret := given_secret(options.secret_file)) is None:
        if (found := demo_secret()) is None:
            raise CommandError(f"there is no secret: start `analytics-hub demo`, or set {ENVIRONMENT} or --secret-file")
        secret, path = found
        print(f"signed with the demo's secret in {path}", file=sys.stderr)
    roles = options.role or ["admin"]
    claims = {} if options.account is None else {"account": options.account}
    try:
        token = mint(secret, subject=options.sub, roles=roles, ttl=options.ttl, **claims)
    except ValueError as error:
        raise CommandError(str(error)) from None
    print(f"for {options.sub} with {', '.join(roles)}, valid for {options.ttl} s", file=sys.stderr)
    print(token)
    return 0


# --- tail ------------------------------------------------------------------------------------------------------


def _add_tail(parser: argparse.ArgumentParser) -> None:
    parser.description = "Follow channels of a hub, across disconnects and restarts, until Ctrl-C."
    parser.add_argument("url", help="where the hub is: ws://localhost:7999 or wss://host/ws/analytics")
    parser.add_argument("channels", nargs="*", metavar="channel", help="the four trading channels if there is none")
    parser.add_argument("--channel", action="append", default=[], dest="more", metavar="NAME", help="may be repeated")
    parser.add_argument("--json", action="store_true", help="one item of JSON a line, gaps included")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--last", type=_count, metavar="N", help="start N items back")
    start.add_argument("--snapshot", action="store_true", help="start with everything that is kept")
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"the token; else ${BEARER_ENVIRONMENT}, else the demo's on this machine"
    )
    parser.set_defaults(command=_tail)


def _tail(options: argparse.Namespace) -> int:
    import anyio

    from .follow import Follower, Target
    from .tail import Line, Tail

    try:
        target = Target.parse(options.url)
    except ValueError as error:
        raise CommandError(str(error)) from None

    def emit(line: Line) -> None:
        if not line.is_item:
            print(f"analytics-hub: {line.text}", file=sys.stderr)
            return
        try:
            print(line.text, flush=True)
        except OSError as error:  # not the connection's, which the follower would open again
            raise OutputError(error) from None

    tail = Tail(
        options.channels + options.more or DEFAULT_CHANNELS,
        last=options.last,
        snapshot=options.snapshot,
        as_json=options.json,
    )
    tokens = _token_source(options.token_file, target.token, is_local=target.is_local)
    try:
        ending = anyio.run(Follower(target, tail, tokens, emit).run)
    except KeyboardInterrupt:
        return 0
    print(f"analytics-hub: {ending.sentence}", file=sys.stderr)
    return 0 if ending.is_regular else 1


def _token_source(path: str | None, in_url: str | None, *, is_local: bool) -> Callable[[], str | None]:
    """Where a token comes from, each time one is needed: files change, and a minted one is fresh each time."""
    if path is not None:
        return lambda: _read_token(path)
    if (fixed := os.environ.get(BEARER_ENVIRONMENT) or in_url) is not None:
        return lambda: _check_token(fixed, BEARER_ENVIRONMENT if fixed != in_url else "the URL")
    if not is_local or demo_secret() is None:
        raise CommandError(f"there is no token: set {BEARER_ENVIRONMENT} or --token-file")
    print("analytics-hub: using a token of the demo on this machine", file=sys.stderr)

    def minted() -> str | None:
        from ..auth import mint

        found = demo_secret()
        return mint(found[0], subject="admin", roles=["admin"]) if found is not None else None

    return minted


def _read_token(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return _check_token(file.read(16_384).strip(), path)
    except OSError as error:
        raise CommandError(f"cannot read the token in {path}: {error.strerror}") from None


def _check_token(token: str, source: str) -> str:
    if re.fullmatch(r"[!-~]+", token):
        return token
    raise CommandError(f"{source} holds no token: one word of plain characters was expected")


# --- arguments -------------------------------------------------------------------------------------------------


def _whole(text: str, most: int, what: str) -> int:
    if re.fullmatch(r"[0-9]{1,16}", text) and (value := int(text)) <= most:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {what}")


def _port(text: str) -> int:
    return _whole(text, 65_535, "a port from 0 to 65535")


def _rate(text: str) -> float:
    try:
        return check_rate(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {LEAST_RATE} to {MOST_RATE}") from None


def _count(text: str) -> int:
    return _whole(text, MAX_SEQ, "a number of items")


def _duration(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match and (seconds := int(match[1]) * _UNITS[match[2]]):
        return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no duration; right are 900, 30m, 8h and 7d")
