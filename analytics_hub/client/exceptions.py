"""Exceptions of the client, in addition to those of the package (`analytics_hub.exceptions`)."""

from __future__ import annotations

from ..exceptions import AuthenticationError, HubError, TokenFault


class ClientClosed(HubError):
    """The client or the subscription is closed, or the client has not been entered yet."""


class ConnectionClosed(HubError):
    """The server closed the connection with `code`. An application gets it if reconnecting would end the same way."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class HandshakeRefused(HubError):
    """The server answered the handshake with an HTTP `status` other than 101."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class TokenRefused(AuthenticationError):
    """The server rejected the token, and there is no other one."""

    def __init__(self, message: str, fault: TokenFault) -> None:
        super().__init__(fault, message)
        self.args = (message,)


class NotAHub(HubError):
    """The server does not speak this protocol."""


class ConnectFailed(HubError):
    """The connection could not be established, and another attempt would fail the same way."""


class ConnectionLost(HubError):
    """A connection could not be established or ended without a close code. The client handles it and reconnects."""


class RequestFailed(HubError):
    """The hub could not be reached over HTTP, or its answer is unusable.

    `is_uncertain`: the hub may have carried out the request nevertheless. `is_transient`: another attempt may succeed.
    """

    def __init__(self, message: str, *, is_uncertain: bool, is_transient: bool = True) -> None:
        super().__init__(message)
        self.is_uncertain = is_uncertain
        self.is_transient = is_transient


class PublishFailed(RequestFailed):
    """Items could not be published; if `is_uncertain`, the hub may have received them nevertheless."""
