"""Attacks on real servers: every row of the catalogue in `docs/security.md`, each test named after its row.

A file of tests says which servers it attacks::

    house = targets(*NATIVE)

    def test_h02_silence_is_ended(target: Target) -> None: ...

`targets` starts `tests/security/server.py` in a process of its own and a witness (`witness.py`) in another: once for
all files, or with limits of the file's own (`targets("asyncio", max_clients=20)`) for that file. `target` is that
server. After each test (`watch.py`) its sessions, tasks, descriptors, objects and memory must return to what they were,
every account of the hub must balance, the witness must have lost nothing, got nothing twice and not waited for 1.5 s,
a newcomer must be served, and the log must show no traceback and no token.

Attackers are plain sockets (`attack.py`). Nothing sleeps: a limit that has to run out is low (`LOW` in `target.py`),
and what takes time on the server is waited for on its control port (`Target.wait_until`, `Target.wait_counted`).
"""
