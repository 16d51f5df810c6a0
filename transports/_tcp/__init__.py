"""What the `tcp` transport adds to `_sockets`: one client, and its lines."""
