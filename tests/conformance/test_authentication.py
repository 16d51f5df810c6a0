"""Authentication: which tokens are admitted, how long they last, and what changes with a new one."""

from __future__ import annotations

import time
from dataclasses import replace

import anyio
import pytest

from analytics_hub import Action, Channel, Identity, Tuning

from .client import Reader, Refused, TransportUnderTest
from .harness import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("token", "status"), [("forged", 401), ("old", 401), ("banned", 403)])
async def test_a_wrong_token_is_refused_before_a_session_begins(
    transport: TransportUnderTest, token: str, status: int
) -> None:
    async with serving(transport) as served:
        with pytest.raises(Refused) as refused:
            async with served.connect(token):
                pass

        assert refused.value.status == status
        assert served.hub.statistics().sessions == 0
        assert sum(number for name, number in served.hub.statistics().counters.items() if name[:6] == "token-") == 1


async def test_the_token_may_be_the_first_message(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader(token=None) as reader:
        await reader.client.send({"action": "auth", "id": 1, "token": "alice"})
        await reader.next("$authenticated")

        assert [item["type"] for item in reader.items] == ["$hello", "$authenticated"]
        assert reader.items[1] == reader.items[1] | {"id": 1, "expires": None}


async def test_a_token_and_a_subscription_in_one_packet_work(transport: TransportUnderTest) -> None:
    """Commands behind one that waits for an answer wait too, in order."""
    async with serving(transport) as served, served.reader(token=None) as reader:
        await reader.client.send_raw(
            '[{"action":"auth","token":"alice"},{"action":"subscribe","channels":["routing"]},{"action":"ping"}]'
        )
        await reader.next("$pong")

        assert [item["type"] for item in reader.items] == ["$hello", "$authenticated", "$subscribed", "$pong"]


@pytest.mark.parametrize(
    ("token", "code", "message"),
    [
        ("forged", 4401, "invalid token"),
        ("old", 4401, "expired token"),
        ("banned", 4403, "this identity is not allowed to connect"),
    ],
)
async def test_a_wrong_first_token_ends_the_connection(
    transport: TransportUnderTest, token: str, code: int, message: str
) -> None:
    async with serving(transport) as served, served.reader(token=None) as reader:
        await reader.client.send({"action": "auth", "id": 5, "token": token})
        ended = await reader.closed()

        (error,) = reader.items
        assert ended == code
        assert (error["type"], error["id"], error["message"]) == ("$error", 5, message)
        assert token not in str(reader.items)


async def test_nothing_is_served_before_the_token(transport: TransportUnderTest) -> None:
    async with serving(transport) as served, served.reader(token=None) as reader:
        await reader.client.send({"action": "subscribe", "id": 1, "channels": ["routing"]}, {"action": "ping", "id": 2})
        await reader.until(lambda item: item.get("id") == 2)
        served.hub.publish("routing", "secret")
        await reader.client.send({"action": "auth", "token": "alice"})
        await reader.next("$authenticated")

        assert [(item["type"], item.get("code")) for item in reader.items] == [
            ("$error", "unauthenticated"),
            ("$error", "unauthenticated"),
            ("$hello", None),
            ("$authenticated", None),
        ]


async def test_a_client_without_a_token_is_closed_after_a_timeout(transport: TransportUnderTest) -> None:
    async with serving(transport, manual=True) as served, served.reader(token=None) as reader:
        served.clock.advance(9.0)
        await reader.client.send({"action": "ping"})
        await reader.next("$error")
        served.clock.advance(1.5)

        assert await reader.closed() == 4408


async def test_an_expired_token_ends_the_session(transport: TransportUnderTest) -> None:
    """A07."""
    async with serving(transport, manual=True) as served:
        served.tokens.add("brief", expires=served.clock.wall() + 100)
        async with served.reader("routing", token="brief") as reader:
            served.clock.advance(69)
            served.hub.publish("routing", 1)
            await reader.reach("routing", 1)
            warned_early = reader.control("$expiring")
            served.clock.advance(2)
            warning = await reader.next("$expiring")
            served.clock.advance(30)
            code = await reader.closed()

            assert reader.control("$hello")[0]["expires"] == served.tokens.known["brief"].expires  # type: ignore[union-attr]
            assert warned_early == []
            assert 28.0 <= warning["in"] <= 30.0
            assert code == 4401


async def test_a_refresh_keeps_the_session_and_drops_nothing(transport: TransportUnderTest) -> None:
    async with serving(transport, manual=True) as served:
        served.tokens.add("brief", expires=served.clock.wall() + 100)
        served.tokens.add("longer", expires=served.clock.wall() + 1000)
        async with served.reader("routing", token="brief") as reader:
            served.hub.publish("routing", 1)
            await reader.client.send({"action": "auth", "id": "r", "token": "longer"})
            answer = await reader.next("$authenticated")
            served.clock.advance(500)
            served.hub.publish("routing", 2)
            await reader.reach("routing", 2)
            served.clock.advance(600)
            code = await reader.closed()

            assert (answer["id"], answer["expires"]) == ("r", served.clock.wall() - 100)
            assert reader.data("routing") == [1, 2]
            assert len(reader.control("$hello")) == 1
            assert code == 4401


async def test_gained_roles_open_channels(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        served.tokens.add("promoted", roles=frozenset({"trader", "admin"}))
        async with served.reader() as reader:
            (before,) = await reader.subscribe("secret", id=1)
            await reader.client.send({"action": "auth", "token": "promoted"})
            (after,) = await reader.subscribe("secret", id=2)

            assert (before["ok"], after["ok"]) == (False, True)


async def test_authorize_decides_about_each_channel(transport: TransportUnderTest) -> None:
    """A09: each channel of a command is decided separately, alone and beside others."""
    asked: list[tuple[str, str]] = []

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.append((identity.id, channel))
        return channel != "user:2"

    async with serving(transport, authorize=authorize) as served, served.reader() as reader:
        answers = await reader.subscribe("routing", "user:2", "secret", "nosuch")

        assert [answer.get("code") for answer in answers] == [None, "forbidden", "forbidden", "unknown-channel"]
        # Not called for channels that the roles refuse or that are not declared.
        assert asked == [("alice", "routing"), ("alice", "user:2")]
        (alone,) = await reader.subscribe("user:2", id=2)
        served.hub.publish("user:2", "refused")
        served.hub.publish("secret", "refused too")
        served.hub.publish("routing", "allowed")
        await reader.reach("routing", 1)

        assert alone["code"] == "forbidden"
        assert [item.get("channel") for item in reader.items if "seq" in item] == ["routing"]


async def test_a_hook_that_hangs_affects_one_client(transport: TransportUnderTest) -> None:
    """C04: it is cancelled after `auth_timeout`, and other clients are served meanwhile."""
    asked = anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        if channel == "user:1":
            asked.set()
            await anyio.sleep_forever()
        return True

    tuning = Tuning(interval=0.001, auth_timeout=0.5)
    async with serving(transport, authorize=authorize, tuning=tuning) as served, served.reader() as reader:
        await reader.client.send({"action": "subscribe", "id": 1, "channels": ["user:1"]})
        await asked.wait()
        async with served.reader("routing") as neighbour:
            served.hub.publish("routing", 1)
            await neighbour.reach("routing", 1)
        answer = await reader.next("$subscribed")

        assert answer["channels"][0]["code"] == "forbidden"
        assert served.hub.statistics().counters["authorize-failed"] == 1
        await reader.subscribe("routing", id=2)


async def test_a_revocation_closes_sessions_and_refuses_their_tokens(transport: TransportUnderTest) -> None:
    """A08. Nothing that is published after the call reaches the revoked sessions."""
    async with serving(transport) as served:
        issued = time.time() - 5
        served.tokens.add("first", issued=issued, token_id="t1")
        served.tokens.add("second", issued=issued, token_id="t2")
        served.tokens.add("later", issued=time.time() + 60)
        served.tokens.known["bob"] = Identity(id="bob")
        async with (
            served.reader("routing", token="first") as first,
            served.reader("routing", token="second") as second,
            served.reader("routing", token="bob") as bob,
        ):
            served.hub.publish("routing", "for all")
            for reader in (first, second, bob):
                await reader.reach("routing", 1)
            ended = [served.hub.revoke(token_id="t1"), served.hub.revoke("alice")]
            served.hub.publish("routing", "for bob")
            codes = [await first.closed(), await second.closed()]
            await bob.reach("routing", 2)
            with pytest.raises(Refused) as refused:
                async with served.connect("second"):
                    pass
            async with served.reader("routing", token="later") as later:
                await later.ping()

            assert ended == [1, 1]
            assert codes == [4401, 4401]
            assert refused.value.status == 401
            assert [reader.data("routing") for reader in (first, second)] == [["for all"]] * 2
            assert bob.data("routing") == ["for all", "for bob"]


async def test_set_roles_ends_the_subscriptions_of_lost_roles_at_once(transport: TransportUnderTest) -> None:
    """A08, without a command of the client."""
    channels = [Channel("open"), Channel("desk", roles=frozenset({"trader"}))]
    async with serving(transport, channels=channels) as served, served.reader("open", "desk") as reader:
        served.hub.publish("desk", 1)
        await reader.reach("desk", 1)
        count = served.hub.set_roles("alice", {"guest"})
        served.hub.publish("desk", 2)
        served.hub.publish("open", 1)
        await reader.reach("open", 1)
        (answer,) = await reader.subscribe("desk", id=2)
        (ended,) = reader.control("$unsubscribed")

        assert count == 1
        assert (ended["reason"], ended["channels"]) == ("forbidden", [{"channel": "desk", "seq": 1, "abandoned": 0}])
        assert reader.data("desk") == [1]
        assert answer["code"] == "forbidden"


async def test_reauthorize_ends_the_subscriptions_that_are_refused_now(transport: TransportUnderTest) -> None:
    closed: set[str] = set()

    def authorize(identity: Identity, action: Action, channel: str) -> bool:
        return channel not in closed

    async with serving(transport, authorize=authorize) as served, served.reader("routing", "user:1") as reader:
        closed.add("user:1")
        served.hub.reauthorize("alice")
        ended = await reader.next("$unsubscribed")
        served.hub.publish("user:1", "too late")
        served.hub.publish("routing", 1)
        await reader.reach("routing", 1)

        assert (ended["reason"], [account["channel"] for account in ended["channels"]]) == ("forbidden", ["user:1"])
        assert reader.of("user:1") == []


async def test_a_ticket_is_valid_once_in_place_of_a_token(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        ticket = served.hub.issue_ticket(Identity(id="carol"))
        async with served.reader(token=ticket):
            (session,) = served.hub.sessions
            with pytest.raises(Refused) as refused:
                async with served.connect(ticket):
                    pass

            assert session.identity == Identity(id="carol")
            assert refused.value.status == 401


async def test_a_jump_of_the_wall_clock_affects_only_expiry(transport: TransportUnderTest) -> None:
    async with serving(transport, manual=True, tuning=Tuning(interval=0.01)) as served:
        served.tokens.add("brief", expires=served.clock.wall() + 1800)
        async with served.reader("routing") as reader, served.reader(token="brief") as brief:
            served.hub.publish("routing", 1)
            await reader.reach("routing", 1)
            served.clock.shift_wall(-3600)
            served.clock.advance(0.01)
            await reader.ping()
            served.hub.publish("routing", 2)
            await reader.reach("routing", 2)
            served.clock.shift_wall(7200)
            served.clock.advance(0.01)
            await reader.ping()
            served.hub.publish("routing", 3)
            await reader.reach("routing", 3)
            served.clock.advance(21)  # expiry is checked with each heartbeat

            assert await brief.closed() == 4401
            stamps = [item["timestamp"][11:19] for item in reader.of("routing")]
            assert stamps == ["05:20:00", "04:20:00", "06:20:00"]


async def test_identities_do_not_leak_into_each_other(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        served.tokens.known["bob"] = replace(Identity(id="bob"), roles=frozenset({"admin"}))
        async with served.reader("secret", token="bob") as bob, served.reader("secret", "routing") as alice:
            served.hub.publish("secret", "for admins")
            served.hub.publish("routing", "for all")
            await bob.reach("secret", 1)
            await alice.reach("routing", 1)
            await alice.ping()

            assert bob.data("secret") == ["for admins"]
            assert alice.of("secret") == []


async def test_a_fault_of_authenticate_is_a_temporary_refusal(transport: TransportUnderTest) -> None:
    async with serving(transport) as served:
        served.tokens.known["cursed"] = RuntimeError("the user database is down: cursed")
        with pytest.raises(Refused) as refused:
            async with served.connect("cursed"):
                pass
        async with served.connect(None) as client:
            reader = Reader(client)
            await client.send({"action": "auth", "token": "cursed"})
            code = await reader.closed()

        (error,) = reader.control("$error")
        assert refused.value.status == 503
        assert code == 1011
        assert error["retry"] == "later"
        assert "cursed" not in str(error)
        assert served.hub.statistics().counters["authenticate-failed"] == 2


async def test_commands_behind_a_slow_hook_wait_in_order_up_to_a_bound(transport: TransportUnderTest) -> None:
    """Up to 64 KiB of them; then reading from the client is paused until the hook has answered."""
    asked, gate = anyio.Event(), anyio.Event()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool:
        asked.set()
        await gate.wait()
        return True

    async with (
        serving(transport, authorize=authorize) as served,
        served.reader() as reader,
        served.reader() as neighbour,
    ):
        await reader.client.send({"action": "subscribe", "channels": ["routing"]})
        await asked.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_pings, reader, 400)
            for number in range(50):
                await neighbour.ping(number)
            assert max(session.commands_bytes for session in served.hub.sessions) < 80 * 1024
            gate.set()
            await reader.until(lambda item: item.get("id") == 399)

        assert [item["type"] for item in reader.items[1:]] == ["$subscribed"] + ["$pong"] * 400
        assert [item["id"] for item in reader.control("$pong")] == list(range(400))


async def send_pings(reader: Reader, number: int) -> None:
    """Together far more than `pending_bytes`."""
    for id_ in range(number):
        await reader.client.send_raw(f'{{"action":"ping","id":{id_}}}'.ljust(256))
