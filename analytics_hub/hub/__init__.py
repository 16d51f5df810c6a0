"""What an application holds, and the task that drives the engine for it."""

from .hub import Hub, HubStatistics

__all__ = ["Hub", "HubStatistics"]
