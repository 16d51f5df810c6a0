"""Fuzzing in process: every parser that meets a stranger's bytes, fed with mutated ones."""
