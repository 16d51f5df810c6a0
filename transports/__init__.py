"""The transports: how bytes get from the hub to clients and back. Each is a module that one imports by its name."""
