"""The demo: a simulated back office, or the user's own feed, published into a hub.

`office.BackOffice` yields events, `driver.run` publishes them at a rate, `feed.publish_feed` publishes lines of JSON.
"""

from __future__ import annotations
