"""The same with the standard library only, as in any other language.

export HUB_URL=http://127.0.0.1:8000/hub HUB_TOKEN=$(analytics-hub token --sub nightly --role worker)
python worker_stdlib.py
"""

import json
import os
import urllib.request

items = [{"channel": "trades", "data": {"symbol": symbol}} for symbol in ("EURUSD", "GBPUSD")]
headers = {"Authorization": f"Bearer {os.environ['HUB_TOKEN']}", "Content-Type": "application/json"}
request = urllib.request.Request(f"{os.environ['HUB_URL']}/publish", json.dumps(items).encode(), headers)
with urllib.request.urlopen(request) as answer:
    print(answer.read().decode())
