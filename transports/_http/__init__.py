"""The hub's own HTTP, whoever reads the requests: `_websocket` and `_asgi` hand them to `endpoints`."""
