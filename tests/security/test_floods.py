"""S: what servers count and log is bounded, whatever is sent."""

from __future__ import annotations

import time
from collections import Counter

from analytics_hub.telemetry import COUNTERS

from ..transports.peer import PATH
from .asking import ask, bearer, introduce, knock, subscribe, told
from .attack import crowd
from .target import SOME, Target
from .watch import targets

house = targets(*SOME)


def test_s02_names_of_counters_and_channels_are_bounded(target: Target) -> None:
    """Thousands of different tokens, channels and commands, and users and paths by the hundred, are none of them."""
    for start in range(0, 1200, 100):
        with target.open() as peer:
            peer.say([{"action": "auth", "id": f"id-{n}", "token": f"token-{n}"} for n in range(start, start + 100)])
            peer.say(*({"action": f"action-{n}", f"field-{n}": n} for n in range(start, start + 9)))
            answers = subscribe(peer, *(f"channel-{n}" for n in range(start, start + 100)))
            assert set(answers.values()) == {"unknown-channel"}
    with crowd(target.open(token=target.token(f"user-{n}", f"role-{n}")) for n in range(30)) as peers:
        for number, peer in enumerate(peers):
            assert subscribe(peer, f"secret/{number}", "burst") == {
                f"secret/{number}": "unknown-channel",
                "burst": "ok",
            }
    for number in range(10):
        assert introduce(target, f"token-{number}").code == 4401
        assert knock(target, bearer(f"token-{number}"), path=f"{PATH}?{number}={number}").status == 401
        assert ask(target, f"/path-{number}", method="GET").status == 404
        assert ask(target, "/ticket", f"Origin: https://site-{number}.example").status == 403
        assert ask(target, "/ticket", method=f"METHOD-{number}").status in (400, 405)

    now = target.report()
    assert now.counters.keys() <= COUNTERS.keys()
    assert now.heads.keys() == target.before.heads.keys()


def test_s02_there_are_no_numbers_on_the_public_port(target: Target) -> None:
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
        assert ask(target, path, bearer(target.token("alice", "admin")), method="GET").status == 404
    health = ask(target, "/healthz", method="GET")
    assert health.status == 200
    assert "mallory" not in health.body.decode()


def test_s03_refusals_are_one_line_a_second_each_with_a_count(target: Target) -> None:
    started, before = time.monotonic(), len(target.log())
    for number in range(30):
        assert knock(target, bearer("wrong" * 1000)).status == 401
        assert knock(target, bearer(target.token(now=time.time() - 7200))).status == 401
        assert ask(target, "/ticket", "Origin: https://evil.example").status == 403
        assert introduce(target, f"{number}\n\x1b[31m").code == 4401
    with target.open(token="") as clock:
        assert told(clock).code == 4408  # after a second
    assert knock(target, bearer("wrong")).status == 401

    seconds = time.monotonic() - started
    lines = target.log()[before:].splitlines()
    most, kind = max((count, kind) for kind, count in Counter(line.split(":")[0] for line in lines).items())
    assert most <= 2 + seconds, f"{most} lines in {seconds} s: {kind}"
    refusals = [line for line in lines if "a token was refused" in line]
    assert "more like it)" in refusals[-1]
    assert "\x1b" not in "".join(lines)
    target.wait_counted("token-invalid", 61)
    target.wait_counted("token-expired", 30)
    target.wait_counted("refused-origin", 30)
