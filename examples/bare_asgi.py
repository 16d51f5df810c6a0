"""The hub as an ASGI application of its own: services publish to it over HTTP.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); uvicorn bare_asgi:app
"""

import os

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp

# Any valid token may subscribe; a token with the role `worker` may publish with `POST /publish`.
authenticate = JWTAuthenticator(os.environ["ANALYTICS_HUB_SECRET"], algorithms=["HS256"])
app = HubApp(Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate))
