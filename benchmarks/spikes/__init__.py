"""Measurements behind decisions, kept so that they can be repeated."""
