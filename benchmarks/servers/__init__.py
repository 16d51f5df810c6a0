"""The compared servers, each a process of its own that executes commands in lines (`control.py`)."""
