"""What the `websocket` transport adds to `_sockets`: RFC 6455 by wsproto, and the HTTP that shares its port.

`incoming` serves the request that comes first, with `exchange` (HTTP by h11) and `handshake` (the upgrade);
`connection` is one client, with `frames` and `deflate`; `events` is one that listens to server-sent events.
"""
