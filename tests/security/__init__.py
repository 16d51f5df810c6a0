"""Attacks on real servers: every row of the catalogue in `docs/security.md`, each test named after its row.

A file of tests declares the servers that it attacks::

    environment = targets(*NATIVE)

    def test_h02_silent_connections_time_out(target: Target) -> None: ...

`targets` starts `server.py` in a process of its own and an observer (`observer.py`) in another: once for all files, or
with limits of the file's own (`targets("asyncio", max_clients=20)`) for that file. `target` is that server. After each
test (`environment.py`) its sessions, tasks, descriptors, objects and memory must return to what they were, every
account of the hub must balance, the observer must have lost nothing, received nothing twice and never waited for 1.5 s,
a new client must be served, and the log must have no traceback and no token.

Attackers are blocking sockets (`client.py`). Nothing sleeps: limits that must run out are low (`LOW` in `target.py`),
and tests wait for effects in the server through its reports (`Target.wait_until`, `Target.assert_counted`).
"""
