"""Which tokens are checked: cases by hand, a state machine against a naive model, and an office behind one address."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from analytics_hub import AuthenticationError, Handshake, HubError, Identity, PermissionDenied, TooManyRequests, Tuning
from analytics_hub.access.proxies import TrustedProxies
from analytics_hub.access.token_budget import MAX_ACCEPTED, MAX_ADDRESSES, MAX_REFUSED, RETRY_UNCHECKED, TokenBudget
from analytics_hub.auth import JWTAuthenticator, mint
from analytics_hub.clock import Clock
from analytics_hub.telemetry import Telemetry
from analytics_hub.testing import ManualClock

from ..hub.rig import running

OFFICE = "203.0.113.7"
INVALID = AuthenticationError("invalid")


def make(failures: int | None, clock: ManualClock | None = None, counters: Counter[str] | None = None) -> TokenBudget:
    clock = clock or ManualClock()
    telemetry = Telemetry(Counter() if counters is None else counters, clock)
    return TokenBudget(Tuning(token_failures=failures), Clock(clock, clock.wall), telemetry, TrustedProxies())


def present(token: str | None, client: str | None = OFFICE, forwarded: str | None = None) -> Handshake:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return Handshake(client=client, headers=headers, token=token)


def refuse(budget: TokenBudget, token: str, client: str | None = OFFICE, error: AuthenticationError = INVALID) -> None:
    """Check an invalid token, which the budget must allow."""
    assert budget.find_refusal(present(token, client)) is None
    budget.token_refused(present(token, client), error)


def test_invalid_tokens_of_an_address_are_limited_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock, counters = ManualClock(), Counter[str]()
    budget = make(3, clock, counters)
    for number in range(3):
        refuse(budget, f"guess {number}")

    refusal = budget.find_refusal(present("another"))
    assert isinstance(refusal, TooManyRequests)
    assert str(refusal) == "more than 3 refused tokens a minute from this address"
    assert refusal.after == pytest.approx(20)
    assert budget.find_refusal(present("another", "203.0.113.8")) is None
    assert budget.find_refusal(present(None)) is None, "it may send a token later"
    assert counters == {"limited-failures": 1}
    assert caplog.messages == ["203.0.113.7 had more than 3 tokens refused in a minute"]
    clock.advance(refusal.after)
    refuse(budget, "another")
    assert budget.find_refusal(present("one more")) is not None


def test_a_token_that_was_accepted_is_checked_whatever_others_do() -> None:
    budget = make(2)
    budget.token_accepted(present("alice"))
    for number in range(2):
        refuse(budget, f"guess {number}")
    assert budget.find_refusal(present("guess 3")) is not None

    assert budget.find_refusal(present("alice")) is None
    assert budget.find_refusal(present("alice", "198.51.100.9")) is None


def test_a_valid_token_that_was_refused_unchecked_is_checked_when_it_comes_back() -> None:
    """A flood of guesses cannot use up what is left for tokens that come back."""
    clock = ManualClock()
    budget = make(30, clock)
    for number in range(1000):
        if budget.find_refusal(present(f"guess {number}")) is None:
            budget.token_refused(present(f"guess {number}"), INVALID)

    first = budget.find_refusal(present("alice"))
    assert isinstance(first, TooManyRequests)
    assert first.after == RETRY_UNCHECKED
    clock.advance(first.after)
    assert budget.find_refusal(present("alice")) is None


def test_an_invalid_token_that_comes_again_and_again_leaves_half_to_others() -> None:
    """Such as that of a forgotten page after the keys have changed."""
    budget = make(30)
    checks = 0
    for _ in range(1000):
        if budget.find_refusal(present("old key")) is None:
            budget.token_refused(present("old key"), INVALID)
            checks += 1

    assert checks == 16
    for number in range(10):
        refuse(budget, f"guess {number}")


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (AuthenticationError("expired"), "expired token"),
        (AuthenticationError("invalid", "revoked", is_genuine=True), "invalid token"),
        (PermissionDenied("banned, says the database"), "this identity is not allowed to connect"),
    ],
    ids=["expired", "revoked", "banned"],
)
def test_a_genuine_token_does_not_count_and_is_not_checked_each_time(error: Any, answer: str) -> None:
    clock, counters = ManualClock(), Counter[str]()
    budget = make(3, clock, counters)
    checks = 0
    for _ in range(100):
        if (refusal := budget.find_refusal(present("old"))) is None:
            budget.token_refused(present("old"), error)
            checks += 1
        else:
            assert (type(refusal), str(refusal)) == (type(error), answer)

    assert checks == 1
    for number in range(3):
        refuse(budget, f"guess {number}")
    clock.advance(20)
    assert budget.find_refusal(present("old")) is None, "it may have become valid"
    assert not counters


def test_a_token_that_was_accepted_and_is_invalid_now_counts() -> None:
    budget = make(1)
    budget.token_accepted(present("alice"))

    budget.token_refused(present("alice"), INVALID)

    assert budget.find_refusal(present("alice")) is not None


def test_the_log_points_out_a_proxy_that_is_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    budget = make(1)
    refuse(budget, "guess", "198.51.100.9")

    assert budget.find_refusal(present("x", "198.51.100.9", "203.0.113.7")) is not None
    assert "name a trusted proxy in Hub(proxies=...)" in caplog.messages[0]


def test_concurrent_refusals_lock_an_address_out_for_no_longer_than_a_minute() -> None:
    clock = ManualClock()
    budget = make(5, clock)
    for number in range(500):
        budget.token_refused(present(f"guess {number}"), INVALID)

    assert budget.find_refusal(present("alice")) is not None
    clock.advance(12.0)
    assert budget.find_refusal(present("alice")) is None


def test_what_is_remembered_is_bounded() -> None:
    clock = ManualClock()
    budget = make(1, clock)
    for number in range(MAX_ADDRESSES + 10):
        budget.token_refused(present("x", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"), INVALID)
    for number in range(MAX_REFUSED + 10):
        budget.token_refused(present(f"guess {number}"), INVALID)
    for number in range(MAX_ACCEPTED + 10):
        budget.token_accepted(present(f"user {number}"))

    assert len(budget._full_again) == MAX_ADDRESSES
    assert len(budget._refused) == MAX_REFUSED
    assert len(budget._accepted) == MAX_ACCEPTED
    assert budget.find_refusal(present("y", "10.0.0.0")) is None
    assert budget.find_refusal(present("y", "10.0.39.24")) is not None
    assert budget.find_refusal(present("user 0")) is not None
    assert budget.find_refusal(present("user 11")) is None
    clock.advance(61)
    for number in range(MAX_ADDRESSES):  # each new address removes an old one
        budget.token_refused(present("x", f"192.{number >> 16}.{number >> 8 & 255}.{number & 255}"), INVALID)
    assert all(key.startswith("192.") for key in budget._full_again)


def test_the_budget_may_be_turned_off() -> None:
    budget = make(None)
    for number in range(2000):
        refuse(budget, f"guess {number}")
        refuse(budget, "expired", error=AuthenticationError("expired"))

    assert not budget._refused


def test_neither_tickets_nor_peers_without_an_address_count() -> None:
    budget = make(1)
    for number in range(5):
        refuse(budget, f"ticket.{number}")
        refuse(budget, f"guess {number}", None)


# --- the model ------------------------------------------------------------------------------------------------------

ADDRESSES = st.sampled_from([OFFICE, "203.0.113.8", "2001:db8::1", "2001:db8::2", "127.0.0.1"])
KEYS = {"2001:db8::1": "2001:db8::", "2001:db8::2": "2001:db8::", "127.0.0.1": None}
TOKENS: dict[str, AuthenticationError | PermissionDenied | None] = {
    "invalid": INVALID,
    "expired": AuthenticationError("expired"),
    "banned": PermissionDenied("no"),
    "valid": None,
}


class BudgetMachine(RuleBasedStateMachine):
    """The model keeps the tokens by their name, and what is left of each budget as a number."""

    @initialize(limit=st.sampled_from([1, 2, 5, 30, 60]))
    def start(self, limit: int) -> None:
        self.clock = ManualClock()
        self.limit = limit
        self.budget = make(limit, self.clock)
        self.left: dict[str, float] = {}
        self.known: dict[str, tuple[str, float]] = {}
        """How each token ended the last time, and when it was checked."""
        self.invalid_checks: dict[str, deque[float]] = {}

    @rule(client=ADDRESSES, kind=st.sampled_from(sorted(TOKENS)), number=st.integers(0, 40))
    def send_token(self, client: str, kind: str, number: int) -> None:
        self.send(client, kind, f"{kind} {number}")

    @rule(client=ADDRESSES, kind=st.sampled_from(sorted(TOKENS)), times=st.integers(2, 40))
    def send_the_same(self, client: str, kind: str, times: int) -> None:
        for _ in range(times):
            self.send(client, kind, f"{kind} again")

    @rule(client=ADDRESSES, first=st.integers(1000, 10**6))
    def flood(self, client: str, first: int) -> None:
        for number in range(40):
            self.send(client, "invalid", f"guess {first + number}")

    @rule(client=ADDRESSES, number=st.integers(0, 40))
    def valid_token_becomes_invalid(self, client: str, number: int) -> None:
        """Its key was withdrawn."""
        self.send(client, "invalid", f"valid {number}")

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 12.0, 30.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for key in self.left:
            self.left[key] = min(float(self.limit), self.left[key] + seconds * self.limit / 60)

    def send(self, client: str, kind: str, token: str) -> None:
        key = KEYS.get(client, client)
        refusal = self.budget.find_refusal(present(token, client))
        if key is None:
            assert refusal is None
        else:
            assert (refusal is None) == self.is_checked(key, token), (token, self.left, self.known.get(token))
            self.check_refusal(key, token, refusal)
        if refusal is None:
            self.check(client, key, kind, token)

    def is_checked(self, key: str, token: str) -> bool:
        end, at = self.known.get(token, ("new", 0.0))
        if end == "valid":
            return True
        if end in ("expired", "banned"):
            return self.clock() - at >= 60 / self.limit
        leaves = {"invalid": (self.limit - 1) // 2, "unchecked": 0, "new": self.limit // 10}[end]
        return self.left.setdefault(key, float(self.limit)) - 1 >= leaves - 1e-6

    def check_refusal(self, key: str, token: str, refusal: HubError | None) -> None:
        if isinstance(refusal, TooManyRequests):
            assert 0 < refusal.after <= 60
            self.known.setdefault(token, ("unchecked", 0.0))
        elif refusal is not None:
            assert self.known[token][0] in ("expired", "banned")

    def check(self, client: str, key: str | None, kind: str, token: str) -> None:
        error = TOKENS[kind]
        if error is None:
            self.budget.token_accepted(present(token, client))
        else:
            self.budget.token_refused(present(token, client), error)
        if key is None:
            return
        self.known[token] = (kind, self.clock())
        if kind == "invalid":
            self.left[key] = max(0.0, self.left.get(key, float(self.limit)) - 1)
            self.count_check(key)

    def count_check(self, key: str) -> None:
        """No address has more than `limit` invalid tokens checked at once, and as many in each minute."""
        checks = self.invalid_checks.setdefault(key, deque())
        checks.append(self.clock())
        while checks[0] <= self.clock() - 60:
            checks.popleft()
        forced = sum(1 for token, (end, _) in self.known.items() if token.startswith("valid") and end == "invalid")
        assert len(checks) <= 2 * self.limit + forced


TestBudget = BudgetMachine.TestCase


# --- the office -----------------------------------------------------------------------------------------------------

KEY = "k" * 32


class Counting:
    """An `authenticate` that counts its calls."""

    def __init__(self, clock: ManualClock) -> None:
        self.calls = 0
        self.jwt = JWTAuthenticator(KEY, algorithms=["HS256"], clock=clock.wall)

    async def __call__(self, handshake: Handshake) -> Identity:
        self.calls += 1
        identity = self.jwt(handshake)
        assert isinstance(identity, Identity)
        return identity


@pytest.mark.anyio
async def test_forgotten_pages_do_not_lock_out_their_office() -> None:
    """Five pages with tokens that are well signed and not valid connect every second; colleagues log in beside them."""
    clock = ManualClock()
    authenticate = Counting(clock)
    now = clock.wall()
    forgotten = [mint(KEY, subject=f"page {number}", ttl=1, now=now - 7200) for number in range(3)]
    forgotten.append(mint(KEY, subject="early", now=now, nbf=now + 3600))
    forgotten.append(mint(KEY, subject="revoked", now=now - 1))
    async with running(authenticate=authenticate, clock=clock, wall_clock=clock.wall) as hub:
        hub.revoke("revoked")
        outcomes = Counter[bool]()
        for second in range(120):
            for token in forgotten:
                with pytest.raises(AuthenticationError):
                    await hub.gateway.admit(Handshake(token=token, client=OFFICE))
            fresh = mint(KEY, subject=f"colleague {second}", now=clock.wall())
            outcomes[(await hub.gateway.admit(Handshake(token=fresh, client=OFFICE))).identity is not None] += 1
            clock.advance(1)

        assert outcomes == {True: 120}
        assert authenticate.calls <= 120 + len(forgotten) * 61, "each page has one check in two seconds"
        counters = hub.statistics().counters
        assert counters["token-expired"] + counters["token-invalid"] == 120 * len(forgotten), "each is answered"
        assert "limited-failures" not in counters


@pytest.mark.anyio
async def test_an_attacker_behind_an_address_has_a_bounded_number_of_tokens_checked() -> None:
    """And a colleague gets in beside it: at once with a token that was accepted before, else at the second try."""
    clock = ManualClock()
    authenticate = Counting(clock)
    async with running(authenticate=authenticate, clock=clock, wall_clock=clock.wall) as hub:
        known = mint(KEY, subject="alice", now=clock.wall())
        assert (await hub.gateway.admit(Handshake(token=known, client=OFFICE))).identity is not None

        async def flood(second: int) -> None:
            for number in range(20):
                guess = mint("x" * 32, subject=f"{second} {number}")
                with pytest.raises(HubError):
                    await hub.gateway.admit(Handshake(token=guess, client=OFFICE))

        for second in range(120):
            await flood(second)
            clock.advance(1)
        await flood(120)

        assert authenticate.calls <= 1 + 30 + 60
        assert (await hub.gateway.admit(Handshake(token=known, client=OFFICE))).identity is not None
        fresh = Handshake(token=mint(KEY, subject="bob", now=clock.wall()), client=OFFICE)
        with pytest.raises(TooManyRequests) as refused:
            await hub.gateway.admit(fresh)
        clock.advance(refused.value.after)
        await flood(121)
        assert (await hub.gateway.admit(fresh)).identity is not None
