"""What must hold around every attack: nothing is left over, every account balances, and others notice nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from .target import FAULTS, MIB, House, Report, Target, choose, open_house

SPARE_OBJECTS: Final = 1000
"""What caches of the interpreter and of libraries may have taken in; each forgotten client costs dozens."""
DRIFT: Final = 48 * MIB
"""What all attacks on one server may add to its resident memory, one after the other."""


class Street:
    """The houses that all files of tests share."""

    def __init__(self, certificate: Path) -> None:
        self.certificate = certificate
        self._houses: dict[str, House] = {}
        self._stack = ExitStack()

    def find(self, name: str) -> House:
        if name not in self._houses:
            self._houses[name] = self._stack.enter_context(settled(name, self.certificate))
        return self._houses[name]

    def close(self) -> None:
        self._stack.close()


def targets(*names: str, **options: object) -> Callable[..., Any]:
    """The fixture `house` of a file of tests: the servers that it attacks.

    With `options`, which come on top of `LOW`, they are the file's own; else all files share them.
    """

    @pytest.fixture(scope="module", params=choose(names))
    def house(request: pytest.FixtureRequest, street: Street) -> Iterator[House]:
        if not options:
            yield street.find(request.param)
            return
        with settled(request.param, street.certificate, **options) as opened:
            yield opened

    return house


@contextmanager
def settled(name: str, certificate: Path, **options: object) -> Iterator[House]:
    """A house of one's own, in which what the first client brings has been paid for."""
    with open_house(name, certificate, **options) as house:
        target = house.target
        target.begin()
        serve_newcomer(target)  # what the first client makes a server load is nobody's leak
        target.born = target.wait_until(lambda now: _is_over(target, now), "the first client has gone")
        yield house


@contextmanager
def watching(house: House) -> Iterator[Target]:
    """Attack the target inside; what has to hold afterwards is checked at the end."""
    target = house.target
    target.post("/peak")
    target.begin()
    house.witness.begin()
    yield target
    before = target.before
    after = target.wait_until(lambda now: _is_over(target, now), "clients, tasks and descriptors return")
    house.witness.check(after.heads["feed"], after.waited - before.waited)
    serve_newcomer(target)
    after = target.wait_until(lambda now: _is_over(target, now), "the last client has gone")
    _check_memory(target, after)
    assert after.ledger["is_balanced"], after.ledger["unbalanced"]
    faults = {name: count for name in FAULTS if (count := after.counters.get(name, 0) - before.counters.get(name, 0))}
    assert not faults, f"exceptions that nobody foresaw: {faults}\n{target.log()}"
    target.check_log()


def _is_over(target: Target, now: Report) -> bool:
    before = target.before
    return (
        now.sessions == before.sessions
        and now.subscriptions == before.subscriptions
        and now.descriptors <= before.descriptors
        # Under ASGI a client whose server once had it wait keeps a task for the next time: here the witness.
        and now.tasks <= before.tasks + target.is_asgi
        and now.objects <= before.objects + SPARE_OBJECTS
    )


def _check_memory(target: Target, after: Report) -> None:
    before, allowance = target.before, target.allowance
    assert after.rss - before.rss <= allowance.growth, f"memory has not returned: {before.rss} -> {after.rss} bytes"
    assert after.peak - before.rss <= allowance.peak, f"it cost too much: {before.rss} -> {after.peak} bytes"
    assert after.rss - target.born.rss <= DRIFT, f"memory grows: {target.born.rss} -> {after.rss} bytes"


def serve_newcomer(target: Target) -> None:
    """A client that does nothing wrong comes, gets what it subscribes to, and goes."""
    subscription = {"action": "subscribe", "channels": ["feed", "board"]}
    if target.is_tcp:
        with target.dial() as peer:
            peer.send(b"".join(json.dumps(line).encode() + b"\n" for line in (target.credentials(), subscription)))
            while b'"data":' not in peer.buffer:
                assert peer.fill(), f"a newcomer was turned away: {bytes(peer.buffer)!r}"
        return
    with target.open() as peer:
        peer.say(subscription)
        assert peer.next_item("feed")["data"]["n"]
        peer.send_close()
        assert peer.read_close().code == 1000
