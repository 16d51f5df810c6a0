"""The checks around every attack: nothing is left over, every account balances, and other clients are undisturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from .server import Report
from .target import FAULTS, MIB, Environment, Target, choose, open_environment

SPARE_OBJECTS: Final = 1000
"""Objects that caches of the interpreter and of libraries may have gained; each client that leaks costs dozens."""
DRIFT: Final = 48 * MIB
"""What all attacks on one server may add to its resident memory, one after the other."""


class Environments:
    """The environments that all files of tests share."""

    def __init__(self, certificate: Path) -> None:
        self.certificate = certificate
        self._opened: dict[str, Environment] = {}
        self._stack = ExitStack()

    def find(self, name: str) -> Environment:
        if name not in self._opened:
            self._opened[name] = self._stack.enter_context(warmed_up(name, self.certificate))
        return self._opened[name]

    def close(self) -> None:
        self._stack.close()


def targets(*names: str, **options: Any) -> Callable[..., Any]:
    """The fixture `environment` of a file of tests: the servers that it attacks.

    With `options`, which override those of `LOW`, they are the file's own; otherwise all files share them.
    """

    @pytest.fixture(scope="module", params=choose(names))
    def environment(request: pytest.FixtureRequest, environments: Environments) -> Iterator[Environment]:
        if not options:
            yield environments.find(request.param)
            return
        with warmed_up(request.param, environments.certificate, **options) as opened:
            yield opened

    return environment


@contextmanager
def warmed_up(name: str, certificate: Path, **options: Any) -> Iterator[Environment]:
    """A new environment, in which a first client was served."""
    with open_environment(name, certificate, **options) as environment:
        target = environment.target
        target.begin_attack()
        serve_new_client(target)  # what the first client makes a server load is not a leak
        target.baseline = assert_recovers(target)
        yield environment


@contextmanager
def monitored(environment: Environment) -> Iterator[Target]:
    """Attack the target inside; afterwards everything that must hold after any attack is asserted."""
    target = environment.target
    target.begin_attack()
    environment.observer.begin()
    yield target
    before = target.before
    after = assert_recovers(target)
    environment.observer.assert_undisturbed(after.heads["feed"], after.waited - before.waited)
    serve_new_client(target)
    after = assert_recovers(target)
    _assert_memory_returned(target, after)
    assert not after.unbalanced
    faults = {name: count for name in FAULTS if (count := after.counters.get(name, 0) - before.counters.get(name, 0))}
    assert not faults, f"unforeseen exceptions: {faults}\n{target.log()}"
    target.assert_log_clean()


def _has_recovered(target: Target, now: Report) -> bool:
    before = target.before
    return (
        now.sessions == before.sessions
        and now.subscriptions == before.subscriptions
        and now.descriptors <= before.descriptors
        # Under ASGI a client that its server once made wait keeps a task for the next time: here the observer.
        and now.tasks <= before.tasks + target.is_asgi
        and now.objects <= before.objects + SPARE_OBJECTS
    )


def assert_recovers(target: Target) -> Report:
    """Sessions, tasks, descriptors and objects return to what they were before the attack."""
    return target.wait_until(lambda now: _has_recovered(target, now), "clients, tasks and descriptors return")


def _assert_memory_returned(target: Target, after: Report) -> None:
    before, allowance = target.before, target.allowance
    assert after.rss - before.rss <= allowance.growth, f"memory has not returned: {before.rss} -> {after.rss} bytes"
    assert after.peak - before.rss <= allowance.peak, f"it cost too much: {before.rss} -> {after.peak} bytes"
    assert after.rss - target.baseline.rss <= DRIFT, f"memory grows: {target.baseline.rss} -> {after.rss} bytes"


def serve_new_client(target: Target) -> None:
    """A well-behaved client connects, receives the channels that it subscribes to, and leaves."""
    with target.open() as peer:
        peer.send_commands({"action": "subscribe", "channels": ["feed", "board"]})
        assert peer.next_item("feed")["data"]["n"]
        if not target.is_tcp:
            peer.send_close()
            assert peer.read_close().code == 1000
