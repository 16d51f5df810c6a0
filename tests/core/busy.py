"""The same machine with busy cohorts, which follow their logs (`core/fanout.py`).

With a low rate, tables and pauses of seconds that hardly ever happens, so this machine leaves them out of its setup,
and disturbs busy cohorts in every way there is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from analytics_hub.channels import Channel

from . import strategies as draw
from .client import Client
from .machine import MOST_CLIENTS, EngineMachine, numbers
from .world import Setup, World

BUSY: Final = ("ev", "user:1", "log")
DISTURBANCES: Final = (
    *("", "", "stall", "part", "subscribe", "unsubscribe", "leave", "join", "burst", "overtake", "pause", "resume"),
)
BURST: Final = 20
"""What an `events` channel keeps."""


def without_limits(setup: Setup) -> Setup:
    """Nothing holds a cohort back except its buffer, and sometimes a rate that is used up."""
    rate = 16.0 if (setup.tuning.rate or 0.0) >= 4.0 else None
    tuning = replace(setup.tuning, rate=rate, max_batch=4, max_frames=None, burst_items=BURST, burst_bytes=1_000_000)
    channels = tuple(replace(c, keep_items=None, keep_bytes=None) if c.mode == "events" else c for c in setup.channels)
    return replace(setup, tuning=tuning, channels=channels, asks_to_authorize=False)


class BusyMachine(EngineMachine):
    @initialize(setup=draw.setups(), clients=st.integers(1, 5))
    def begin(self, setup: Setup, clients: int) -> None:
        self.world = World(without_limits(setup))
        for number in range(clients):
            client = self.world.connect()
            self.world.send(client, {"action": "subscribe", "channels": list(self._some(number))})

    def _some(self, number: int) -> list[str]:
        declared = [name for name in BUSY if self._is_declared(name)]
        return [declared, declared[:1], declared[:2], declared, declared[:2], declared][number % 6] or ["ev"]

    def _is_declared(self, name: str) -> bool:
        found: Channel | None = self.world.find_declaration(name)
        return found is not None and found.mode == "events"

    @rule(
        beats=st.lists(st.tuples(st.integers(2, 4), st.sampled_from(DISTURBANCES)), min_size=3, max_size=8),
        number=numbers,
        everywhere=st.booleans(),
    )
    def publish_busily(self, beats: list[tuple[int, str]], number: int, everywhere: bool) -> None:
        world = self.world
        names = [name for name in BUSY if self._is_declared(name)] or ["ev"]
        for count, disturbance in beats:
            for n in range(count):
                for name in names if everywhere else names[:1]:
                    world.publish(name, n)
            self._disturb(disturbance, number)
            world.turn()
            world.advance(draw.INTERVAL)

    def _disturb(self, what: str, number: int) -> None:
        world = self.world
        client = self.client(number, lambda client: client.is_live and not client.is_paused)
        match what:
            case "stall":
                world.timer()
                world.hand_over(1 + number % 3, {number, (number + 1) % MOST_CLIENTS})
            case "part":
                world.timer()
                world.hand_over(1)
            case "subscribe" if client is not None:
                world.timer()
                world.send(client, {"action": "subscribe", "channels": list(BUSY)})
            case "unsubscribe" if client is not None and client.subscribed:
                world.timer()
                world.send(client, {"action": "unsubscribe", "channels": list(client.subscribed)[:1]})
            case "leave" if client is not None:
                world.timer()
                world.disconnect(client)
            case "join" if sum(other.is_live for other in world.clients) < MOST_CLIENTS:
                world.send(world.connect(), {"action": "subscribe", "channels": self._some(number)})
            case "burst":
                self._burst(12 + 4 * number)
            case "overtake" if client is not None:
                self._overtake(client)
            case "pause":
                world.advance(2 * draw.INTERVAL)
            case "resume":
                for other in self._stalled():
                    world.resume(other)

    def _burst(self, count: int) -> None:
        for n in range(count):
            self.world.publish("ev", n)

    def _overtake(self, client: Client) -> None:
        """What followers have in their queues is overwritten in its log; then one of them stalls, and misses more."""
        world = self.world
        world.timer()
        for _ in range(2):
            self._burst(BURST)
            world.timer()
        world.send(client, {"action": "ping"})
        world.hand_over(1, {client.number})
        self._burst(BURST)

    def _stalled(self) -> list[Client]:
        return [client for client in self.world.clients if client.is_stalled and not client.is_gone]
