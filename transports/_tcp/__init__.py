"""What the `tcp` transport adds to `_sockets`: its connections, and their lines."""
