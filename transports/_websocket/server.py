"""What all connections of one WebSocket server share."""

from __future__ import annotations

from typing import Final

import anyio.abc

from ...contracts import Gateway
from ...core.session import Session
from ...exceptions import HubError
from ...http import Respond
from .._http.endpoints import Endpoints
from .._origins import Origins
from .._refusal import refusal_text
from .._sockets.limits import Limits
from .._sockets.loop import SelectorLoop
from .._sockets.server import ProtocolFactory, Server
from ..tls import Security
from .deflate import Compression, Deflater
from .frames import Decoder, FrameWire
from .handshake import Upgrade
from .http11 import Exchange

SPARE_DECODERS: Final = 64
"""Idle decoders that are kept for the next messages."""


class WebSocketServer(Server):
    """The rules of one `serve`."""

    limits: Limits

    def __init__(
        self,
        gateway: Gateway,
        loop: SelectorLoop,
        group: anyio.abc.TaskGroup,
        protocol_factory: ProtocolFactory,
        *,
        path: str,
        respond: Respond | None,
        ssl_context: Security | None,
        origins: Origins,
        endpoints: Endpoints | None,
        limits: Limits,
        compression: Compression | None,
    ) -> None:
        super().__init__(gateway, loop, group, protocol_factory, ssl_context=ssl_context, limits=limits)
        self.path = path
        self.origins = origins
        self.endpoints = endpoints
        self.compression = compression
        self.held = 0
        """Bytes of the requests that are not answered yet."""
        self.respond = respond
        self._headers: dict[Session, int] = {}
        """Bytes of the headers that the hub keeps for sessions without a token, for the check of their first one."""
        self._wires: dict[tuple[str, int | None], FrameWire] = {}
        self._decoders: list[Decoder] = []

    def headers_kept(self, session: Session, size: int) -> None:
        """The hub keeps `size` bytes of headers until the session has an identity, or has ended."""
        self._headers[session] = size

    def buffered(self) -> int:
        for session in [session for session in self._headers if session.identity is not None or session.is_closed]:
            del self._headers[session]
        return super().buffered() + sum(self._headers.values())

    def session_ended(self, session: Session) -> None:
        self._headers.pop(session, None)

    def encode_refusal(self, error: HubError) -> bytes:
        return Exchange().answer(refusal_text(error))

    def find_wire(self, upgrade: Upgrade) -> FrameWire:
        """The one wire of all clients with the same format and compression, so that they share frames."""
        key = (upgrade.format.name, upgrade.window)
        if (wire := self._wires.get(key)) is None:
            deflater = Deflater(self.compression, upgrade.window) if self.compression and upgrade.window else None
            wire = self._wires[key] = FrameWire(upgrade.format, deflater)
        return wire

    # --- decoders

    def acquire_decoder(self, inflates: bool) -> Decoder:
        """A decoder for one client until it is idle; reused, as each is a cycle that only the collector frees."""
        if not self._decoders:
            return Decoder(self.limits.max_message, self.limits.max_fragments, inflates=inflates)
        decoder = self._decoders.pop()
        decoder.inflates = inflates
        return decoder

    def release_decoder(self, decoder: Decoder) -> None:
        """Take back a decoder that is idle."""
        if len(self._decoders) < SPARE_DECODERS:
            self._decoders.append(decoder)
