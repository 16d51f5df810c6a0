"""The AsyncAPI document that describes the declared channels to tools and clients."""

from .document import describe

__all__ = ["describe"]
