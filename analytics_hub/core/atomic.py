"""Nobody meets the engine half-way through a step.

No step awaits anything, but two things may cut into one: a signal handler, which Python runs between any two lines, and
memory that runs out. The first finds `is_busy` set. After the second `is_broken` is set for good: what the engine knows
may contradict itself, so whoever drives it is to end it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from ..exceptions import HubError

P = ParamSpec("P")
T = TypeVar("T")


class Guarded(Protocol):
    """What has steps."""

    is_busy: bool
    is_broken: bool


E = TypeVar("E", bound=Guarded)


def atomic(step: Callable[Concatenate[E, P], T]) -> Callable[Concatenate[E, P], T]:
    """Run `step` as one. Raises `HubError` instead of running it within another, or after one that was not finished."""

    @wraps(step)
    def run(engine: E, /, *args: P.args, **kwargs: P.kwargs) -> T:
        check(engine)
        try:
            engine.is_busy = True
            return step(engine, *args, **kwargs)
        except MemoryError:
            engine.is_broken = True
            raise
        finally:
            engine.is_busy = False

    return run


def atomic_each(engine: Guarded, steps: Iterator[T]) -> Iterator[T]:
    """`steps`, each of them as one; between two of them other steps may be taken."""
    while True:
        check(engine)
        try:
            engine.is_busy = True
            step = next(steps)
        except StopIteration:
            return
        except MemoryError:
            engine.is_broken = True
            raise
        finally:
            engine.is_busy = False
        yield step


def check(engine: Guarded) -> None:
    """Raise `HubError` if no step may begin now."""
    if engine.is_busy:
        raise HubError(
            "a signal handler may call publish and delete and nothing else; this came in the middle of a step"
        )
    if engine.is_broken:
        raise HubError("the hub is ending: memory has run out in the middle of a step")
