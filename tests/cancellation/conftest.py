from __future__ import annotations

from ..transports.conftest import certificate, client_side, server_side

__all__ = ["certificate", "client_side", "server_side"]
