"""Clients of a hub: `HubClient` follows channels on asyncio or Trio, `HubPublisher` publishes over HTTP.

`docs/client.md` shows both in use.
"""

from ..protocol import Position
from .exceptions import (
    ClientClosed,
    ConnectFailed,
    ConnectionClosed,
    HandshakeRefused,
    NotAHub,
    PublishFailed,
    TokenRefused,
)
from .hub_client import HubClient
from .publisher import HubPublisher
from .subscription import Subscription
from .values import CommandFailed, Connected, Disconnected, Draining, Epochs, Event, Gap, Item, Resumed

__all__ = [
    "ClientClosed",
    "CommandFailed",
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
