"""Steps of the engine that nothing may enter halfway.

No step awaits anything, but two things can still interrupt one: a signal handler, which Python runs between any two
bytecodes, and running out of memory. During a step `is_busy` is set, so that a signal handler can tell. After a
`MemoryError` in a step `is_broken` is set for good: the state may contradict itself, so the driver must end the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from ..exceptions import HubError

P = ParamSpec("P")
T = TypeVar("T")


class Guarded(Protocol):
    """An object with methods that are steps."""

    is_busy: bool
    is_broken: bool


E = TypeVar("E", bound=Guarded)


def atomic(step: Callable[Concatenate[E, P], T]) -> Callable[Concatenate[E, P], T]:
    """Run a method as one step. Raises `HubError` within another step, or after one that ran out of memory."""

    @wraps(step)
    def run(engine: E, /, *args: P.args, **kwargs: P.kwargs) -> T:
        check_ready(engine)
        try:
            engine.is_busy = True
            return step(engine, *args, **kwargs)
        except MemoryError:
            engine.is_broken = True
            raise
        finally:
            engine.is_busy = False

    return run


def atomic_each(engine: Guarded, values: Iterator[T]) -> Iterator[T]:
    """The same values; producing each of them is one step, and other steps may run in between."""
    while True:
        check_ready(engine)
        try:
            engine.is_busy = True
            value = next(values)
        except StopIteration:
            return
        except MemoryError:
            engine.is_broken = True
            raise
        finally:
            engine.is_busy = False
        yield value


def check_ready(engine: Guarded) -> None:
    """Raise `HubError` if no step may begin now."""
    if engine.is_busy:
        raise HubError("a signal handler may call publish and delete only; this call came in the middle of a step")
    if engine.is_broken:
        raise HubError("the hub is ending: memory has run out in the middle of a step")
