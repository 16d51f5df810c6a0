"""Fuzzing: every parser of bytes from a peer, with inputs from hypothesis, or from atheris where it is installed."""
