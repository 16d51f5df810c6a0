"""The parts of the `asgi` transport.

From the outside in: `scope` reads the scope of a connection; `websocket` admits WebSockets, `http` answers requests and
begins event streams, `lifespan` starts and ends the hub, `host_server` knows the server and `server_watch` closes the
clients when it stops; `client` is one client, with a `sender` that runs the server's `send` (`sender_asyncio` with a
`borrowed_task`, or `sender_trio`), `window` (the frames that it has not confirmed) and `messages` (frames as messages);
`app_state` is shared by all of them.
"""
