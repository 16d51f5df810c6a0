"""Subscribers in this process, without sockets, for tests that run in any thread: with the hub or beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import anyio.from_thread
from anyio.lowlevel import checkpoint, current_token

from ..contracts import Handshake, Peer
from ..core.session import Session
from ..event_loop import threadsafe
from ..exceptions import HubClosed
from ..hub import Hub
from ..identity import Identity
from ..protocol import encode
from ..transports.memory import WIRE, Item, is_subscribed, split_write

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT: Final = 5.0
"""Seconds to wait for an item. Clients are idle most of the time, so only a test that fails waits as long."""
_TRANSPORT: Final = "testing"


class _Receiver:
    """A client that keeps everything it receives. The hub writes on its own thread, a test reads on another."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._changed = threading.Condition()
        self._wake: Callable[[], None] | None = None
        self._items: list[Item] = []
        self._read = 0
        self._error: Exception | None = None
        self._session: Session | None = None
        self._has_left = False
        self.close_code: int | None = None
        self.close_reason: str | None = None

    # --- as a transport, on the thread of the hub

    def write(self, frame: bytes) -> bool:
        with self._changed:
            for batch in split_write(frame):
                self._items += batch
        self._notify()
        return True

    def close(self, code: int, reason: str) -> None:
        self.close_code, self.close_reason = code, reason
        self._notify()

    def pause_reading(self) -> None:
        """A test sends one command."""

    def resume_reading(self) -> None:
        """As above."""

    def confirmed(self, frames: int) -> None:
        """It confirms none."""

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
            wake = self._wake
        if wake is not None:
            wake()

    # --- beginning and ending

    def _start(
        self, channels: tuple[str | Mapping[str, Any], ...], identity: Identity | None, token: str | None
    ) -> None:
        command = encode({"action": "subscribe", "channels": list(channels)}).decode()
        gateway = self._hub.gateway

        def connect(peer: Peer) -> None:
            if self._has_left:
                return
            self._session = gateway.connect(self, WIRE, peer)
            gateway.receive_data(self._session, command)

        async def authenticate() -> None:
            try:
                connect(await gateway.authenticate(Handshake(token=token, transport=_TRANSPORT)))
            except Exception as error:  # noqa: BLE001 - raised in the test
                self._error = error
                self._notify()

        def begin() -> None:
            if token is not None:
                self._hub._driver.start_task(authenticate)
                return
            try:
                connect(Peer(Handshake(transport=_TRANSPORT), identity or _everything(self._hub)))
            except HubClosed as error:
                self._error = error
                self._notify()

        if not self._hub.is_open:
            raise HubClosed("the hub is not running; the fixture `live_hub`, a TestClient or `async with hub:` runs it")
        self._on_hub_thread(begin)

    def _on_hub_thread(self, call: Callable[[], None]) -> None:
        if threading.get_ident() == self._hub._life.thread:
            call()
        else:
            self._hub._driver.call_soon_threadsafe(call)

    def leave(self) -> None:
        """End the subscription. Harmless if it has ended already, or the hub has."""
        self._has_left = True
        session = self._session
        if session is not None and self._hub.is_open and not session.is_closed:
            self._on_hub_thread(lambda: self._hub.gateway.disconnect(session))

    # --- what was received

    @property
    def items(self) -> list[Item]:
        """The data items so far, in order."""
        return [item for item in list(self._items) if "seq" in item]

    @property
    def control_items(self) -> list[Item]:
        """The items of the hub itself so far: `$hello`, `$subscribed`, `$gap`, ..."""
        return [item for item in list(self._items) if "seq" not in item]

    @property
    def data(self) -> list[Any]:
        """The data of `items`."""
        return [item["data"] for item in self.items]

    def _is_subscribed(self) -> bool:
        if self._error is not None:
            raise self._error
        return any(map(is_subscribed, list(self._items))) or self._check_open()

    def _has_next(self) -> bool:
        return len(self.items) > self._read or self._check_open()

    def _check_open(self) -> bool:
        """False; raises `HubClosed` if nothing more will come."""
        if self.close_code is not None:
            raise HubClosed(f"{self.close_reason} ({self.close_code})")
        return False

    def _pop(self, has_come: bool, timeout: float) -> Item:
        if not has_come:
            raise AssertionError(f"no further item within {timeout:g} s; received so far: {self.data!r}")
        self._read += 1
        return self.items[self._read - 1]


class LiveClient(_Receiver):
    """A subscriber for async tests; the hub may run in this event loop or in another thread."""

    async def next(self, timeout: float = TIMEOUT) -> Item:
        """The next data item; raises `AssertionError` with what has come if none does in time."""
        return self._pop(await self._until(self._has_next, timeout), timeout)

    async def _until(self, is_true: Callable[[], bool], timeout: float) -> bool:
        call_soon = threadsafe()
        await checkpoint()
        with anyio.move_on_after(timeout):
            while True:
                event = anyio.Event()
                with self._changed:
                    self._wake = lambda event=event: call_soon(event.set)
                if is_true():
                    return True
                await event.wait()
        return is_true()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        """The next data item, however long it takes; ends with the hub."""
        try:
            return await self.next(float("inf"))
        except HubClosed:
            raise StopAsyncIteration from None


class BlockingLiveClient(_Receiver):
    """A subscriber for tests without an event loop; the hub runs in another thread."""

    def next(self, timeout: float = TIMEOUT) -> Item:
        """The next data item; raises `AssertionError` with what has come if none does in time."""
        return self._pop(self._until(self._has_next, timeout), timeout)

    def _until(self, is_true: Callable[[], bool], timeout: float) -> bool:
        end = time.monotonic() + timeout
        with self._changed:
            while not is_true():
                if not self._changed.wait(end - time.monotonic()):
                    return is_true()
        return True


async def subscribe(
    hub: Hub,
    *channels: str | Mapping[str, Any],
    identity: Identity | None = None,
    token: str | None = None,
    timeout: float = TIMEOUT,
) -> LiveClient:
    """A subscriber of an open hub. Call `leave` at its end, or let the hub end.

    `channels` are names, or mappings with the options of the protocol. Without `identity` or `token` it has every role;
    `token` is checked by `authenticate` of the application. Raises what the subscription is refused with.
    """
    client = LiveClient(hub)
    client._start(channels, identity, token)
    try:
        if not await client._until(client._is_subscribed, timeout):
            raise AssertionError(f"the hub has not answered within {timeout:g} s")
    except BaseException:
        client.leave()
        raise
    return client


def subscribe_blocking(
    hub: Hub,
    *channels: str | Mapping[str, Any],
    identity: Identity | None = None,
    token: str | None = None,
    timeout: float = TIMEOUT,
) -> BlockingLiveClient:
    """As `subscribe`, for a hub that runs in another thread: that of a `TestClient`, or of `run_hub`."""
    client = BlockingLiveClient(hub)
    if threading.get_ident() == hub._life.thread and hub.is_open:
        raise RuntimeError("the hub runs in this thread, which must not wait for it; use `await subscribe(...)`")
    client._start(channels, identity, token)
    try:
        if not client._until(client._is_subscribed, timeout):
            raise AssertionError(f"the hub has not answered within {timeout:g} s")
    except BaseException:
        client.leave()
        raise
    return client


def _everything(hub: Hub) -> Identity:
    """An identity that may subscribe to every channel."""
    return Identity(id="test", roles=frozenset[str]().union(*(channel.roles or () for channel in hub.channels)))


@contextmanager
def run_hub(hub: Hub, backend: str = "asyncio") -> Iterator[Hub]:
    """Run a hub in a thread with an event loop of its own, for tests without one."""
    try:
        current_token()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("an event loop runs in this thread, which run_hub would block; use `async with hub:`")
    with anyio.from_thread.start_blocking_portal(backend) as portal, portal.wrap_async_context_manager(hub):
        yield hub
