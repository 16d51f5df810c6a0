"""Django Channels: the hub beside your consumers, and a sync view that publishes. In one file for brevity.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); uvicorn channels_app:application
"""

import os
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path, re_path

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp

secret = os.environ["ANALYTICS_HUB_SECRET"]
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=secret, ALLOWED_HOSTS=["127.0.0.1", "localhost"])
authenticate = JWTAuthenticator(secret, algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)


def book(request: HttpRequest) -> JsonResponse:
    trade = {"symbol": request.GET["symbol"], "amount": 1_000_000}
    hub.publish("trades", trade)
    return JsonResponse(trade, status=201)


urlpatterns = [path("trades", book)]
hub_app = HubApp(hub)
hub_routes: Any = re_path(r"^hub/", hub_app)
django_routes: Any = re_path(r"", get_asgi_application())
http = URLRouter([hub_routes, django_routes])
application = ProtocolTypeRouter({"lifespan": hub_app, "websocket": URLRouter([hub_routes]), "http": http})
