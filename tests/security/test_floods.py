"""S: counters and logs are bounded, whatever clients send."""

from __future__ import annotations

import time
from collections import Counter

from analytics_hub.telemetry import COUNTERS

from ..transports.peer import PATH
from .client import connections
from .environment import targets
from .exchanges import bearer, closed_with, send_request, subscribe, try_first_message, try_handshake
from .target import SOME, Target

environment = targets(*SOME)


def test_s02_names_of_counters_and_channels_are_bounded(target: Target) -> None:
    """Thousands of different tokens, channels and commands, users and paths add no name."""
    for start in range(0, 1200, 100):
        with target.open() as peer:
            peer.send_commands(
                [{"action": "auth", "id": f"id-{n}", "token": f"token-{n}"} for n in range(start, start + 100)]
            )
            peer.send_commands(*({"action": f"action-{n}", f"field-{n}": n} for n in range(start, start + 9)))
            answers = subscribe(peer, *(f"channel-{n}" for n in range(start, start + 100)))
            assert set(answers.values()) == {"unknown-channel"}
    with connections(target.open(token=target.token(f"user-{n}", f"role-{n}")) for n in range(30)) as peers:
        for number, peer in enumerate(peers):
            assert subscribe(peer, f"secret/{number}", "burst") == {
                f"secret/{number}": "unknown-channel",
                "burst": "ok",
            }
    for number in range(10):
        assert try_first_message(target, f"token-{number}").code == 4401
        assert try_handshake(target, bearer(f"token-{number}"), path=f"{PATH}?{number}={number}").status == 401
        assert send_request(target, f"/path-{number}", method="GET").status == 404
        assert send_request(target, "/ticket", f"Origin: https://site-{number}.example").status == 403
        assert send_request(target, "/ticket", method=f"METHOD-{number}").status in (400, 405)

    now = target.report()
    assert now.counters.keys() <= COUNTERS.keys()
    assert now.heads.keys() == target.before.heads.keys()


def test_s02_the_public_port_has_no_statistics(target: Target) -> None:
    for path in (
        "/metrics",
        "/statistics",
        "/stats",
        "/status",
        "/debug",
        "/counters",
        "/sessions",
        "/publish/../metrics",
    ):
        assert send_request(target, path, bearer(target.token("alice", "admin")), method="GET").status == 404
    health = send_request(target, "/healthz", method="GET")
    assert health.status == 200
    assert "mallory" not in health.body.decode()


def test_s03_refusals_are_logged_once_a_second_with_a_count(target: Target) -> None:
    started, before = time.monotonic(), len(target.log())
    for number in range(30):
        assert try_handshake(target, bearer("wrong" * 1000)).status == 401
        assert try_handshake(target, bearer(target.token(now=time.time() - 7200))).status == 401
        assert send_request(target, "/ticket", "Origin: https://evil.example").status == 403
        assert try_first_message(target, f"{number}\n\x1b[31m").code == 4401
    with target.open(token="") as clock:
        assert closed_with(clock).code == 4408  # after `auth_timeout`
    assert try_handshake(target, bearer("wrong")).status == 401

    seconds = time.monotonic() - started
    lines = target.log()[before:].splitlines()
    most, kind = max((count, kind) for kind, count in Counter(line.split(":")[0] for line in lines).items())
    assert most <= 2 + seconds, f"{most} lines in {seconds} s: {kind}"
    refusals = [line for line in lines if "a token was refused" in line]
    assert "more like it)" in refusals[-1]
    assert "\x1b" not in "".join(lines)
    target.assert_counted("token-invalid", 61)
    target.assert_counted("token-expired", 30)
    target.assert_counted("refused-origin", 30)
