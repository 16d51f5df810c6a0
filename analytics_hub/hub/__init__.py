"""What an application holds, and the task that drives the engine for it."""

from ..core.statistics import Demand
from .hub import Hub, HubStatistics

__all__ = ["Demand", "Hub", "HubStatistics"]
