"""What goes wrong inside the process: callbacks that call back, hooks that fail, clocks that jump, memory that is out.

The rows C of the catalogue in `docs/security.md`, and those of D and R that need no socket. Each test is named after
its row.
"""
