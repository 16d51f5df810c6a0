"""Limits of connections: a state machine against a naive model, and cases by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from analytics_hub.access.limits import LOAD_TTL, ConnectionLimits
from analytics_hub.access.proxies import TrustedProxies
from analytics_hub.clock import Clock
from analytics_hub.contracts import ANONYMOUS, Handshake
from analytics_hub.exceptions import Overloaded, TooManyRequests
from analytics_hub.identity import Identity
from analytics_hub.telemetry import Telemetry
from analytics_hub.testing import ManualClock
from analytics_hub.tuning import MIB, Tuning


def make(clock: ManualClock | None = None, counters: Counter[str] | None = None, **tuning: Any) -> ConnectionLimits:
    clock = clock or ManualClock()
    telemetry = Telemetry(Counter() if counters is None else counters, clock)
    return ConnectionLimits(Tuning(**tuning), Clock(clock, clock.wall), telemetry, TrustedProxies())


def handshake_of(client: str | None, forwarded: str | None = None) -> Handshake:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return Handshake(client=client, headers=headers)


def is_refused(check: Callable[[], object]) -> bool:
    try:
        check()
    except TooManyRequests:
        return True
    return False


def test_the_log_points_out_a_proxy_that_is_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    limits = make(max_per_address=1)
    handshake = handshake_of("198.51.100.9", "203.0.113.7")
    limits.session_started(handshake)

    assert is_refused(lambda: limits.check_address(handshake))
    assert all("name a trusted proxy in Hub(proxies=...)" in line for line in caplog.messages)
    assert len(caplog.messages) == 1


# --- load ---------------------------------------------------------------------------------------------------------


class Buffer:
    """Has a gauge, as transports do."""

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.calls = 0

    def measure(self) -> int:
        self.calls += 1
        return self.amount


def test_an_overloaded_hub_refuses_new_work_until_it_has_recovered(caplog: pytest.LogCaptureFixture) -> None:
    clock, counters = ManualClock(), Counter[str]()
    limits = make(clock, counters, max_buffered=MIB)
    buffers = [Buffer(MIB - 1), Buffer(0)]
    for buffer in buffers:
        limits.add_gauge(buffer.measure)
    limits.check_load()
    buffers[1].amount = 1
    limits.check_load()  # the sum is cached
    clock.advance(LOAD_TTL)

    with pytest.raises(Overloaded, match=r"^the hub is overloaded$"):
        limits.check_load()
    with pytest.raises(Overloaded):
        limits.check_load()

    assert [buffer.calls for buffer in buffers] == [2, 2]
    assert counters == {"overloaded": 2}
    assert caplog.messages == [f"overloaded: {MIB} bytes wait for clients, of {MIB}"]
    buffers[0].amount = 0
    clock.advance(LOAD_TTL)
    limits.check_load()


def test_a_gauge_goes_with_its_object() -> None:
    clock = ManualClock()
    limits = make(clock, max_buffered=MIB)
    buffer = Buffer(MIB)
    limits.add_gauge(buffer.measure)
    with pytest.raises(Overloaded):
        limits.check_load()

    del buffer
    clock.advance(LOAD_TTL)
    limits.check_load()

    assert limits._gauges == []


def test_limits_may_be_turned_off() -> None:
    limits = make(max_per_identity=None, max_per_address=None, max_buffered=None)
    buffer = Buffer(1 << 60)
    limits.add_gauge(buffer.measure)
    identity = Identity(id="alice")
    for _ in range(2000):
        assert limits.session_started(handshake_of("203.0.113.7")) is None
        assert limits.session_identified(identity) is None

    limits.check_load()
    limits.check_address(handshake_of("203.0.113.7"))
    limits.check_identity(identity)


def test_an_identity_is_escaped_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    limits = make(max_per_identity=1)
    identity = Identity(id="eve\n2026-01-01 all is well" + "x" * 200)
    limits.session_identified(identity)

    assert limits.session_identified(identity) == "more than 1 connections of one identity"
    assert "\n" not in caplog.messages[0]
    assert len(caplog.messages[0]) < 150


# --- the model ------------------------------------------------------------------------------------------------------

ADDRESSES = st.sampled_from(
    ["203.0.113.7", "203.0.113.8", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "127.0.0.1"]
)
IDENTITIES = st.sampled_from([Identity(id="ann"), Identity(id="bob"), ANONYMOUS])
SAME = {"2001:db8::1": "2001:db8::", "2001:db8::2": "2001:db8::"}


class LimitsMachine(RuleBasedStateMachine):
    """The model keeps lists of sessions and pending connections, and counts them anew for each check."""

    @initialize(per_identity=st.integers(1, 4), per_address=st.integers(1, 5))
    def start(self, per_identity: int, per_address: int) -> None:
        self.clock = ManualClock()
        self.per_identity, self.per_address = per_identity, per_address
        self.limits = make(self.clock, max_per_identity=per_identity, max_per_address=per_address)
        self.sessions: list[tuple[Handshake, Identity | None]] = []
        self.pending: list[tuple[str, str | None]] = []

    def key(self, client: str) -> str | None:
        return None if client == "127.0.0.1" else SAME.get(client, client)

    def number_at(self, client: str) -> int:
        """Sessions from this address."""
        keys = [self.key(handshake.client or "") for handshake, _ in self.sessions]
        return 0 if self.key(client) is None else keys.count(self.key(client))

    def number_of(self, identity: Identity) -> int:
        if identity is ANONYMOUS:
            return 0
        return [each.id for _, each in self.sessions if each is not None].count(identity.id)

    @rule(client=ADDRESSES, identity=st.none() | IDENTITIES)
    def start_session(self, client: str, identity: Identity | None) -> None:
        is_full = self.number_at(client) >= self.per_address
        is_over_limit = identity is not None and self.number_of(identity) >= self.per_identity
        handshake = handshake_of(client)

        assert is_refused(lambda: self.limits.check_address(handshake)) == is_full
        if identity is not None:
            assert is_refused(lambda: self.limits.check_identity(identity)) == is_over_limit
        assert (self.limits.session_started(handshake) is not None) == is_full
        if identity is not None:
            assert (self.limits.session_identified(identity) is not None) == is_over_limit
        self.sessions.append((handshake, identity))

    @precondition(lambda self: any(identity is None for _, identity in self.sessions))
    @rule(data=st.data(), identity=IDENTITIES)
    def identify(self, data: st.DataObject, identity: Identity) -> None:
        number = data.draw(st.sampled_from([at for at, (_, each) in enumerate(self.sessions) if each is None]))

        assert (self.limits.session_identified(identity) is not None) == (self.number_of(identity) >= self.per_identity)
        self.sessions[number] = (self.sessions[number][0], identity)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def end_session(self, data: st.DataObject) -> None:
        handshake, identity = self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1)))
        self.limits.session_ended(handshake, identity)

    @rule(client=ADDRESSES)
    def accept(self, client: str) -> None:
        waiting = [self.key(each) for each, _ in self.pending].count(self.key(client))
        is_full = self.key(client) is not None and self.number_at(client) + waiting >= self.per_address

        assert is_refused(lambda: self.limits.check_connection(client)) == is_full
        if not is_full:
            self.pending.append((client, self.limits.connection_pending(client)))

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def end_pending(self, data: st.DataObject) -> None:
        _, key = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        self.limits.pending_ended(key)

    @invariant()
    def keeps_nothing_of_ended_sessions(self) -> None:
        if not hasattr(self, "limits"):
            return
        assert +self.limits._identities == self.limits._identities
        assert len(self.limits._addresses) == len({self.key(each.client or "") for each, _ in self.sessions} - {None})
        assert len(self.limits._pending) == len({self.key(each) for each, _ in self.pending} - {None})


TestLimits = LimitsMachine.TestCase


def test_a_session_that_was_anonymous_at_first_decrements_no_other() -> None:
    """An application may return `ANONYMOUS` first, and an identity of its own with that id for a refresh."""
    limits = make(max_per_identity=1)
    namesake = Identity(id=ANONYMOUS.id)
    limits.session_started(handshake_of(None))
    limits.session_identified(ANONYMOUS)

    limits.session_ended(handshake_of(None), namesake)

    limits.session_identified(namesake)
    assert is_refused(lambda: limits.check_identity(namesake))
