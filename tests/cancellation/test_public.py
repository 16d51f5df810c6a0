"""Every public operation that waits is swept by a test; this is the list."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from types import FunctionType
from typing import Any, Final

from analytics_hub.contracts import Gateway

from ..project.layout import ROOT
from . import test_asgi, test_authenticators, test_client, test_hub, test_sockets

SWEPT: Final[dict[str, Callable[..., Any]]] = {
    "Certificate.reload_on_hangup": test_authenticators.test_a_certificate_that_is_read_again,
    "Hub.__aenter__": test_hub.test_the_life_of_a_hub,
    "Hub.__aexit__": test_hub.test_the_life_of_a_hub,
    "Gateway.admit": test_hub.test_the_check_of_a_token,
    "Gateway.authenticate": test_hub.test_the_check_of_a_token,
    "Gateway.authorize_publish": test_authenticators.test_the_authorization_of_a_publisher,
    "Hub.publish_confirmed": test_hub.test_a_confirmed_publication,
    "Hub.shutdown": test_hub.test_a_shutdown,
    "HubApp.__call__": test_asgi.test_a_websocket_from_its_connect_to_its_close,
    "HubClient.__aenter__": test_client.test_connecting_and_leaving,
    "HubClient.__aexit__": test_client.test_connecting_and_leaving,
    "HubClient.refresh": test_client.test_subscribing_and_reading,
    "JWKS.run": test_authenticators.test_a_hub_with_keys_of_an_identity_provider,
    "JWTAuthenticator.run": test_authenticators.test_a_token_that_waits_for_its_key,
    "LiveClient.__anext__": test_hub.test_a_subscriber_of_a_test,
    "LiveClient.next": test_hub.test_a_subscriber_of_a_test,
    "MemoryClient.__anext__": test_hub.test_a_subscriber,
    "MemoryJournal.append": test_hub.test_a_journal_in_memory,
    "MemoryJournal.open": test_hub.test_a_journal_in_memory,
    "MemoryJournal.read": test_hub.test_a_journal_in_memory,
    "SessionAuthenticator.__call__": test_authenticators.test_a_hub_with_keys_of_an_identity_provider,
    "SessionAuthenticator.run": test_authenticators.test_a_hub_with_keys_of_an_identity_provider,
    "Subscription.__aenter__": test_client.test_subscribing_and_reading,
    "Subscription.__aexit__": test_client.test_subscribing_and_reading,
    "Subscription.__anext__": test_client.test_subscribing_and_reading,
    "WithLifespan.__call__": test_asgi.test_the_first_request_of_a_server_without_a_lifespan,
    "connect": test_hub.test_a_connection,
    "serve": test_sockets.test_websocket,
    "shutdown_hub": test_hub.test_the_shutdown_of_the_hub_of_the_process,
    "subscribe": test_hub.test_a_subscriber,
}

# The modules that users import: those that the pages and the examples import, and those that they mention.
PAGES: Final = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.py")]
MENTIONED: Final = {
    "analytics_hub.contracts",
    "analytics_hub.journals.memory",
    "analytics_hub.testing",
    "analytics_hub.trading",
    "analytics_hub.transports.memory",
    "analytics_hub.transports.tcp",
}
OURS: Final = re.compile(r"^\s*(?:from|import) (analytics_hub[\w.]*)", re.MULTILINE)
SPECIAL: Final = ("__aenter__", "__aexit__", "__anext__", "__call__")


def public_modules() -> set[str]:
    return MENTIONED.union(*(OURS.findall(page.read_text()) for page in PAGES))


def waits(thing: object) -> bool:
    function = inspect.unwrap(thing) if isinstance(thing, FunctionType) else thing
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def waiting_names(module: str) -> Iterator[str]:
    """The functions of a module, and the methods of its classes, that wait."""
    content = vars(import_module(module))
    ours = [name for name, thing in content.items() if getattr(thing, "__module__", None) == module and name[0] != "_"]
    for name in content.get("__all__", ours):
        thing = content[name]
        if not inspect.isclass(thing):
            if waits(thing):
                yield name
        elif thing is Gateway or not getattr(thing, "_is_protocol", False):
            methods = inspect.getmembers(thing, waits)
            yield from (f"{name}.{method}" for method, _ in methods if method[0] != "_" or method in SPECIAL)


def test_every_public_operation_that_waits_is_swept() -> None:
    found = {name for module in public_modules() for name in waiting_names(module)}

    assert found == SWEPT.keys()
