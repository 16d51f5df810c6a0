"""Every example under every server that it supports: real processes, real clients, and a table of the results."""
