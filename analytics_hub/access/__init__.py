"""What the hub does with the credentials, addresses and roles of its clients."""

from .access import Access
from .revocation import Revocation

__all__ = ["Access", "Revocation"]
