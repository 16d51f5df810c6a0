"""The command `analytics-hub`: a live demo, tokens, following channels in a terminal, and publishing from it.

Exit codes: 0 success, 1 failure (with one line on stderr), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final, get_args

from .. import __version__
from ..demo.pacing import MAX_RATE, MIN_RATE, validate_rate
from ..exceptions import HubError
from ..protocol import MAX_SEQ
from ..tuning import Profile
from .asyncapi import add_asyncapi
from .errors import CommandError, OutputError
from .publish import add_publish
from .secret import ENVIRONMENT, configured_secret, demo_secret
from .tail import add_tail

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


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
        if isinstance(error.reason, BrokenPipeError):  # as in `analytics-hub tail ... | head`: not an error
            return 0
        print(f"analytics-hub: cannot write: {error.reason.strerror}", file=sys.stderr)
        return 1


def _silence_stdout() -> None:
    """After a write to it has failed, the flush at the end of the process would fail too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="analytics-hub", description="Push live analytics to dashboards.")
    parser.add_argument("--version", action="version", version=f"analytics-hub {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, add, purpose in (
        ("demo", _add_demo, "run a hub with a simulated back office, or with your own data"),
        ("token", _add_token, "create a token, signed with the secret of the demo or your own"),
        ("tail", lambda parser: add_tail(parser, _count), "follow channels of a running hub"),
        ("publish", add_publish, "publish the lines of standard input"),
        ("asyncapi", add_asyncapi, "describe what a hub sends and accepts, as AsyncAPI or JSON Schemas"),
    ):
        # No abbreviations: `--secret VALUE` must not be accepted as `--secret-file VALUE`.
        add(commands.add_parser(name, help=purpose, allow_abbrev=False))
    return parser


def _add_secret_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--secret-file",
        metavar="FILE",
        help="file with the secret that signs tokens, at least 32 bytes; "
        f"default: ${ENVIRONMENT}, then the secret of the demo",
    )


# --- demo ------------------------------------------------------------------------------------------------------


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run a hub on this machine and publish events of a simulated back office, until Ctrl-C."
    parser.add_argument("--host", default="localhost", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=7999, help="port, 0 for any free port (%(default)s)")
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="N",
        help=f"events a second, {MIN_RATE} to {MAX_RATE} (100; a feed: as fast as it is read)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the simulation; the same seed gives the same events (%(default)s)"
    )
    parser.add_argument(
        "--feed",
        metavar="FILE",
        help='publish the lines {"channel","type","data","key"?} of FILE instead; - is standard input',
    )
    parser.add_argument("--profile", choices=get_args(Profile), default="default", help="tuning (%(default)s)")
    parser.add_argument(
        "--open-login", action="store_true", help="let every client that can reach --host log in as admin/admin"
    )
    parser.add_argument(
        "--origin",
        action="append",
        type=_origin,
        default=[],
        metavar="URL",
        help="also accept pages of this origin, such as https://dashboard.example.com; may be repeated",
    )
    parser.add_argument(
        "--certfile", metavar="FILE", help="serve https and wss with this certificate; it is read again on SIGHUP"
    )
    parser.add_argument("--keyfile", metavar="FILE", help="key of the certificate, if it is not in the same file")
    _add_secret_file(parser)
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    import anyio

    from ..demo.app import DemoOptions, run_demo
    from ..http import is_loopback
    from ..transports.tls import Certificate
    from .secret import make_demo_secret

    if options.keyfile is not None and options.certfile is None:
        raise CommandError("--keyfile needs --certfile")
    certificate = None if options.certfile is None else Certificate(options.certfile, options.keyfile)
    if (secret := configured_secret(options.secret_file)) is None:
        if not is_loopback(options.host):
            raise CommandError(
                f"--host {options.host} is reachable from other machines; set {ENVIRONMENT} or --secret-file first"
            )
        secret, path = demo_secret() or make_demo_secret()
        _print(f"Tokens are signed with the secret in {path}.")
    demo = DemoOptions(
        secret=secret,
        host=options.host,
        port=options.port,
        rate=options.rate,
        seed=options.seed,
        feed=options.feed,
        profile=options.profile,
        has_login=is_loopback(options.host) or options.open_login,
        certificate=certificate,
        origins=tuple(options.origin),
    )
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    anyio.run(run_demo, demo, _print, backend_options={"use_uvloop": has_uvloop})
    return 0


def _print(text: str) -> None:
    """Print a line of the demo, which goes on serving after standard output was closed."""
    try:
        print(text, flush=True)
    except OSError:
        _silence_stdout()


# --- token -----------------------------------------------------------------------------------------------------


def _add_token(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print a token (JWT, HS256) and nothing else on stdout."
    parser.add_argument("--sub", default="admin", metavar="NAME", help="subject of the token (%(default)s)")
    parser.add_argument("--role", action="append", metavar="ROLE", help="role of the token, may be repeated (admin)")
    parser.add_argument("--account", metavar="ACCOUNT", help="the account claim")
    parser.add_argument("--ttl", type=_duration, default=3600, help="lifetime in seconds, or as in 30m, 8h, 7d (1h)")
    _add_secret_file(parser)
    parser.set_defaults(command=_token)


def _token(options: argparse.Namespace) -> int:
    from ..auth import mint

    if (secret := configured_secret(options.secret_file)) is None:
        if (found := demo_secret()) is None:
            raise CommandError(f"no secret found: start `analytics-hub demo`, or set {ENVIRONMENT} or --secret-file")
        secret, path = found
        print(f"signed with the secret of the demo in {path}", file=sys.stderr)
    roles = options.role or ["admin"]
    claims = {} if options.account is None else {"account": options.account}
    try:
        token = mint(secret, subject=options.sub, roles=roles, ttl=options.ttl, **claims)
    except ValueError as error:
        raise CommandError(str(error)) from None
    print(f"for {options.sub} with {', '.join(roles)}, valid for {options.ttl} s", file=sys.stderr)
    print(token)
    return 0


# --- arguments -------------------------------------------------------------------------------------------------


def _integer(text: str, maximum: int, what: str) -> int:
    if re.fullmatch(r"[0-9]{1,16}", text) and (value := int(text)) <= maximum:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {what}")


def _origin(text: str) -> str:
    from ..transports._origins import Origins

    try:
        Origins([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _port(text: str) -> int:
    return _integer(text, 65_535, "a port from 0 to 65535")


def _rate(text: str) -> float:
    try:
        return validate_rate(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {MIN_RATE} to {MAX_RATE}") from None


def _count(text: str) -> int:
    return _integer(text, MAX_SEQ, "a number of items")


def _duration(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match and (seconds := int(match[1]) * _UNITS[match[2]]):
        return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 900, 30m, 8h or 7d")
