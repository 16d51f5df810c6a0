"""The servers that are compared, each a process of its own that obeys lines (`protocol/control_items.py`)."""
