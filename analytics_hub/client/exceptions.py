"""What a client raises besides the exceptions of the package (`analytics_hub.exceptions`)."""

from __future__ import annotations

from ..exceptions import AuthenticationError, HubError, TokenFault


class ClientClosed(HubError):
    """The client or the subscription was left, or the client not entered yet."""


class ConnectionClosed(HubError):
    """The connection has ended for good: the same again would end the same. `code` is the server's close code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class HandshakeRefused(HubError):
    """Whatever answers there answered with an HTTP `status` instead of a connection."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class TokenRefused(AuthenticationError):
    """The server wants another token, and there is none."""

    def __init__(self, sentence: str, fault: TokenFault) -> None:
        super().__init__(fault, sentence)
        self.args = (sentence,)


class NotAHub(HubError):
    """Whatever answers there does not speak this protocol."""


class ConnectFailed(HubError):
    """There was no connection, and the next attempt would fail the same way."""


class Closed(HubError):
    """A connection was closed with a code; what that means is decided elsewhere."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Lost(HubError):
    """A connection did not come about, or has ended without a word."""
