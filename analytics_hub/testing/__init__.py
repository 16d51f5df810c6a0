"""For tests of an application: a manual clock, subscribers without sockets, a record of what was published.

`docs/testing.md` shows them in several test frameworks. `pytest_analytics_hub` makes fixtures of them.
"""

from .clock import ManualClock
from .live import BlockingLiveClient, LiveClient, run_hub, subscribe, subscribe_blocking
from .published import Published, PublishedItem, record

__all__ = [
    "BlockingLiveClient",
    "LiveClient",
    "ManualClock",
    "Published",
    "PublishedItem",
    "record",
    "run_hub",
    "subscribe",
    "subscribe_blocking",
]
