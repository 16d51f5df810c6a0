"""The task that drives the engine: it writes what is due and carries out the engine's events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, Final, Protocol

import anyio
import anyio.abc
from anyio.lowlevel import checkpoint

from ..background import BackgroundTask
from ..codes import CloseCode
from ..core.engine import Engine
from ..core.events import Append, AskAuthorize, CheckToken, Close, Confirmed, DemandChanged, Event, Pause, Read
from ..core.session import Session, SessionState
from ..event_loop import task_finder, threadsafe
from ..exceptions import HubError
from ..telemetry import Telemetry, level_of
from .demand import DemandObservers
from .inbox import Inbox
from .journal import JournalWriter
from .lifecycle import Lifecycle

SLICE: Final = 0.005
"""Seconds of writes after which a flush lets the event loop have its turn."""
_ORDINARY: Final = frozenset({CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART})
"""Close codes that are not logged."""
IDLE: Final = 1.0
"""Seconds the driver sleeps at most: the time of day is read as often."""


class SessionQuestions(Protocol):
    """Answers what the engine asks about sessions; the `HubGateway`."""

    async def check_token(self, event: CheckToken) -> None: ...

    async def ask_authorize(self, event: AskAuthorize) -> None: ...

    def context_of(self, session: Session) -> Context | None: ...

    def session_ended(self, session: Session) -> None: ...


class Driver:
    """One task that flushes, and short-lived ones for calls that take time. Made in the event loop it belongs to."""

    def __init__(
        self,
        engine: Engine,
        life: Lifecycle,
        telemetry: Telemetry,
        questions: SessionQuestions,
        journal: JournalWriter,
        inbox: Inbox,
    ) -> None:
        self._engine = engine
        self._life = life
        self._telemetry = telemetry
        self._questions = questions
        self._journal = journal
        self._now = life.clock.monotonic
        self._tasks: anyio.abc.TaskGroup | None = None
        self._wakeup = anyio.Event()
        self.is_awake = False
        """The engine will be looked at in this turn or the next."""
        self._is_waking = False
        self.is_draining = False
        self.drained = anyio.Event()
        """Set once everything was written, after `is_draining` was; or when nothing will be written any more."""
        self._is_in_task = task_finder()
        self.call_soon_threadsafe = threadsafe()
        """Call a function soon in the event loop of the hub. Any thread may; never waits."""
        self.wake_threadsafe = partial(self.call_soon_threadsafe, self._wake)
        self.inbox = inbox
        inbox.wake = self.wake_threadsafe
        self.demand = DemandObservers(engine.registry)
        self._task: BackgroundTask

    # --- life

    async def start(self, background: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], None]) -> None:
        """Start the tasks, and `background` beside them; the caller is interrupted if one of them fails.

        They are not the caller's: a cancelled application still has its data written, and any task may `stop` them.
        `ended` is called if they end before that.
        """
        has_begun = anyio.Event()
        self._task = BackgroundTask(partial(self._run_tasks, has_begun, background), ended)
        self._task.start()
        try:
            with anyio.CancelScope(shield=True):
                await has_begun.wait()
        except BaseException:  # `Task.cancel` of asyncio knows no shield
            await self._task.stop()
            raise

    async def stop(self) -> None:
        """End the tasks; raises what one of them has raised."""
        await self._task.stop()

    async def _run_tasks(self, has_begun: anyio.Event, background: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._pump)
                tasks.start_soon(background)
                has_begun.set()
        finally:
            has_begun.set()
            self._tasks = None
            self.drained.set()  # nothing will be written any more, so waiting for it is of no use

    def wake(self) -> None:
        """Have the next turn of the event loop look at the engine. Cheap if that was requested already."""
        if self.is_awake or self._is_waking:
            return
        if self._is_in_task():
            self._wake()
        else:  # a callback, where one more turn does no harm, or a signal handler
            self._is_waking = True
            self.wake_threadsafe()

    def _wake(self) -> None:
        self._is_waking = False
        self.is_awake = True
        self._wakeup.set()

    async def _pump(self) -> None:
        while True:
            self.is_awake = False
            if self._wakeup.is_set():
                self._wakeup = anyio.Event()
            if self.transmit():
                await checkpoint()
                continue
            if self.is_draining and self._engine.is_quiet:
                self.drained.set()
            timer = self._engine.get_timer()
            delay = IDLE if timer is None else min(IDLE, timer - self._now())
            if delay <= 0:
                await checkpoint()
                continue
            with anyio.move_on_after(delay):
                await self._wakeup.wait()

    def end_all(self, code: int, reason: str) -> None:
        """End every session now, after what was written to it."""
        if self._tasks is None:  # they were ended by a bug, which is about to surface, or by the event loop
            for session in list(self._engine.sessions.values()):
                self._close_transport(session)
                self._questions.session_ended(session)
                session.state = SessionState.CLOSED  # a later call of its transport must not reach the next engine
            return
        now = self._life.tick()
        for session in list(self._engine.sessions.values()):
            self._engine.end(session, code, reason, now)
        while self.transmit():
            pass

    # --- a turn

    def transmit(self) -> bool:
        """Write what is due and carry out the engine's events; True if time ran out before everything was written."""
        engine = self._engine
        if engine.is_broken:  # its ledgers may be wrong, so it must not go on
            raise MemoryError("memory ran out in the middle of a step of the hub")
        now = self._life.tick()
        self.publish_queued(now)
        engine.handle_timer(now)
        clock = self._now
        is_unfinished = False
        for frame, recipients in engine.data_to_send():
            for session in recipients:
                try:
                    has_room = session.transport.write(frame)
                except Exception as error:  # noqa: BLE001 - must not raise, but a transport that does ends alone
                    self._transport_failed(session, error)
                    continue
                if not has_room:
                    engine.stalled(session, now)
            if clock() - now > SLICE:
                is_unfinished = True
                break
        for event in engine.events():
            self._handle(event)
        return is_unfinished

    def publish_queued(self, now: float) -> None:
        """Publish what other threads have queued."""
        for item in self.inbox.drain():
            try:
                if item.deleted:
                    self._engine.delete(item.channel, item.key or "", now, stamp=item.stamp)
                else:
                    self._engine.publish(item.channel, item.data, now, type=item.type, key=item.key, stamp=item.stamp)
            except HubError as error:
                self._telemetry.fault("publish-refused", "an item from another thread was refused: %s", error)

    def _handle(self, event: Event) -> None:
        match event:
            case Close(session, code, reason):
                self._questions.session_ended(session)
                if code not in _ORDINARY:
                    kind = f"closed-{code}"
                    self._telemetry.log(level_of(kind), kind, "a client was closed: %s", reason)
                self._close_transport(session, code, reason)
            case Pause() | Confirmed():
                self._notify_transport(event)
            case DemandChanged(channel):
                self.demand.notify(channel)
            case CheckToken():
                self.start_question(event.session, self._questions.check_token, event)
            case AskAuthorize():
                self.start_question(event.session, self._questions.ask_authorize, event)
            case Append():
                self.start_task(self._journal.append, event)
            case Read():
                self.start_task(self._journal.read, event)

    def _notify_transport(self, event: Pause | Confirmed) -> None:
        transport = event.session.transport
        try:
            if isinstance(event, Confirmed):
                transport.confirmed(event.frames)
            elif event.paused:
                transport.pause_reading()
            else:
                transport.resume_reading()
        except Exception as error:  # noqa: BLE001 - as for a write
            self._transport_failed(event.session, error)

    # --- transports that break their contract

    def _transport_failed(self, session: Session, error: Exception) -> None:
        if session.is_closed:
            return  # data was still on its way to it
        self._log_transport(error)
        self._engine.disconnect(session, self._now())
        self._questions.session_ended(session)
        self._close_transport(session)

    def _close_transport(
        self, session: Session, code: int = CloseCode.INTERNAL_ERROR, reason: str = "internal error"
    ) -> None:
        try:
            session.transport.close(code, reason)
        except Exception as error:  # noqa: BLE001 - as for a write
            self._log_transport(error)

    def _log_transport(self, error: Exception) -> None:
        self._telemetry.fault("transport-failed", "a transport raised %r", error)

    # --- calls that take time

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run `function` in a task, and look at the engine when it has ended."""
        assert self._tasks is not None
        self._tasks.start_soon(self._run_task, function, *args)

    def start_question(self, session: Session, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """As `start_task`, with the context variables of the request that made the connection of `session`."""
        context = self._questions.context_of(session)
        if context is None:
            self.start_task(function, *args)
        else:
            context.run(self.start_task, function, *args)

    async def _run_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        await function(*args)
        self.wake()
