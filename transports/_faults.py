"""How transports report a fault of the application's `respond`."""

from __future__ import annotations

from ..contracts import Gateway
from ..faults import describe_fault, secrets_of_request
from ..http import Request, Respond, Response


def note_respond_fault(
    gateway: Gateway,
    error: Exception,
    respond: Respond | None,
    request: Request | None = None,
    response: Response | None = None,
) -> None:
    """Count and log that `respond` raised, or that its `response` cannot be sent; without what is confidential."""
    secrets = [] if request is None else secrets_of_request(request.headers, request.query)
    if response is not None:
        secrets += [value for _, value in response.headers if isinstance(value, str)]  # h11 quotes an invalid value
    gateway.note("respond-fault", "respond failed: %s", describe_fault(error, respond, secrets=secrets))
