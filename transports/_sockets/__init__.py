"""What the native transports have in common: one selector for all sockets, and the life of a connection.

From the outside in: `serving` is the life of one `serve`; `poller` and `selector` wait and call; `listener` accepts;
`stream` is one socket, `outlet` the half of it that writes, `tls` what may stand in front of it; `registry`, `newcomer`
and `client` are the server, a peer before it is let in, and one that was. None of them knows WebSocket, HTTP or lines.
"""
