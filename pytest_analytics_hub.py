"""The pytest plugin: fixtures of `analytics_hub.testing`, which `docs/testing.md` describes.

It imports the library when a test asks for one of them: pytest loads plugins in every project of an environment, and
those that do not use the library must not pay for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from analytics_hub import Hub
    from analytics_hub.testing import BlockingLiveClient, LiveClient, ManualClock, Published, PublishedItem


def _find_hub(request: pytest.FixtureRequest) -> Hub:
    from analytics_hub import Hub

    try:
        hub = request.getfixturevalue("hub")
    except pytest.FixtureLookupError:
        hub = None
    if not isinstance(hub, Hub):
        raise pytest.UsageError(
            f"{request.fixturename} needs a fixture named `hub` that returns the Hub of your application; define it in "
            "conftest.py"
        )
    return hub


@pytest.fixture
def live_hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    """The hub, running: in a thread of its own, unless the application or the test runs it already."""
    from analytics_hub.testing import run_hub

    hub = _find_hub(request)
    if hub.is_open:
        yield hub
    else:
        with run_hub(hub):
            yield hub


@pytest.fixture
def live_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Awaitable[LiveClient]]]:
    """`received = await live_client("alerts")`: a subscriber, for async tests."""
    from analytics_hub.testing import subscribe

    hub = _find_hub(request)
    clients: list[LiveClient] = []

    async def connect(*channels: Any, **options: Any) -> LiveClient:
        clients.append(await subscribe(hub, *channels, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.leave()


@pytest.fixture
def blocking_live_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., BlockingLiveClient]]:
    """`received = blocking_live_client("alerts")`: a subscriber, for tests without an event loop."""
    from analytics_hub.testing import subscribe_blocking

    hub = _find_hub(request)
    clients: list[BlockingLiveClient] = []

    def connect(*channels: Any, **options: Any) -> BlockingLiveClient:
        clients.append(subscribe_blocking(hub, *channels, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.leave()


@pytest.fixture
def published(request: pytest.FixtureRequest) -> Iterator[Published]:
    """What the test publishes, whether the hub runs or not."""
    from analytics_hub.testing import record

    with record(_find_hub(request)) as recorded:
        yield recorded


@pytest.fixture
def assert_published(published: Published) -> Callable[..., list[PublishedItem]]:
    """`assert_published("alerts", {"id": 7})`."""
    return published.assert_published


@pytest.fixture
def manual_clock(request: pytest.FixtureRequest) -> Iterator[ManualClock]:
    """The clock of the hub, which stands still until `advance` is called. Ask for it before what runs the hub."""
    from analytics_hub.testing import ManualClock

    clock = ManualClock()
    with clock.installed(_find_hub(request)):
        yield clock
