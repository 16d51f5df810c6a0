"""What all connections of one WebSocket server share."""

from __future__ import annotations

import socket
from typing import Final

import anyio.abc

from ...contracts import Gateway
from ...exceptions import HubError
from ...http import Request, Respond, Response
from .._http.endpoints import Endpoints
from .._origins import Origins
from .._refusal import refusal_headers
from .._sockets.limits import Limits
from .._sockets.loop import SelectorLoop
from .._sockets.server import Registry
from ..tls import Security
from .deflate import Compression, Deflater
from .frames import Decoder, FrameWire
from .handshake import Upgrade
from .http11 import Exchange
from .request import HTTPConnection

SPARE_DECODERS: Final = 64
"""Decoders kept for the next message of whoever sends one."""


class Server(Registry):
    """The registry and the rules of one `serve`."""

    limits: Limits

    def __init__(
        self,
        gateway: Gateway,
        loop: SelectorLoop,
        group: anyio.abc.TaskGroup,
        *,
        path: str,
        respond: Respond | None,
        ssl_context: Security | None,
        origins: Origins,
        endpoints: Endpoints | None,
        limits: Limits,
        compression: Compression | None,
    ) -> None:
        super().__init__(gateway, loop, group, ssl_context=ssl_context, limits=limits)
        self.path = path
        self.origins = origins
        self.endpoints = endpoints
        self.held = 0
        """Bytes of the requests that are not answered yet."""
        self.compression = compression
        self._respond = respond
        self._wires: dict[tuple[str, int | None], FrameWire] = {}
        self._decoders: list[Decoder] = []

    def welcome(self, sock: socket.socket, address: object) -> None:
        HTTPConnection(self, sock, address)

    def rebuff(self, error: HubError) -> bytes:
        response = Response(error.http_status, f"{error.public_message}\n".encode(), headers=refusal_headers(error))
        return Exchange().answer(response)

    def respond(self, request: Request) -> Response | None:
        return None if self._respond is None else self._respond(request)

    def find_wire(self, upgrade: Upgrade) -> FrameWire:
        """The one wire of all who agreed on the same, so that they share frames."""
        agreed = (upgrade.format.name, upgrade.window)
        if (wire := self._wires.get(agreed)) is None:
            deflater = Deflater(self.compression, upgrade.window) if self.compression and upgrade.window else None
            wire = self._wires[agreed] = FrameWire(upgrade.format, deflater)
        return wire

    # --- decoders ---

    def lend_decoder(self, inflates: bool) -> Decoder:
        """A decoder for one client until it is idle; reused, as each is a cycle that only the collector frees."""
        if not self._decoders:
            return Decoder(self.limits.max_message, self.limits.max_fragments, inflates=inflates)
        decoder = self._decoders.pop()
        decoder.inflates = inflates
        return decoder

    def keep_decoder(self, decoder: Decoder) -> None:
        """Take back one that was lent and is idle."""
        if len(self._decoders) < SPARE_DECODERS:
            self._decoders.append(decoder)
