"""The demo: a simulated back office, or a file of the user's own events, published through a hub.

`office.BackOffice` generates events, `pacing.publish_events` publishes them at a rate, `feed.publish_feed` publishes
lines of JSON.
"""

from __future__ import annotations
