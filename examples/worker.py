"""A worker process (a Celery task, a cron job, a notebook) that publishes to a hub in another process, over HTTP.

export HUB_URL=http://127.0.0.1:8000/hub HUB_TOKEN=$(analytics-hub token --sub nightly --role worker); python worker.py
"""

import os

from analytics_hub.client import HubPublisher

hub = HubPublisher(os.environ["HUB_URL"], os.environ["HUB_TOKEN"], attempts=5)


def book_trades(symbols: list[str]) -> None:
    """In Celery, decorate it with `@shared_task`."""
    for symbol in symbols:
        hub.publish("trades", {"symbol": symbol, "amount": 1_000_000})


if __name__ == "__main__":
    book_trades(["EURUSD", "GBPUSD"])
