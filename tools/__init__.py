"""Commands for those who work on the project: pages that are generated, and checks that need a network."""
