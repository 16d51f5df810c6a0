"""Who comes in, who stays, and what changes when a token does."""

from __future__ import annotations

import time
from dataclasses import replace

import anyio
import pytest

from analytics_hub import Action, Channel, Identity, Tuning

from .client import Door, Reader, Refused
from .doors import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("token", "status"), [("forged", 401), ("old", 401), ("banned", 403)])
async def test_a_wrong_token_is_refused_at_the_door(door: Door, token: str, status: int) -> None:
    async with serving(door) as house:
        with pytest.raises(Refused) as refused:
            async with house.connect(token):
                pass

        assert refused.value.status == status
        assert house.hub.statistics().sessions == 0
        assert sum(number for name, number in house.hub.statistics().counters.items() if name[:6] == "token-") == 1


async def test_the_first_message_may_bring_the_token(door: Door) -> None:
    async with serving(door) as house, house.reader(token=None) as reader:
        await reader.client.send({"action": "auth", "id": 1, "token": "alice"})
        await reader.next("$authenticated")

        assert [item["type"] for item in reader.items] == ["$hello", "$authenticated"]
        assert reader.items[1] == reader.items[1] | {"id": 1, "expires": None}


async def test_a_token_and_a_subscription_in_one_packet_work(door: Door) -> None:
    """Commands behind one that waits for an answer wait too, in their order."""
    async with serving(door) as house, house.reader(token=None) as reader:
        await reader.client.send_raw(
            '[{"action":"auth","token":"alice"},{"action":"subscribe","channels":["routing"]},{"action":"ping"}]'
        )
        await reader.next("$pong")

        assert [item["type"] for item in reader.items] == ["$hello", "$authenticated", "$subscribed", "$pong"]


@pytest.mark.parametrize(
    ("token", "code", "fault"),
    [("forged", 4401, "invalid token"), ("old", 4401, "expired token"), ("banned", 4403, "forbidden token")],
)
async def test_a_wrong_first_token_ends_the_connection(door: Door, token: str, code: int, fault: str) -> None:
    async with serving(door) as house, house.reader(token=None) as reader:
        await reader.client.send({"action": "auth", "id": 5, "token": token})
        ended = await reader.closed()

        (error,) = reader.items
        assert ended == code
        assert (error["type"], error["id"], error["message"]) == ("$error", 5, fault)
        assert token not in str(reader.items)


async def test_nothing_is_served_before_the_token(door: Door) -> None:
    async with serving(door) as house, house.reader(token=None) as reader:
        await reader.client.send({"action": "subscribe", "id": 1, "channels": ["routing"]}, {"action": "ping", "id": 2})
        await reader.until(lambda item: item.get("id") == 2)
        house.hub.publish("routing", "secret")
        await reader.client.send({"action": "auth", "token": "alice"})
        await reader.next("$authenticated")

        assert [(item["type"], item.get("code")) for item in reader.items] == [
            ("$error", "unauthenticated"),
            ("$error", "unauthenticated"),
            ("$hello", None),
            ("$authenticated", None),
        ]


async def test_who_sends_no_token_is_sent_away(door: Door) -> None:
    async with serving(door, manual=True) as house, house.reader(token=None) as reader:
        house.clock.advance(9.0)
        await reader.client.send({"action": "ping"})
        await reader.next("$error")
        house.clock.advance(1.5)

        assert await reader.closed() == 4408


async def test_an_expired_token_ends_the_session(door: Door) -> None:
    """A07."""
    async with serving(door, manual=True) as house:
        house.tokens.add("brief", expires=house.clock.wall() + 100)
        async with house.reader("routing", token="brief") as reader:
            house.clock.advance(69)
            house.hub.publish("routing", 1)
            await reader.reach("routing", 1)
            warned_early = reader.control("$expiring")
            house.clock.advance(2)
            warning = await reader.next("$expiring")
            house.clock.advance(30)
            code = await reader.closed()

            assert reader.control("$hello")[0]["expires"] == house.tokens.known["brief"].expires  # type: ignore[union-attr]
            assert warned_early == []
            assert 28.0 <= warning["in"] <= 30.0
            assert code == 4401


async def test_a_refresh_keeps_the_session_and_drops_nothing(door: Door) -> None:
    async with serving(door, manual=True) as house:
        house.tokens.add("brief", expires=house.clock.wall() + 100)
        house.tokens.add("longer", expires=house.clock.wall() + 1000)
        async with house.reader("routing", token="brief") as reader:
            house.hub.publish("routing", 1)
            await reader.client.send({"action": "auth", "id": "r", "token": "longer"})
            answer = await reader.next("$authenticated")
            house.clock.advance(500)
            house.hub.publish("routing", 2)
            await reader.reach("routing", 2)
            house.clock.advance(600)
            code = await reader.closed()

            assert (answer["id"], answer["expires"]) == ("r", house.clock.wall() - 100)
            assert reader.data("routing") == [1, 2]
            assert len(reader.control("$hello")) == 1
            assert code == 4401


async def test_a_refused_refresh_leaves_the_session_as_it_is(door: Door) -> None:
    async with serving(door) as house, house.reader("routing") as reader:
        await reader.client.send({"action": "auth", "id": 1, "token": "forged"})
        await reader.client.send({"action": "auth", "id": 2, "token": "root"})
        await reader.ping()
        house.hub.publish("routing", "still here")
        await reader.reach("routing", 1)

        first, second = reader.control("$error")
        assert (first["id"], first["code"]) == (1, "unauthenticated")
        assert (second["id"], second["code"]) == (2, "forbidden")
        assert "subject" in second["message"]


async def test_lost_roles_end_their_subscriptions_at_once(door: Door) -> None:
    channels = [Channel("open"), Channel("desk", roles=frozenset({"trader"}))]
    async with serving(door, channels=channels) as house:
        house.tokens.add("demoted", roles=frozenset({"guest"}))
        async with house.reader("open", "desk") as reader:
            house.hub.publish("desk", 1)
            await reader.reach("desk", 1)
            await reader.client.send({"action": "auth", "token": "demoted"})
            ended = await reader.next("$unsubscribed")
            house.hub.publish("desk", 2)
            house.hub.publish("open", 1)
            await reader.reach("open", 1)
            (answer,) = await reader.subscribe("desk", id=2)

            assert ended["reason"] == "forbidden"
            assert ended["channels"] == [{"channel": "desk", "seq": 1, "abandoned": 0}]
            assert reader.data("desk") == [1]
            assert answer["code"] == "forbidden"


async def test_gained_roles_open_channels(door: Door) -> None:
    async with serving(door) as house:
        house.tokens.add("promoted", roles=frozenset({"trader", "admin"}))
        async with house.reader() as reader:
            (before,) = await reader.subscribe("secret", id=1)
            await reader.client.send({"action": "auth", "token": "promoted"})
            (after,) = await reader.subscribe("secret", id=2)

            assert (before["ok"], after["ok"]) == (False, True)


async def test_a_token_may_narrow_what_its_roles_allow(door: Door) -> None:
    async with serving(door) as house:
        house.tokens.add("narrow", channels=("routing", "user:1*"))
        async with house.reader(token="narrow") as reader:
            answers = await reader.subscribe("routing", "exposure", "user:1", "user:12", "user:2")

            assert [answer["ok"] for answer in answers] == [True, False, True, True, False]


async def test_the_application_has_the_last_word_on_each_channel(door: Door) -> None:
    """A09: each channel of a command is judged on its own, alone and beside others."""
    asked: list[tuple[str, str]] = []

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.append((identity.id, channel))
        return channel != "user:2"

    async with serving(door, authorize=authorize) as house, house.reader() as reader:
        answers = await reader.subscribe("routing", "user:2", "secret", "nosuch")

        assert [answer.get("code") for answer in answers] == [None, "forbidden", "forbidden", "unknown-channel"]
        # What the roles refuse, or nobody has declared, is not asked about.
        assert asked == [("alice", "routing"), ("alice", "user:2")]
        (alone,) = await reader.subscribe("user:2", id=2)
        house.hub.publish("user:2", "not yours")
        house.hub.publish("secret", "nor this")
        house.hub.publish("routing", "yours")
        await reader.reach("routing", 1)

        assert alone["code"] == "forbidden"
        assert [item.get("channel") for item in reader.items if "seq" in item] == ["routing"]


async def test_a_hook_that_hangs_harms_one_client(door: Door) -> None:
    """C04: it is given up after a while, and meanwhile others come and go."""
    asked = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        if channel == "user:1":
            asked.set()
            await anyio.sleep_forever()
        return True

    tuning = Tuning(interval=0.001, auth_timeout=0.5)
    async with serving(door, authorize=authorize, tuning=tuning) as house, house.reader() as reader:
        await reader.client.send({"action": "subscribe", "id": 1, "channels": ["user:1"]})
        await asked.wait()
        async with house.reader("routing") as neighbour:
            house.hub.publish("routing", 1)
            await neighbour.reach("routing", 1)
        answer = await reader.next("$subscribed")

        assert answer["channels"][0]["code"] == "forbidden"
        assert house.hub.statistics().counters["authorize-failed"] == 1
        await reader.subscribe("routing", id=2)


async def test_who_is_revoked_is_gone_and_stays_away(door: Door) -> None:
    """A08. What is published after the call reaches nobody who was meant by it."""
    async with serving(door) as house:
        issued = time.time() - 5
        house.tokens.add("first", issued=issued, token_id="t1")
        house.tokens.add("second", issued=issued, token_id="t2")
        house.tokens.add("later", issued=time.time() + 60)
        house.tokens.known["bob"] = Identity(id="bob")
        async with (
            house.reader("routing", token="first") as first,
            house.reader("routing", token="second") as second,
            house.reader("routing", token="bob") as bob,
        ):
            house.hub.publish("routing", "for all")
            for reader in (first, second, bob):
                await reader.reach("routing", 1)
            ended = [house.hub.revoke(token_id="t1"), house.hub.revoke("alice")]
            house.hub.publish("routing", "for bob")
            codes = [await first.closed(), await second.closed()]
            await bob.reach("routing", 2)
            with pytest.raises(Refused) as refused:
                async with house.connect("second"):
                    pass
            async with house.reader("routing", token="later") as later:
                await later.ping()

            assert ended == [1, 1]
            assert codes == [4401, 4401]
            assert refused.value.status == 401
            assert [reader.data("routing") for reader in (first, second)] == [["for all"]] * 2
            assert bob.data("routing") == ["for all", "for bob"]


async def test_roles_that_are_taken_away_end_their_subscriptions_at_once(door: Door) -> None:
    """A08, without a word of the client."""
    channels = [Channel("open"), Channel("desk", roles=frozenset({"trader"}))]
    async with serving(door, channels=channels) as house, house.reader("open", "desk") as reader:
        house.hub.publish("desk", 1)
        await reader.reach("desk", 1)
        count = house.hub.set_roles("alice", {"guest"})
        house.hub.publish("desk", 2)
        house.hub.publish("open", 1)
        await reader.reach("open", 1)
        (answer,) = await reader.subscribe("desk", id=2)
        (ended,) = reader.control("$unsubscribed")

        assert count == 1
        assert (ended["reason"], ended["channels"]) == ("forbidden", [{"channel": "desk", "seq": 1, "abandoned": 0}])
        assert reader.data("desk") == [1]
        assert answer["code"] == "forbidden"


async def test_what_the_application_takes_back_ends(door: Door) -> None:
    closed: set[str] = set()

    def authorize(identity: Identity, action: Action, channel: str) -> bool:
        return channel not in closed

    async with serving(door, authorize=authorize) as house, house.reader("routing", "user:1") as reader:
        closed.add("user:1")
        house.hub.reauthorize("alice")
        ended = await reader.next("$unsubscribed")
        house.hub.publish("user:1", "too late")
        house.hub.publish("routing", 1)
        await reader.reach("routing", 1)

        assert (ended["reason"], [account["channel"] for account in ended["channels"]]) == ("forbidden", ["user:1"])
        assert reader.of("user:1") == []


async def test_a_ticket_is_as_good_as_a_token_once(door: Door) -> None:
    async with serving(door) as house:
        ticket = house.hub.issue_ticket(Identity(id="carol"))
        async with house.reader(token=ticket):
            (session,) = house.hub.sessions
            with pytest.raises(Refused) as refused:
                async with house.connect(ticket):
                    pass

            assert session.identity == Identity(id="carol")
            assert refused.value.status == 401


async def test_a_clock_that_jumps_moves_expiry_and_nothing_else(door: Door) -> None:
    async with serving(door, manual=True, tuning=Tuning(interval=0.01)) as house:
        house.tokens.add("brief", expires=house.clock.wall() + 1800)
        async with house.reader("routing") as reader, house.reader(token="brief") as brief:
            house.hub.publish("routing", 1)
            await reader.reach("routing", 1)
            house.clock.shift_wall(-3600)
            house.clock.advance(0.01)
            await reader.ping()
            house.hub.publish("routing", 2)
            await reader.reach("routing", 2)
            house.clock.shift_wall(7200)
            house.clock.advance(0.01)
            await reader.ping()
            house.hub.publish("routing", 3)
            await reader.reach("routing", 3)
            house.clock.advance(21)  # whether a token has expired is looked at with each heartbeat

            assert await brief.closed() == 4401
            stamps = [item["timestamp"][11:19] for item in reader.of("routing")]
            assert stamps == ["05:20:00", "04:20:00", "06:20:00"]


async def test_identities_do_not_leak_into_each_other(door: Door) -> None:
    async with serving(door) as house:
        house.tokens.known["bob"] = replace(Identity(id="bob"), roles=frozenset({"admin"}))
        async with house.reader("secret", token="bob") as bob, house.reader("secret", "routing") as alice:
            house.hub.publish("secret", "for admins")
            house.hub.publish("routing", "for all")
            await bob.reach("secret", 1)
            await alice.reach("routing", 1)
            await alice.ping()

            assert bob.data("secret") == ["for admins"]
            assert alice.of("secret") == []


async def test_a_hub_that_cannot_check_says_try_later(door: Door) -> None:
    async with serving(door) as house:
        house.tokens.known["cursed"] = RuntimeError("the user database is down: cursed")
        with pytest.raises(Refused) as refused:
            async with house.connect("cursed"):
                pass
        async with house.connect(None) as client:
            reader = Reader(client)
            await client.send({"action": "auth", "token": "cursed"})
            code = await reader.closed()

        (error,) = reader.control("$error")
        assert refused.value.status == 503
        assert code == 1011
        assert error["retry"] == "later"
        assert "cursed" not in str(error)
        assert house.hub.statistics().counters["authenticate-failed"] == 2


async def test_commands_behind_a_slow_hook_wait_in_order_and_in_bounds(door: Door) -> None:
    """Up to 64 KiB of them; then the client is not read any more, and feels it, until the hook has answered."""
    asked, gate = anyio.Event(), anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.set()
        await gate.wait()
        return True

    async with serving(door, authorize=authorize) as house, house.reader() as reader, house.reader() as neighbour:
        await reader.client.send({"action": "subscribe", "channels": ["routing"]})
        await asked.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_pings, reader, 400)
            for number in range(50):
                await neighbour.ping(number)
            assert max(session.commands_bytes for session in house.hub.sessions) < 80 * 1024
            gate.set()
            await reader.until(lambda item: item.get("id") == 399)

        assert [item["type"] for item in reader.items[1:]] == ["$subscribed"] + ["$pong"] * 400
        assert [item["id"] for item in reader.control("$pong")] == list(range(400))


async def send_pings(reader: Reader, number: int) -> None:
    """Together far more than may wait."""
    for id_ in range(number):
        await reader.client.send_raw(f'{{"action":"ping","id":{id_}}}'.ljust(256))
