"""A client of a hub in Python: `HubClient` follows channels on asyncio or Trio, `HubPublisher` publishes from anywhere.

`docs/client.md` shows both at work.
"""

from ..protocol import Position
from .exceptions import ClientClosed, ConnectFailed, ConnectionClosed, HandshakeRefused, NotAHub, TokenRefused
from .hub_client import HubClient
from .publisher import HubPublisher, PublishFailed
from .subscription import Subscription
from .values import Complaint, Connected, Disconnected, Draining, Epochs, Event, Gap, Item, Resumed

__all__ = [
    "ClientClosed",
    "Complaint",
    "ConnectFailed",
    "Connected",
    "ConnectionClosed",
    "Disconnected",
    "Draining",
    "Epochs",
    "Event",
    "Gap",
    "HandshakeRefused",
    "HubClient",
    "HubPublisher",
    "Item",
    "NotAHub",
    "Position",
    "PublishFailed",
    "Resumed",
    "Subscription",
    "TokenRefused",
]
