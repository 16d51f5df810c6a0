"""Live analytics, pushed from Python applications to dashboards.

An application enters a `Hub` and publishes to the channels it declared; a transport (`analytics_hub.transports`) serves
the subscribers. `docs/design.md` explains how it works inside.
"""

from importlib.metadata import PackageNotFoundError, version

from .access import Revocation
from .channels import Channel
from .contracts import Action, Handshake, Receipt, anonymous, cheap
from .exceptions import (
    AuthenticationError,
    ChannelLimitReached,
    HubClosed,
    HubError,
    HubOverloaded,
    InvalidChannel,
    InvalidItem,
    ItemTooLarge,
    JournalError,
    Overloaded,
    PermissionDenied,
    TableFull,
    TooManyRequests,
    UnknownChannel,
)
from .hub import Demand, Hub, HubStatistics
from .identity import Identity
from .tuning import Tuning

try:
    __version__ = version("analytics-hub")
except PackageNotFoundError:  # pragma: no cover - a checkout that was never installed
    __version__ = "0"

__all__ = [
    "Action",
    "AuthenticationError",
    "Channel",
    "ChannelLimitReached",
    "Demand",
    "Handshake",
    "Hub",
    "HubClosed",
    "HubError",
    "HubOverloaded",
    "HubStatistics",
    "Identity",
    "InvalidChannel",
    "InvalidItem",
    "ItemTooLarge",
    "JournalError",
    "Overloaded",
    "PermissionDenied",
    "Receipt",
    "Revocation",
    "TableFull",
    "TooManyRequests",
    "Tuning",
    "UnknownChannel",
    "anonymous",
    "cheap",
]
