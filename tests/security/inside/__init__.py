"""Faults inside the process: callbacks that call the hub, hooks that fail, clocks that jump, memory that runs out.

The rows C of the catalogue in `docs/security.md`, and those of D and R that need no socket. Each test is named after
its row.
"""
