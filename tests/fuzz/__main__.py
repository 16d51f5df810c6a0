"""`python -m tests.fuzz`. What it runs is elsewhere, because processes that are spawned cannot import this module."""

from __future__ import annotations

import sys

from .hunt import main

if __name__ == "__main__":
    sys.exit(main())
