"""What the `websocket` transport adds to `_sockets`: RFC 6455 by wsproto, and the HTTP on the same port.

`request` serves the first request, with `http11` (by h11) and `handshake` (the upgrade). It becomes a WebSocket
(`protocol`, with `frames` and `deflate`), or a stream of server-sent events (`event_stream`).
"""
