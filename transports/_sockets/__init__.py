"""What the native transports share: one selector for all sockets, and the life of a connection.

From the outside in: `serve` runs a server; `poller` and `loop` wait and call; `listening` binds and `listener` accepts;
`server` has what all connections share; `connection` is one socket, with `tls` on it. A connection has a `protocol`:
`pending` until the peer is admitted, `session` afterwards. None of them knows WebSocket, HTTP or lines.
"""
