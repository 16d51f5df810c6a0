"""Journals, which keep the items of durable channels."""
