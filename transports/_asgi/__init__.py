"""What the `asgi` transport is made of.

From the outside in: `scope` reads what the server says; `entry` lets WebSockets in, `http` answers requests and begins
event streams, `lifespan` starts and ends the hub; `client` is one client, with `sending` (who runs the server's `send`;
`courier` on asyncio, `trio` there), `window` (what a client has not confirmed) and `messages` (frames as messages);
`desk` is what all of them share.
"""
