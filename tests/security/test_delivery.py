"""D: delivery; and clients that do not read, read slowly, or are silent."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

from ..transports.peer import CLOSE, PING, PONG, TEXT, Received
from .client import LinePeer, Peer, connections
from .environment import Environments, monitored, targets
from .exchanges import is_served, subscribe
from .server import Report
from .target import ASGI, LOW, MIB, NATIVE, Target, choose

EVERYWHERE = (*NATIVE, *ASGI, "tcp", "tcp-trio-tls")
environment = targets(*EVERYWHERE)

SMALL = 4096
"""The receive buffer of a client that does not read, so that the server notices soon."""


def total(report: Report, channel: str, part: str) -> int:
    return report.totals.get(channel, {}).get(part, 0)


# --- slow and silent clients


def test_d01_d02_unread_clients_lose_the_oldest_items_and_are_closed(target: Target) -> None:
    """1 MB/s and more for each of 20 that read nothing and one that reads 200 bytes at a time.

    The time of a write decides, not its bytes: neither large items nor a long queue close a client that reads in time.
    """
    target.allowance.peak = 48 * MIB
    before = target.before
    # Under ASGI server and kernel buffer 4 to 7 MB for each before a write waits.
    number, count, size, seconds = (4, 150, 60_000, 1.0) if target.is_asgi else (20, 1000, 1000, 0.5)
    with (
        target.open() as reader,
        target.open(receive_buffer=SMALL) as hesitant,
        target.open(receive_buffer=SMALL) as slow,
        connections(target.open(receive_buffer=SMALL) for _ in range(number)) as unread,
    ):
        subscribe(reader, "room:big")
        subscribe(hesitant, "burst")
        for peer in (slow, *unread):
            subscribe(peer, "burst", "archive")
        target.publish("archive", count // 5, size=size, seconds=seconds)
        target.publish("burst", count, size=size, seconds=seconds)
        for _ in range(10):
            target.publish("room:big", size=60_000)
            assert reader.next_item("room:big")["seq"]

        def are_closed(now: Report) -> bool:
            with suppress(OSError, EOFError):
                slow.buffer.clear()
                slow.sock.recv(200)
            return now.counters.get("closed-4503", 0) >= before.counters.get("closed-4503", 0) + number + 1

        target.wait_until(are_closed, "all but one are closed")
        assert read_all_of_burst(hesitant, count) == count
        now = target.report()
        assert total(now, "burst", "dropped") > total(before, "burst", "dropped")
        assert total(now, "archive", "dropped") == total(before, "archive", "dropped"), (
            "a durable channel drops nothing"
        )
        assert is_served(hesitant)
        assert is_served(reader)
    target.assert_counted("closed-4503", number + 1)


def read_all_of_burst(peer: Peer, until: int) -> int:
    """The number of items and of reported losses, each once and in order."""
    first = last = 0
    for item in peer.items():
        if item.get("channel") != "burst":
            continue
        begin, end = (item["from"], item["to"]) if item["type"] == "$gap" else (item["seq"], item["seq"])
        assert begin == (last + 1 if last else begin)
        first, last = first or begin, end
        if item["type"] != "$gap" and item["data"]["n"] == until:
            break
    return last - first + 1


def test_d14_d15_silent_clients_are_closed_and_idle_ones_stay(environments: Environments) -> None:
    """On all servers at once, because it takes `silence_timeout`.

    Silent is a client that never answers pings of the server, and one that has sent the command `ping` and then
    nothing more. A client that only listens stays.
    """
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2 * len(EVERYWHERE)))
        attacked = [stack.enter_context(monitored(environments.find(name))) for name in choose(EVERYWHERE)]
        idle = [stack.enter_context(target.open()) for target in attacked]
        ends = [pool.submit(answer_pings, peer) for peer in idle if not isinstance(peer, LinePeer)]
        silent = {target: stack.enter_context(target.open()) for target in attacked if target.name in ENDS}
        quiet = [stack.enter_context(target.open()) for target in attacked]
        for peer in quiet:
            peer.send_commands({"action": "ping"})

        for close in pool.map(answer_pings, quiet):
            assert (close.code, close.reason) == (4408, f"no sign of life for {LOW['silence_timeout']:g} s")
        for target, peer in silent.items():
            assert peer.read_close().code == ENDS[target.name]
            target.assert_counted("closed-silent" if target.name in NATIVE else "disconnected")
        for target in attacked:
            target.assert_counted("closed-4408")
        for peer in idle:
            assert is_served(peer) if isinstance(peer, LinePeer) else peer.send_close()
        assert {end.result().code for end in ends} == {1000}


ENDS = dict.fromkeys(NATIVE, 4408) | {"uvicorn": 1011}
"""Servers that close a client without pongs, and the code; hypercorn pings and ignores the answers."""


def answer_pings(peer: Peer) -> Received:
    """Answer pings, and send nothing else, until the server closes; its close frame."""
    while (received := peer.read_frame()).opcode != CLOSE:
        if received.opcode == PING:
            peer.send_frame(PONG, received.payload)
    return received


# --- items


def test_d07_d12_no_item_follows_an_unsubscription(target: Target) -> None:
    """As often as the command rate allows, from a channel that is published to all the time."""
    subscription = {"action": "subscribe", "channels": ["burst"]}
    end = {"action": "unsubscribe", "channels": ["burst"]}
    with target.open() as peer:
        target.publish("burst", 250, seconds=0.25)
        peer.send_commands(subscription)
        for _ in range(450):
            peer.send_commands(end, subscription)
        peer.send_commands(end | {"id": "last"})
        counted = read_turns(peer)
        assert counted["$subscribed"] == counted["$unsubscribed"] == 451
        assert not counted["$error"]

        head = target.before.heads.get("burst", 0) + 250
        target.wait_until(lambda now: now.heads["burst"] == head, "all items are published")
        subscribe(peer, "room:silence")
        target.publish("room:silence")
        assert items_until(peer, "room:silence", 1) == [("room:silence", 1)]


def read_turns(peer: Peer) -> Counter[str]:
    """The items up to the last `$unsubscribed`, counted by type; each data item is in its place."""
    counted: Counter[str] = Counter()
    position = None
    for item in peer.items():
        counted[item["type"]] += 1
        if item["type"] == "$subscribed":
            (answer,) = item["channels"]
            position = answer["seq"]
        elif item["type"] == "$unsubscribed":
            position = None
            if item.get("id") == "last":
                break
        elif not item["type"].startswith("$"):
            assert position is not None, f"{item} without a subscription"
            assert item["seq"] == position + 1
            position = item["seq"]
    return counted


def test_d09_d10_d11_subscribers_get_exactly_their_channels_in_one_order(target: Target) -> None:
    """Twenty readers of two channels, one of which subscribes ten times, a client of a third, and one of none."""
    with connections(target.open() for _ in range(22)) as (*readers, neighbour, idle):
        for peer in readers:
            subscribe(peer, "burst", "room:other")
        for _ in range(5):
            subscribe(readers[0], *["burst"] * 2)
        assert target.report().subscriptions == target.before.subscriptions + 40
        answers = subscribe(neighbour, "room:left", "secret", "user:")
        assert answers == {"room:left": "ok", "secret": "forbidden", "user:": "unknown-channel"}
        for channel in ("secret", "room:left", *["burst", "room:other"] * 4):
            target.publish(channel, 60)
        target.publish("burst", 61)
        subscribe(idle, "room:none")
        target.publish("room:none")

        first, *others = [items_until(peer, "burst", 61) for peer in readers]
        assert Counter(first) == Counter({("burst", 61): 1}) + Counter(
            [("burst", n) for n in range(1, 61)] * 5 + [("room:other", n) for n in range(1, 61)] * 4
        )
        assert all(other == first for other in others)
        assert items_until(neighbour, "room:left", 60) == [("room:left", n) for n in range(1, 61)]
        assert items_until(idle, "room:none", 1) == [("room:none", 1)]
    target.assert_counted("error-forbidden")


def test_d13_a_burst_is_delivered_in_batches_and_writes_keep_the_interval(target: Target) -> None:
    """Whole, 50 items a frame; and at most one write in 16 ms of the time that it took."""
    with target.open() as peer:
        subscribe(peer, "burst")
        target.publish("burst", 900)
        sizes = frame_sizes(peer, 900)
        assert sum(sizes) == 900
        assert max(sizes) == 50

        started = time.monotonic()
        target.publish("burst", 250, seconds=0.25)
        sizes = frame_sizes(peer, 250)
        elapsed = time.monotonic() - started
        assert sum(sizes) == 250
        writes = sum(size < 50 for size in sizes)  # a full frame may be followed by another in the same write
        assert writes <= elapsed / 0.016 + 1, f"{writes} in {elapsed} s"


def frame_sizes(peer: Peer, until: int) -> list[int]:
    """The number of items of each frame with data, up to the item `until`."""
    sizes = []
    while True:
        received = peer.read_frame()
        assert received.opcode in (TEXT, PING), received
        items = [item for item in json.loads(received.payload) if "data" in item] if received.opcode == TEXT else []
        if items:
            sizes.append(len(items))
            if items[-1]["data"]["n"] == until:
                return sizes


def items_until(peer: Peer, channel: str, until: int) -> list[tuple[str, int]]:
    """Channel and number of each item, up to `until` of `channel`; a loss or an error fails."""
    found: list[tuple[str, int]] = []
    for item in peer.items():
        assert item["type"] not in ("$gap", "$error"), item
        if "data" in item:
            found.append((item["channel"], item["data"]["n"]))
            if found[-1] == (channel, until):
                break
    return found
