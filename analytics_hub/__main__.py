"""`python -m analytics_hub` is the command `analytics-hub`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
