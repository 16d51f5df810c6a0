"""What the machine draws: small settings, because they find more than high loads do."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from analytics_hub.channels import Channel
from analytics_hub.identity import Identity
from analytics_hub.tuning import Tuning

from .answers import Malformed
from .publishing import Setup
from .wire import Fields

# Fractions of two: sums of them are exact, so that the reference and the engine agree to the last bit.
INTERVAL: Final = 1 / 64
STEPS: Final = (0.0, 1 / 1024, INTERVAL, 1 / 32, 1 / 8, 1 / 2, 1.0, 3.0, 8.0)
steps = st.sampled_from(STEPS)

EVENTS: Final = ("ev", "log", "user:1", "user:2", "user:3")
KEYED: Final = ("tab", "room:1", "room:2")
DURABLE: Final = ("dur",)
NAMES: Final = (*EVENTS, *KEYED, "last", *DURABLE)
KEYS: Final = ("a", "b", "c", "d")
keys = st.sampled_from(KEYS)

names = st.sampled_from(NAMES)
anything = st.one_of(*[names] * 12, st.sampled_from(("nothing", "user:", "bad name", "", "x" * 300)))


def few_names(least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(names, min_size=least, max_size=3, unique=True)


small_or_none = st.one_of(st.none(), st.integers(1, 6))


def tunings() -> st.SearchStrategy[Tuning]:
    return st.builds(
        Tuning,
        interval=st.just(INTERVAL),
        max_batch=st.integers(1, 4),
        max_frames=st.one_of(st.none(), st.integers(1, 2)),
        buffer_items=st.integers(1, 8),
        buffer_bytes=st.sampled_from((200, 500, 1_000_000)),
        burst_items=st.integers(4, 20),
        burst_bytes=st.sampled_from((600, 1_000_000)),
        rate=st.sampled_from((None, None, 0.5, 2.0, 4.0, 16.0)),
        command_rate=st.sampled_from((None, None, 4.0)),
        max_subscriptions=st.integers(2, 4),
        max_members=st.integers(1, 2),
        control_bytes=st.sampled_from((1024, 4096, 1_000_000)),
        pending_bytes=st.sampled_from((1024, 65_536)),
        heartbeat=st.sampled_from((2.0, 20.0)),
        auth_timeout=st.just(4.0),
        write_timeout=st.sampled_from((3.0, 60.0)),
        durable_write_timeout=st.sampled_from((1.0, 10.0)),
        silence_timeout=st.just(5.0),
        expiry_warning=st.sampled_from((0.0, 1.0)),
        journal_chunk=st.integers(1, 3),
    )


def make_channels(
    keep: int | None = None, few: int | None = None, max_keys: int = 3, seconds: float = 1.0, window: int = 3
) -> tuple[Channel, ...]:
    """A channel of every kind."""
    return (
        Channel("ev"),
        Channel("log", keep_items=keep, roles=frozenset({"ops"}), type="line"),
        Channel("tab", mode="table", max_keys=max_keys),
        Channel("last", mode="latest", roles=frozenset({"ops", "dev"})),
        Channel("dur", mode="durable", keep_items=window),
        Channel("user:*", keep_items=few, keep_seconds=seconds),
        Channel("room:*", mode="table", max_keys=2, keep_seconds=seconds, roles=frozenset({"dev"})),
    )


def channel_sets() -> st.SearchStrategy[tuple[Channel, ...]]:
    return st.builds(
        make_channels,
        keep=small_or_none,
        few=small_or_none,
        max_keys=st.integers(1, 3),
        seconds=st.sampled_from((0.0, 1.0, 5.0)),
        window=st.integers(1, 4),
    )


def setups() -> st.SearchStrategy[Setup]:
    return st.builds(
        Setup,
        channels=channel_sets(),
        tuning=tunings(),
        slice_size=st.integers(1, 3),
        max_over_rate=st.integers(2, 5),
        asks_to_authorize=st.sampled_from((False, False, False, True)),
        restored=st.sampled_from((0, 0, 7)),
        journal_keeps=st.integers(1, 12),
    )


def identities(name: str = "ann") -> st.SearchStrategy[Identity]:
    """`expires` is in seconds from now; the machine makes it a time of day."""
    return st.builds(
        Identity,
        id=st.just(name),
        roles=st.sampled_from([frozenset(roles) for roles in (("ops", "dev"), ("ops", "dev"), ("ops",), ("dev",), ())]),
        expires=st.sampled_from((None, None, None, 0.5, 2.0, 6.0)),
        channels=st.sampled_from((None, None, None, ("user:*", "ev", "dur"))),
    )


nothing: st.SearchStrategy[frozenset[int]] = st.just(frozenset())


def stalling() -> st.SearchStrategy[frozenset[int]]:
    """Clients that are stalled by their next write."""
    return st.one_of(nothing, nothing, nothing, st.frozensets(st.integers(0, 5), min_size=1, max_size=4))


def gone() -> st.SearchStrategy[frozenset[int]]:
    """Clients that turn out to be disconnected at their next write."""
    return st.one_of(*[nothing] * 9, st.frozensets(st.integers(0, 5), min_size=1, max_size=1))


# --- commands

ids = st.one_of(st.none(), st.integers(1, 9), st.just("x"))


def starts() -> st.SearchStrategy[Fields]:
    """Start options. `since` counts back from the head; the machine makes it a number."""
    return st.one_of(
        st.just({}),
        st.just({}),
        st.just({"snapshot": True}),
        st.builds(lambda n: {"last": n}, st.integers(0, 9)),
        st.builds(lambda back: {"since": {"epoch": "", "seq": back}}, st.integers(-1, 12)),
        st.builds(lambda back: {"since": {"epoch": "another", "seq": back}}, st.integers(0, 12)),
        st.just({"snapshot": True, "last": 1}),
    )


def selections(of: st.SearchStrategy[str] = anything) -> st.SearchStrategy[str | Fields]:
    paced = st.sampled_from(({}, {}, {}, {"max_hz": 4.0}, {"max_hz": 0.5}))
    return st.one_of(of, st.builds(lambda name, start, pace: {"channel": name, **start, **pace}, of, starts(), paced))


def with_id(command: Fields, id_: Any) -> Fields:
    return command if id_ is None else command | {"id": id_}


def commands() -> st.SearchStrategy[Fields]:
    return st.builds(
        with_id,
        st.one_of(
            st.builds(
                lambda wanted: {"action": "subscribe", "channels": wanted},
                st.lists(selections(), min_size=1, max_size=4),
            ),
            st.builds(
                lambda wanted: {"action": "unsubscribe", "channels": wanted}, st.lists(anything, min_size=1, max_size=3)
            ),
            st.just({"action": "ping"}),
            st.builds(lambda frames: {"action": "seen", "frames": frames}, st.integers(0, 3)),
            st.just({"action": "auth", "token": "t"}),
        ),
        ids,
    )


# Invalid commands. Those that are not even JSON cannot be part of an array.
MALFORMED: Final = (
    Malformed('{"action":"sing","id":3}', "unknown-action", 3),
    Malformed('{"action":"subscribe"}'),
    Malformed('{"action":"subscribe","channels":[],"id":4}', id=4),
    Malformed('{"action":"subscribe","channels":[5]}'),
    Malformed('{"action":"subscribe","channels":[{"channel":"ev","lest":1}]}'),
    Malformed('{"action":"ping","colour":"red"}'),
    Malformed('{"action":"auth"}'),
    Malformed("null"),
    Malformed("5"),
)
BROKEN: Final = (
    Malformed("{"),
    Malformed("[]"),
    Malformed("["),
    Malformed(""),
    Malformed("nonsense"),
    Malformed("[" * 700),
)


def frames() -> st.SearchStrategy[list[Fields | Malformed]]:
    """One frame of a client."""
    one = st.one_of(*[commands()] * 8, st.sampled_from(MALFORMED))
    several = st.lists(one, min_size=1, max_size=3)
    return st.one_of(*[several] * 8, st.sampled_from(BROKEN).map(lambda broken: [broken]))


def bodies() -> st.SearchStrategy[Any]:
    return st.one_of(st.integers(0, 9), st.integers(0, 9), st.text('é"\\x', max_size=4), st.just({"n": [None, True]}))


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)
