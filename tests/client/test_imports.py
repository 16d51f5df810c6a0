"""The client does not depend on the server."""

from __future__ import annotations

from ..project.test_imports import FILES, IMPORTS, part_of


def test_no_module_of_the_client_needs_the_engine_or_the_hub() -> None:
    """In the graph of modules: the package itself imports the hub, for applications that have one."""
    needed: set[str] = set()
    queue = [module for module in FILES if part_of(module) == "client"]
    while queue:
        module = queue.pop()
        if module not in needed:
            needed.add(module)
            queue += [each.imported for each in IMPORTS if each.importer == module and each.at_runtime]

    assert "analytics_hub.core.engine" not in needed
    assert {part_of(module) for module in needed & FILES.keys()}.isdisjoint({"access", "auth", "hub", "transports"})
