"""Commands for developers: generated pages, and checks that need a network."""
