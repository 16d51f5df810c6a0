"""D: who gets what; and clients that take nothing, too slowly, or give no sign of life."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

from ..transports.peer import CLOSE, PING, PONG, TEXT, Received
from .asking import is_alive, subscribe
from .attack import LinePeer, Peer, crowd
from .target import ASGI, MIB, NATIVE, Report, Target
from .watch import Street, targets, watching

EVERYWHERE = (*NATIVE, *ASGI, "tcp", "tcp-trio-tls")
house = targets(*EVERYWHERE)

SMALL = 4096
"""What the kernel takes for a client that does not read, which makes it deaf the sooner."""


def total(report: Report, channel: str, part: str) -> int:
    account = report.ledger["totals"].get(channel, {})
    return int(account.get(part, 0))


# --- slow and deaf


def test_d01_d02_who_does_not_read_loses_the_oldest_and_is_ended(target: Target) -> None:
    """1 MB/s and more for each of 20 that read nothing and one that reads 200 bytes at a time.

    Time decides, and not bytes: neither big items end somebody, nor much that waits for one who has longer.
    """
    target.allowance.peak = 48 * MIB
    before = target.before
    # Under ASGI the kernel takes 4 to 7 MB for each before anything waits: the buffers are the server's.
    number, count, size = (4, 150, 60_000) if target.is_asgi else (20, 1000, 1000)
    with (
        target.open() as reader,
        target.open(room=SMALL) as hesitant,
        target.open(room=SMALL) as slow,
        crowd(target.open(room=SMALL) for _ in range(number)) as deaf,
    ):
        subscribe(reader, "room:big")
        subscribe(hesitant, "burst")
        for peer in (slow, *deaf):
            subscribe(peer, "burst", "archive")
        target.publish("archive", count // 5, size=size, seconds=1)
        target.publish("burst", count, size=size, seconds=1)
        for _ in range(10):
            target.publish("room:big", size=60_000)
            assert reader.next_item("room:big")["seq"]

        def are_ended(now: Report) -> bool:
            with suppress(OSError, EOFError):
                slow.buffer.clear()
                slow.sock.recv(200)
            return now.counters.get("closed-4503", 0) >= before.counters.get("closed-4503", 0) + number + 1

        target.wait_until(are_ended, "all but one are ended")
        assert read_all_of_burst(hesitant, count) == count
        now = target.report()
        assert total(now, "burst", "dropped") > total(before, "burst", "dropped")
        assert total(now, "archive", "dropped") == total(before, "archive", "dropped"), "it is in the journal"
        assert is_alive(hesitant)
        assert is_alive(reader)
    target.wait_counted("closed-4503", number + 1)


def read_all_of_burst(peer: Peer, until: int) -> int:
    """Items, and those that it is told are lost; each once and in order."""
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


def test_d14_d15_the_dead_are_ended_and_the_idle_stay(street: Street) -> None:
    """On all servers at once, because it takes `silence_timeout`.

    Dead is who never answers pings, where there are any, and everywhere who has once said `ping` and then says nothing
    more; the server's pings are none of the hub's. Who only listens stays.
    """
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2 * len(EVERYWHERE)))
        attacked = [stack.enter_context(watching(street.find(name))) for name in EVERYWHERE]
        idle = [stack.enter_context(target.open()) for target in attacked]
        ends = [pool.submit(breathe, peer) for peer in idle if not isinstance(peer, LinePeer)]
        dead = {target: stack.enter_context(target.open()) for target in attacked if target.name in DEADLY}
        mute = [stack.enter_context(target.open()) for target in attacked]
        for peer in mute:
            peer.say({"action": "ping"})

        for last_words in pool.map(breathe, mute):
            assert (last_words.code, last_words.reason) == (4408, "no sign of life for 4 s")
        for target, peer in dead.items():
            assert peer.read_close().code == DEADLY[target.name]
            target.wait_counted("closed-silent" if target.name in NATIVE else "disconnected")
        for target in attacked:
            target.wait_counted("closed-4408")
        for peer in idle:
            assert is_alive(peer) if isinstance(peer, LinePeer) else peer.send_close()
        assert {end.result().code for end in ends} == {1000}


DEADLY = dict.fromkeys(NATIVE, 4408) | {"uvicorn": 1011}
"""Servers that end who answers no ping, and with what; hypercorn pings and does nothing about it."""


def breathe(peer: Peer) -> Received:
    """Answer pings, and say nothing else, until the server ends it; its last words."""
    while (received := peer.read_frame()).opcode != CLOSE:
        if received.opcode == PING:
            peer.send_frame(PONG, received.payload)
    return received


# --- who gets what


def test_d07_d12_nothing_follows_an_unsubscription(target: Target) -> None:
    """As often as one may in a second, from a channel in which something is published all the time."""
    subscription = {"action": "subscribe", "channels": ["burst"]}
    end = {"action": "unsubscribe", "channels": ["burst"]}
    with target.open() as peer:
        target.publish("burst", 500, seconds=0.5)
        peer.say(subscription)
        for _ in range(450):
            peer.say(end, subscription)
        peer.say(end | {"id": "last"})
        counted = read_turns(peer)
        assert counted["$subscribed"] == counted["$unsubscribed"] == 451
        assert not counted["$error"]

        head = target.before.heads.get("burst", 0) + 500
        target.wait_until(lambda now: now.heads["burst"] == head, "all is published")
        subscribe(peer, "room:silence")
        target.publish("room:silence")
        assert items_until(peer, "room:silence", 1) == [("room:silence", 1)]


def read_turns(peer: Peer) -> Counter[str]:
    """What comes up to the answer to the last unsubscription, each item in its place, counted by type."""
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
            assert position is not None, f"nobody has asked for {item}"
            assert item["seq"] == position + 1
            position = item["seq"]
    return counted


def test_d09_ten_subscriptions_to_one_channel_deliver_once(target: Target) -> None:
    with target.open() as peer:
        subscribe(peer, *["burst"] * 5)
        for _ in range(5):
            subscribe(peer, "burst")
        assert target.report().subscriptions == target.before.subscriptions + 1
        target.publish("burst", 100)

        assert items_until(peer, "burst", 100) == [("burst", n) for n in range(1, 101)]


def test_d10_nobody_gets_what_it_did_not_ask_for(target: Target) -> None:
    """Not what is said next door, nor what is forbidden to it, nor anything where it asked for nothing."""
    names = ("left", "right", "nowhere")
    with crowd(target.open() for _ in names) as peers:
        for peer, name in zip(peers[:2], names, strict=False):
            answers = subscribe(peer, f"room:{name}", "secret", "user:")
            assert answers == {f"room:{name}": "ok", "secret": "forbidden", "user:": "unknown-channel"}
        published = ("secret", "burst", "room:right", "room:left")
        for channel in published:
            target.publish(channel, 10)
        heads = {channel: target.before.heads.get(channel, 0) + 10 for channel in published}
        target.wait_until(lambda now: all(now.heads[channel] >= heads[channel] for channel in published), "published")
        subscribe(peers[2], "room:nowhere")

        for peer, name in zip(peers, names, strict=True):
            target.publish(f"room:{name}", 11)
            before = [] if name == "nowhere" else [*range(1, 11)]
            assert items_until(peer, f"room:{name}", 11) == [(f"room:{name}", n) for n in (*before, *range(1, 12))]
    target.wait_counted("error-forbidden", 2)


def test_d11_all_get_everything_in_one_order(target: Target) -> None:
    with crowd(target.open() for _ in range(20)) as peers:
        for peer in peers:
            subscribe(peer, "burst", "room:other")
        for _ in range(4):
            target.publish("burst", 60)
            target.publish("room:other", 60)
        target.publish("burst", 61)

        first, *others = [items_until(peer, "burst", 61) for peer in peers]
        assert Counter(first) == Counter({("burst", 61): 1}) + Counter(
            [("burst", n) for n in range(1, 61)] * 5 + [("room:other", n) for n in range(1, 61)] * 4
        )
        assert all(other == first for other in others)


def test_d13_a_burst_that_fits_is_delivered_whole_in_batches(target: Target) -> None:
    with target.open() as peer:
        subscribe(peer, "burst")
        target.publish("burst", 900)

        sizes = frame_sizes(peer, 900)
        assert sum(sizes) == 900
        assert max(sizes) == 50


def test_d13_no_more_writes_a_second_than_agreed(target: Target) -> None:
    """At most one in 16 ms, whatever time it takes: the slower the machine, the more there may be."""
    with target.open() as peer:
        subscribe(peer, "burst")
        started = time.monotonic()
        target.publish("burst", 250, seconds=0.25)

        sizes = frame_sizes(peer, 250)
        elapsed = time.monotonic() - started
        assert sum(sizes) == 250
        writes = sum(size < 50 for size in sizes)  # a full one may be followed by another in the same write
        assert writes <= elapsed / 0.016 + 1, f"{writes} in {elapsed} s"


def frame_sizes(peer: Peer, until: int) -> list[int]:
    """How many items each frame with data has, up to the item of that number."""
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
    """Channel and number of each item that comes, up to one; to be told of a loss is a fault."""
    found: list[tuple[str, int]] = []
    for item in peer.items():
        assert item["type"] not in ("$gap", "$error"), item
        if "data" in item:
            found.append((item["channel"], item["data"]["n"]))
            if found[-1] == (channel, until):
                break
    return found
