"""The hub's own HTTP, independent of the server: `_websocket` and `_asgi` pass requests to `endpoints`."""
