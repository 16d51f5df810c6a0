"""Who is there, from where, and what failed from there: against a naive model, and the corners by hand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from analytics_hub.access.limits import LOOK_AGAIN, MAX_HOPS, MAX_REMEMBERED, ConnectionLimits
from analytics_hub.contracts import ANONYMOUS, Handshake
from analytics_hub.exceptions import Overloaded, TooManyRequests
from analytics_hub.identity import Identity
from analytics_hub.telemetry import COUNTERS
from analytics_hub.testing import ManualClock
from analytics_hub.tuning import MIB, Tuning


class Notes:
    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.lines: list[str] = []

    def __call__(self, kind: str, message: str, *args: object) -> None:
        assert kind in COUNTERS
        self.counters[kind] += 1
        self.lines.append(message % args)


def make(
    clock: ManualClock | None = None, notes: Notes | None = None, proxies: Iterable[str] | None = None, **tuning: Any
) -> ConnectionLimits:
    options: dict[str, Any] = {} if proxies is None else {"proxies": [*proxies]}
    return ConnectionLimits(Tuning(**tuning), clock=clock or ManualClock(), note=notes or Notes(), **options)


def seen_from(client: str | None, forwarded: str | None = None, token: str | None = "x") -> Handshake:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return Handshake(client=client, headers=headers, token=token)


def is_refused(check: Callable[[], object]) -> bool:
    try:
        check()
    except TooManyRequests:
        return True
    return False


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "forwarded", "place"),
    [
        ("203.0.113.7", None, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # it is no proxy, and may write what it likes
        ("::ffff:203.0.113.7", None, "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", None, "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", None, "2001:db8:1:3::/64"),
        ("fe80::1%eth0", None, "fe80::/64"),
        ("127.0.0.1", None, None),
        ("::ffff:127.0.0.1", None, None),
        ("::1", None, None),
        (None, None, None),
        (None, "203.0.113.7", None),
        ("/run/hub.sock", "203.0.113.7", None),
        ("", None, None),
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7, 10.0.0.1, 127.0.0.1", "203.0.113.7"),
        ("10.1.2.3", " 203.0.113.7 ", "203.0.113.7"),
        ("127.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("127.0.0.1", "[2001:db8::1]:4711", "2001:db8::/64"),
        ("127.0.0.1", "2001:db8::1", "2001:db8::/64"),
        ("127.0.0.1", "203.0.113.7, unknown", None),  # the proxy next to us does not say for whom
        ("127.0.0.1", "", None),
        ("127.0.0.1", ",,,", None),
        ("127.0.0.1", "10.0.0.1, 127.0.0.1", None),
        ("127.0.0.1", "203.0.113.7, " + "10.0.0.1, " * MAX_HOPS + "127.0.0.1", None),
        ("127.0.0.1", "9" * 10_000, None),
    ],
)
def test_who_is_behind_the_proxies(client: str | None, forwarded: str | None, place: str | None) -> None:
    keeper = make(proxies=["127.0.0.0/8", "::1", "10.0.0.0/8"])

    resolved = keeper.resolve(seen_from(client, forwarded))

    assert keeper.place(resolved.client) == place
    assert keeper.resolve(resolved) == resolved


@pytest.mark.parametrize("proxies", [["proxy.example"], ["10.0.0.1/8"], [""]])
def test_proxies_are_networks(proxies: list[str]) -> None:
    with pytest.raises(ValueError, match=r"does not appear to be|has host bits set"):
        make(proxies=proxies)


def test_proxies_are_a_list() -> None:
    with pytest.raises(TypeError, match=r"proxies must be a list of networks, not the text .10\.0\.0\.0"):
        ConnectionLimits(Tuning(), clock=ManualClock(), note=Notes(), proxies="10.0.0.0/8")


# --- failed tokens --------------------------------------------------------------------------------------------------


def test_failed_tokens_of_an_address_are_bounded_and_forgiven_in_time() -> None:
    clock, notes = ManualClock(), Notes()
    keeper = make(clock, notes, token_failures=3)
    attacker, neighbour = seen_from("203.0.113.7"), seen_from("203.0.113.8")
    for _ in range(3):
        keeper.check_failures(attacker)
        keeper.failed(attacker)

    with pytest.raises(TooManyRequests, match=r"^more than 3 refused tokens a minute from this address$") as refused:
        keeper.check_failures(attacker)
    keeper.check_failures(neighbour)
    keeper.check_failures(seen_from("203.0.113.7", token=None))  # its first message is judged when it comes

    assert refused.value.after == pytest.approx(20)
    assert notes.counters == {"limited-failures": 1}
    assert notes.lines == ["203.0.113.7 had more than 3 tokens refused in a minute"]
    clock.advance(refused.value.after)
    keeper.check_failures(attacker)
    keeper.failed(attacker)
    assert is_refused(lambda: keeper.check_failures(attacker))


def test_a_proxy_that_nobody_has_named_is_pointed_out() -> None:
    notes = Notes()
    keeper = make(notes=notes, max_per_address=1, token_failures=1)
    handshake = seen_from("198.51.100.9", "203.0.113.7")
    keeper.entered(handshake)
    keeper.failed(handshake)

    assert is_refused(lambda: keeper.check_room(handshake))
    assert is_refused(lambda: keeper.check_failures(handshake))
    assert len(notes.lines) == 2
    assert all("a proxy is to be named in Hub(proxies=...)" in line for line in notes.lines)


def test_checks_that_were_under_way_together_lock_nobody_out_for_longer_than_a_minute() -> None:
    clock = ManualClock()
    keeper = make(clock, token_failures=30)
    for _ in range(500):
        keeper.failed(seen_from("203.0.113.7"))

    assert is_refused(lambda: keeper.check_failures(seen_from("203.0.113.7")))
    clock.advance(2.0)
    keeper.check_failures(seen_from("203.0.113.7"))


def test_only_so_many_addresses_are_remembered() -> None:
    clock = ManualClock()
    keeper = make(clock, token_failures=1)
    for number in range(MAX_REMEMBERED + 10):
        keeper.failed(seen_from(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))

    assert len(keeper._full_again) == MAX_REMEMBERED
    assert not is_refused(lambda: keeper.check_failures(seen_from("10.0.0.0")))
    assert is_refused(lambda: keeper.check_failures(seen_from("10.0.39.24")))
    clock.advance(61)
    for number in range(MAX_REMEMBERED):  # each new one makes an old one go
        keeper.failed(seen_from(f"192.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert all(place.startswith("192.") for place in keeper._full_again)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_an_overloaded_hub_takes_nobody_until_it_has_recovered() -> None:
    clock, notes = ManualClock(), Notes()
    keeper = make(clock, notes, max_buffered=MIB)
    amounts = {"a": MIB - 1, "b": 0}
    asked: list[str] = []

    def gauge(name: str) -> Callable[[], int]:
        def look() -> int:
            asked.append(name)
            return amounts[name]

        return look

    keeper.gauges.extend([gauge("a"), gauge("b")])
    keeper.check_load()
    amounts["b"] = 1
    keeper.check_load()  # nobody has looked again
    clock.advance(LOOK_AGAIN)

    with pytest.raises(Overloaded, match=r"^the hub is overloaded$"):
        keeper.check_load()
    with pytest.raises(Overloaded):
        keeper.check_load()

    assert asked == ["a", "b", "a", "b"]
    assert notes.counters == {"overloaded": 2}
    assert notes.lines[0] == f"overloaded: {MIB} bytes wait for clients, of {MIB}"
    amounts["a"] = 0
    clock.advance(LOOK_AGAIN)
    keeper.check_load()


def test_without_limits_there_are_none() -> None:
    keeper = make(max_per_identity=None, max_per_address=None, token_failures=None, max_buffered=None)
    keeper.gauges.append(lambda: 1 << 60)
    somebody = Identity(id="somebody")
    for _ in range(2000):
        assert keeper.entered(seen_from("203.0.113.7")) is None
        assert keeper.identified(somebody) is None
        keeper.failed(seen_from("203.0.113.7"))

    keeper.check_load()
    keeper.check_room(seen_from("203.0.113.7"))
    keeper.check_failures(seen_from("203.0.113.7"))
    keeper.check_identity(somebody)


def test_what_a_peer_calls_itself_is_escaped_in_the_log() -> None:
    notes = Notes()
    keeper = make(notes=notes, max_per_identity=1)
    identity = Identity(id="eve\n2026-01-01 all is well" + "x" * 200)
    keeper.identified(identity)

    assert keeper.identified(identity) == "more than 1 connections of one identity"
    assert "\n" not in notes.lines[0]
    assert len(notes.lines[0]) < 150


# --- the model ------------------------------------------------------------------------------------------------------

PLACES = st.sampled_from(["203.0.113.7", "203.0.113.8", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "127.0.0.1"])
IDENTITIES = st.sampled_from([Identity(id="ann"), Identity(id="bob"), ANONYMOUS])
SAME = {"2001:db8::1": "2001:db8::", "2001:db8::2": "2001:db8::"}


class DoorkeeperMachine(RuleBasedStateMachine):
    """Lists of who is there and of when tokens failed, counted anew for each question."""

    @initialize(per_identity=st.integers(1, 4), per_address=st.integers(1, 5), failures=st.sampled_from([1, 2, 5, 60]))
    def start(self, per_identity: int, per_address: int, failures: int) -> None:
        self.clock = ManualClock()
        self.per_identity, self.per_address, self.failures = per_identity, per_address, failures
        self.keeper = make(
            self.clock, max_per_identity=per_identity, max_per_address=per_address, token_failures=failures
        )
        self.sessions: list[tuple[Handshake, Identity | None]] = []
        self.strangers: list[tuple[str, str | None]] = []
        self.tokens: defaultdict[str, float] = defaultdict(lambda: float(failures))

    def at(self, client: str) -> str | None:
        return None if client == "127.0.0.1" else SAME.get(client, client)

    def number_at(self, client: str) -> int:
        """Sessions from there."""
        places = [self.at(handshake.client or "") for handshake, _ in self.sessions]
        return 0 if self.at(client) is None else places.count(self.at(client))

    def number_of(self, identity: Identity) -> int:
        if identity is ANONYMOUS:
            return 0
        return [one.id for _, one in self.sessions if one is not None].count(identity.id)

    @rule(client=PLACES, identity=st.none() | IDENTITIES)
    def enter(self, client: str, identity: Identity | None) -> None:
        is_crowded = self.number_at(client) >= self.per_address
        is_common = identity is not None and self.number_of(identity) >= self.per_identity
        handshake = seen_from(client)

        assert is_refused(lambda: self.keeper.check_room(handshake)) == is_crowded
        if identity is not None:
            assert is_refused(lambda: self.keeper.check_identity(identity)) == is_common
        assert (self.keeper.entered(handshake) is not None) == is_crowded
        if identity is not None:
            assert (self.keeper.identified(identity) is not None) == is_common
        self.sessions.append((handshake, identity))

    @precondition(lambda self: any(identity is None for _, identity in self.sessions))
    @rule(data=st.data(), identity=IDENTITIES)
    def say_who(self, data: st.DataObject, identity: Identity) -> None:
        number = data.draw(st.sampled_from([at for at, (_, one) in enumerate(self.sessions) if one is None]))

        assert (self.keeper.identified(identity) is not None) == (self.number_of(identity) >= self.per_identity)
        self.sessions[number] = (self.sessions[number][0], identity)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        handshake, identity = self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1)))
        self.keeper.left(handshake, identity)

    @rule(client=PLACES)
    def arrive(self, client: str) -> None:
        waiting = [self.at(one) for one, _ in self.strangers].count(self.at(client))
        is_crowded = self.at(client) is not None and self.number_at(client) + waiting >= self.per_address

        assert is_refused(lambda: self.keeper.check_arrival(client)) == is_crowded
        if not is_crowded:
            self.strangers.append((client, self.keeper.arrived(client)))

    @precondition(lambda self: self.strangers)
    @rule(data=st.data())
    def depart(self, data: st.DataObject) -> None:
        _, place = self.strangers.pop(data.draw(st.integers(0, len(self.strangers) - 1)))
        self.keeper.departed(place)

    @rule(client=PLACES)
    def fail(self, client: str) -> None:
        place, handshake = self.at(client), seen_from(client)
        is_limited = place is not None and self.tokens[place] < 1 - 1e-6

        assert is_refused(lambda: self.keeper.check_failures(handshake)) == is_limited
        self.keeper.failed(handshake)
        if place is not None:
            self.tokens[place] = max(0.0, self.tokens[place] - 1)

    @rule(seconds=st.sampled_from([0.5, 1.0, 12.0, 30.0, 59.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for place in self.tokens:
            self.tokens[place] = min(float(self.failures), self.tokens[place] + seconds * self.failures / 60)

    @invariant()
    def keeps_nothing_of_nobody(self) -> None:
        if not hasattr(self, "keeper"):
            return
        assert +self.keeper._identities == self.keeper._identities
        assert len(self.keeper._addresses) == len({self.at(one.client or "") for one, _ in self.sessions} - {None})
        assert len(self.keeper._strangers) == len({self.at(one) for one, _ in self.strangers} - {None})


TestDoorkeeper = DoorkeeperMachine.TestCase


def test_whoever_leaves_as_somebody_who_never_came_takes_nobody_along() -> None:
    """An application may say `ANONYMOUS` first, and make an identity of that name itself when a token is refreshed."""
    doorkeeper = make(max_per_identity=1)
    namesake = Identity(id=ANONYMOUS.id)
    doorkeeper.entered(seen_from(None))
    doorkeeper.identified(ANONYMOUS)

    doorkeeper.left(seen_from(None), namesake)

    doorkeeper.identified(namesake)
    assert is_refused(lambda: doorkeeper.check_identity(namesake))
