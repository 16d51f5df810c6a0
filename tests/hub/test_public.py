"""The public names of a hub: a new one must be added here too, so that it is a decision."""

from __future__ import annotations

import inspect

from analytics_hub.contracts import Gateway
from analytics_hub.hub.gateway import HubGateway

from .rig import new_hub

HUB = {
    *("node", "channels", "gateway"),
    *("publish", "publish_confirmed", "delete", "demand"),
    *("revoke", "set_roles", "apply_revocation", "reauthorize", "issue_ticket"),
    *("is_open", "is_draining", "shutdown"),
    *("statistics", "sessions", "ledger"),
    "wake",  # for `testing.ManualClock`
}
FOR_THE_HUB = {
    *("begin", "attach", "wake", "check_token", "ask_authorize", "context_of", "session_ended", "set_roles"),
    "reauthorize",
}
"""What `Hub` and its driver call on a `HubGateway` that transports do not see."""


def public_names(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_a_hub_has_the_public_names_of_an_application() -> None:
    assert public_names(new_hub()) == HUB


def test_the_gateway_of_a_hub_has_the_names_of_the_protocol() -> None:
    gateway = new_hub().gateway
    contract = public_names(Gateway) | set(inspect.get_annotations(Gateway))

    assert isinstance(gateway, HubGateway)
    assert public_names(gateway) == contract | FOR_THE_HUB
