"""The task that drives the engine: it writes what is due and does what the engine asks."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
from anyio.lowlevel import checkpoint

from ..access.authentication import Authentication
from ..access.authorization import Authorization
from ..access.limits import ConnectionLimits
from ..core.engine import Engine
from ..core.events import Append, AskAuthorize, CheckToken, Close, Confirmed, Event, Interest, Pause, Read
from ..core.session import Session
from ..exceptions import HubError
from ..protocol import CloseCode
from ..telemetry import ThrottledLogger, level_of
from .inbox import Inbox, task_finder, threadsafe
from .journal import JournalWriter
from .reception import Reception

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SLICE: Final = 0.005
"""Seconds of writes after which a flush lets the event loop have its turn."""
_ORDINARY: Final = frozenset({CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART})
"""Ends that nobody need be told of."""
IDLE: Final = 1.0
"""Seconds the driver sleeps at most: the time of day is looked at as often."""


class Driver:
    """One task that flushes, and short-lived ones for calls that take time. Made in the event loop it belongs to."""

    def __init__(
        self,
        engine: Engine,
        admission: Authentication,
        authorization: Authorization,
        doorkeeper: ConnectionLimits,
        clerk: JournalWriter,
        muffler: ThrottledLogger,
        clock: Callable[[], float],
        tick: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._clerk = clerk
        self._muffler = muffler
        self._clock = clock
        self._tick = tick
        self._tasks: anyio.abc.TaskGroup | None = None
        self._nudged = anyio.Event()
        self.is_nudged = False
        self._is_waking = False
        self.is_draining = False
        self.quiet = anyio.Event()
        """Set once everything was written, after `is_draining` was; or when nothing will be written any more."""
        self._is_in_task = task_finder()
        self._wake = threadsafe(self._nudge)
        self.inbox = Inbox(self._wake)
        self.reception = Reception(engine, admission, authorization, doorkeeper, tick, self._start)

    # --- life

    def run(self) -> AbstractAsyncContextManager[None]:
        """Have the tasks run. Shielded: an application that is cancelled still has its last words delivered."""
        return self._run()

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        life = anyio.CancelScope(shield=True)
        has_begun = anyio.Event()
        async with anyio.create_task_group() as outer:
            outer.start_soon(self._live, life, has_begun)  # `start` would wait for ever if asyncio cancelled it
            try:
                with anyio.CancelScope(shield=True):
                    await has_begun.wait()
                yield
            finally:
                life.cancel()

    async def _live(self, life: anyio.CancelScope, has_begun: anyio.Event) -> None:
        with life:
            try:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    tasks.start_soon(self._pump)
                    tasks.start_soon(self._admission.run)
                    has_begun.set()
            finally:
                self._tasks = None
                self.quiet.set()  # nothing will be written any more, so nobody need wait for it

    def nudge(self) -> None:
        """Have the next turn of the event loop look at the engine. Cheap if that was asked for already."""
        if self.is_nudged or self._is_waking:
            return
        if self._is_in_task():
            self._nudge()
        else:  # a callback, where one more turn does no harm, or a signal handler
            self._is_waking = True
            self._wake()

    def _nudge(self) -> None:
        self._is_waking = False
        self.is_nudged = True
        self._nudged.set()

    async def _pump(self) -> None:
        while True:
            self.is_nudged = False
            if self._nudged.is_set():
                self._nudged = anyio.Event()
            if self.transmit():
                await checkpoint()
                continue
            if self.is_draining and self._engine.is_quiet:
                self.quiet.set()
            timer = self._engine.get_timer()
            delay = IDLE if timer is None else min(IDLE, timer - self._clock())
            if delay <= 0:
                await checkpoint()
                continue
            with anyio.move_on_after(delay):
                await self._nudged.wait()

    def end_all(self, code: int, reason: str) -> None:
        """End every session now, after what was written to it."""
        if self._tasks is None:  # they died of a bug, which is about to surface
            for session in list(self._engine.sessions.values()):
                self._hang_up(session)
            return
        now = self._tick()
        for session in list(self._engine.sessions.values()):
            self._engine.end(session, code, reason, now)
        while self.transmit():
            pass

    # --- a turn

    def transmit(self) -> bool:
        """Write what is due and do what the engine asks; True if time ran out before everything was written."""
        engine = self._engine
        if engine.is_broken:  # better no hub than one that tells its clients anything
            raise MemoryError("memory ran out in the middle of a step of the hub")
        now = self._tick()
        self.take_parcels(now)
        engine.handle_timer(now)
        clock = self._clock
        is_unfinished = False
        for frame, recipients in engine.data_to_send():
            for session in recipients:
                try:
                    has_room = session.peer.write(frame)
                except Exception as error:  # noqa: BLE001 - a transport must not, but one that does harms nobody else
                    self._give_up(session, error)
                    continue
                if not has_room:
                    engine.stalled(session, now)
            if clock() - now > SLICE:
                is_unfinished = True
                break
        for event in engine.events():
            self._handle(event)
        return is_unfinished

    def take_parcels(self, now: float) -> None:
        """Publish what other threads have left."""
        for parcel in self.inbox.take():
            try:
                if parcel.deleted:
                    self._engine.delete(parcel.channel, parcel.key or "", now, stamp=parcel.stamp)
                else:
                    self._engine.publish(
                        parcel.channel, parcel.data, now, type=parcel.type, key=parcel.key, stamp=parcel.stamp
                    )
            except HubError as error:
                self._engine.counters["publish-refused"] += 1
                self._muffler.log(logging.ERROR, "publish", "an item from another thread was refused: %s", error)

    def _handle(self, event: Event) -> None:
        match event:
            case Close(session, code, reason):
                self.reception.forget(session)
                if code not in _ORDINARY:
                    self._muffler.log(level_of(f"closed-{code}"), f"closed-{code}", "a client was closed: %s", reason)
                self._hang_up(session, code, reason)
            case Pause() | Confirmed():
                self._tell(event)
            case CheckToken():
                self._start(self.reception.check_token, event)
            case AskAuthorize():
                self._start(self.reception.ask_authorize, event)
            case Append():
                self._start(self._clerk.append, event)
            case Read():
                self._start(self._clerk.read, event)
            case Interest():
                pass  # a broker will want to know

    def _tell(self, event: Pause | Confirmed) -> None:
        peer = event.session.peer
        try:
            if isinstance(event, Confirmed):
                peer.confirmed(event.frames)
            elif event.paused:
                peer.pause_reading()
            else:
                peer.resume_reading()
        except Exception as error:  # noqa: BLE001 - as for a write
            self._give_up(event.session, error)

    # --- transports that break their promise

    def _give_up(self, session: Session, error: Exception) -> None:
        """End a session whose transport is broken, as gently as that allows."""
        if session.is_closed:
            return  # something was still on its way to it
        self._report(error)
        self._engine.disconnect(session, self._clock())
        self.reception.forget(session)
        self._hang_up(session)

    def _hang_up(self, session: Session, code: int = CloseCode.INTERNAL_ERROR, reason: str = "internal error") -> None:
        try:
            session.peer.close(code, reason)
        except Exception as error:  # noqa: BLE001 - as for a write
            self._report(error)

    def _report(self, error: Exception) -> None:
        self._engine.counters["transport-failed"] += 1
        self._muffler.log(logging.ERROR, "transport", "a transport raised %r", error)

    # --- calls that take time

    def _start(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self._call, function, *args)

    async def _call(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        await function(*args)
        self.nudge()
